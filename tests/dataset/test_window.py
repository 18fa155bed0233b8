"""Windows: every position predicts the next event strictly later in time, against a loop over the events."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from recexp.dataset.batch import Batch, Batches
from recexp.dataset.config import LabelKind, SplitKind
from recexp.dataset.log import Dataset, Log
from recexp.dataset.prepare import prepare
from recexp.dataset.raw import Raw
from recexp.dataset.sample import Samples
from recexp.dataset.schema import FIRST
from recexp.dataset.window import WindowBatch, Windows, packed, ranges

LONGEST = 4


@pytest.fixture
def windows(tiny_config: Callable, tiny_log: Callable) -> Callable[..., tuple[Dataset, Windows]]:
    def windows(raw: Raw | None = None, **options) -> tuple[Dataset, Windows]:
        config = tiny_config(label=LabelKind.implicit, max_history=LONGEST, features={}, **options)
        dataset = prepare(raw or tiny_log(), config)
        return dataset, Windows(Batches(dataset, config))

    return windows


def pairs_of(log: Log, longest: int) -> dict[int, list[tuple[tuple[int, ...], int]]]:
    """By user, the input and the item of each target: by loops, from the rule."""
    found: dict[int, list[tuple[tuple[int, ...], int]]] = {}
    for user in range(1, len(log.users.raw)):
        rows = [row for row in np.flatnonzero(log.user == user) if log.split[row] == 0]
        earlier = [row for row in rows if log.timestamp[row] < log.timestamp[rows[-1]]] if rows else []
        window = earlier[-longest:]
        for row in rows:
            before = [other for other in window if log.timestamp[other] < log.timestamp[row]]
            if before and row not in rows[: rows.index(window[0])]:
                found.setdefault(user, []).append((tuple(log.item[before]), log.item[row]))
    return found


def told(batch: WindowBatch) -> dict[int, list[tuple[tuple[int, ...], int]]]:
    """The same, from a batch: the input of a query is the window up to it."""
    events, found = batch.events, {}
    start = (events.length.cumsum(0) - events.length).tolist()
    for user, first, length in zip(events.user.tolist(), start, events.length.tolist(), strict=True):
        own = [
            (tuple(events.item[first : query + 1].tolist()), target)
            for query, target in zip(batch.query.tolist(), batch.target.tolist(), strict=True)
            if first <= query < first + length
        ]
        found[user] = own
    return found


@pytest.mark.parametrize("kind", [SplitKind.user_time, SplitKind.leave_last_out, SplitKind.random])
def test_targets_and_their_inputs_are_those_of_the_rule(windows: Callable, kind: SplitKind) -> None:
    dataset, made = windows(split=kind)
    expected = pairs_of(dataset.log, LONGEST)
    batch = made.gather(Samples(torch.arange(made.size("train"))))
    assert {user: sorted(pairs) for user, pairs in told(batch).items()} == {
        user: sorted(pairs) for user, pairs in expected.items()
    }
    assert (batch.events.length[1:] <= batch.events.length[:-1]).all()
    assert batch.events.length.max() == LONGEST


def one_user(times: list[int]) -> Raw:
    n = len(times)
    return Raw(origin="one", label=np.ones(n), user=np.zeros(n, int), item=np.arange(n), timestamp=np.array(times))


def test_of_distinct_times_each_event_predicts_the_one_that_follows(windows: Callable) -> None:
    _, made = windows(one_user([1, 2, 3, 4, 5, 6, 7, 8]), split=SplitKind.leave_last_out)
    batch = made.gather(Samples(torch.tensor([0])))
    assert batch.events.item.tolist() == [2, 3, 4, 5]  # 1 to 6 are for training, 6 is predicted alone
    assert batch.query.tolist() == [0, 1, 2, 3] and batch.target.tolist() == [3, 4, 5, 6]
    assert (made.n_targets, made.n_tied) == (5, 0)


def test_tie_mates_share_their_input_and_are_counted(windows: Callable) -> None:
    _, made = windows(one_user([1, 2, 2, 2, 3, 4, 5]), split=SplitKind.leave_last_out)
    batch = made.gather(Samples(torch.tensor([0])))
    assert batch.events.item.tolist() == [1, 2, 3, 4]
    assert list(zip(batch.query.tolist(), batch.target.tolist(), strict=True)) == [(0, 2), (0, 3), (0, 4), (3, 5)]
    assert (made.n_targets, made.n_tied) == (4, 2)


def test_whole_windows_have_the_latest_timestamp_too_and_tell_tie_mates(windows: Callable) -> None:
    _, made = windows(one_user([1, 2, 2, 3, 4, 4, 5, 6]), split=SplitKind.leave_last_out)
    whole = made.gather(Samples(torch.tensor([0]))).whole
    assert whole.item.tolist() == [2, 3, 4, 5, 6]  # one more than the longest history
    assert (whole.time[1:] == whole.time[:-1]).tolist() == [True, False, False, True]
    assert whole.window.tolist() == [0] * 5


def test_ids_of_items_and_events_of_a_window_are_counted(windows: Callable) -> None:
    dataset, walked = windows()
    batch = walked.gather(Samples(torch.arange(walked.size("train"))))
    assert walked.n_events == math.ceil(len(batch.events.item) / len(batch))
    assert batch.catalogue.n_known == dataset.schema.n_items - FIRST


def test_an_epoch_holds_every_window_once_and_goes_on_where_it_stopped(windows: Callable) -> None:
    _, made = windows()
    order = [samples.row.tolist() for samples in made.samples("train", 3, seed=5)]
    every = [row for rows in order for row in rows]
    assert sorted(every) == list(range(made.size("train"))) != every
    assert len(order) == made.steps("train", 3)
    assert [samples.row.tolist() for samples in made.samples("train", 3, seed=5, skip=2)] == order[2:]


def test_ranges_of_any_lengths() -> None:
    values, of = ranges(torch.tensor([3, 7, 5]), torch.tensor([5, 7, 8]))
    assert values.tolist() == [3, 4, 5, 6, 7] and of.tolist() == [0, 0, 2, 2, 2]


def test_histories_of_a_batch_are_packed_longest_first(mixed: Batch) -> None:
    events, order = packed(mixed)
    start = events.length.cumsum(0) - events.length
    for number, sample in enumerate(order.tolist()):
        own = events.item[start[number] : start[number] + events.length[number]]
        assert torch.equal(own, mixed.history[sample][mixed.mask[sample]])
