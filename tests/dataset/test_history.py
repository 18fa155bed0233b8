"""Histories against loops over the raw rows."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from batches import raw_splits, whole

from recexp.dataset.batch import Batches
from recexp.dataset.config import DatasetConfig, HistoryKind, HistoryUntil, SplitKind
from recexp.dataset.log import SPLITS
from recexp.dataset.prepare import prepare
from recexp.dataset.raw import Raw

MakeConfig = Callable[..., DatasetConfig]
MakeRaw = Callable[..., Raw]


def history_of(raw: Raw, row: int, allowed: np.ndarray, longest: int) -> list[tuple[int, float]]:
    """(item, label) of the row's history: by looking at every row."""
    assert raw.user is not None and raw.item is not None and raw.timestamp is not None
    earlier = [
        other
        for other in range(len(raw.label))
        if raw.user[other] == raw.user[row] and raw.timestamp[other] < raw.timestamp[row] and allowed[other]
    ]
    earlier.sort(key=lambda other: (raw.timestamp[other], other))
    return [(int(raw.item[other]), float(raw.label[other])) for other in earlier[-longest:]]


def assert_histories(raw: Raw, config: DatasetConfig) -> int:
    """Returns the longest history met."""
    dataset = prepare(raw, config)
    batches, log, splits = Batches(dataset, config), dataset.log, raw_splits(dataset)
    assert raw.user is not None and raw.item is not None
    longest = 0
    for split in SPLITS:
        allowed = np.ones(len(splits), bool) if config.history is HistoryKind.all else raw.label == 1
        if split == "train" or config.history_until is HistoryUntil.split:
            allowed = allowed & (splits == 0)
        batch = whole(batches, split)
        rows = log.row[log.rows(split)]
        lengths = []
        for place, row in enumerate(rows):
            history = history_of(raw, row, allowed, config.max_history)
            items = log.items.raw[batch.history[place].numpy()]
            found = list(zip(items, batch.history_label[place].tolist(), strict=True))
            assert found[: len(history)] == history
            padding = len(found) - len(history)
            assert batch.mask[place].tolist() == [True] * len(history) + [False] * padding
            assert batch.history[place, len(history) :].tolist() == [0] * padding
            assert batch.history_label[place, len(history) :].tolist() == [0] * padding
            assert log.users.raw[batch.user[place]] == raw.user[row]
            assert log.items.raw[batch.target[place]] == raw.item[row]
            assert batch.label[place] == raw.label[row]
            lengths.append(len(history))
        assert batch.history.shape[1] == max(lengths)
        longest = max(longest, *lengths)
    return longest


@pytest.mark.parametrize("until", HistoryUntil)
@pytest.mark.parametrize("history", HistoryKind)
@pytest.mark.parametrize("kind", SplitKind)
def test_history_is_what_the_user_did_strictly_before(
    kind: SplitKind, history: HistoryKind, until: HistoryUntil, tiny_config: MakeConfig, tiny_log: MakeRaw
) -> None:
    for seed in range(3):
        config = tiny_config(kind, history=history, history_until=until)
        assert assert_histories(tiny_log(seed), config) == 4


@pytest.mark.parametrize("kind", SplitKind)
def test_until_the_split_a_held_out_row_sees_no_event_that_does_not_train(
    kind: SplitKind, tiny_config: MakeConfig, tiny_log: MakeRaw
) -> None:
    """Other labels and times of valid and test change no history; until the target they do."""
    raw = tiny_log(2)
    changed = {}
    for until in HistoryUntil:
        config = tiny_config(kind, history_until=until, max_history=50)
        dataset = prepare(raw, config)
        later = raw_splits(dataset) > 0
        other = prepare(replace(raw, label=np.where(later, 1 - raw.label, raw.label)), config)
        batches = [[whole(Batches(each, config), split) for split in SPLITS] for each in (dataset, other)]
        changed[until] = any(
            not torch.equal(getattr(before, name), getattr(after, name))
            for before, after in zip(*batches, strict=True)
            for name in ("history", "history_label", "history_age", "mask")
        )
    assert changed == {HistoryUntil.target: True, HistoryUntil.split: False}


@pytest.mark.parametrize("max_history", [1, 3, 500])
@pytest.mark.parametrize("n_times", [2, 10, 1000])
def test_history_holds_at_any_density_of_ties_and_any_length(
    n_times: int, max_history: int, tiny_config: MakeConfig, tiny_log: MakeRaw
) -> None:
    for seed in range(2):
        assert_histories(tiny_log(seed, n_times=n_times), tiny_config(SplitKind.given, max_history=max_history))


def test_times_may_be_fractions(tiny_config: MakeConfig, tiny_log: MakeRaw) -> None:
    raw = tiny_log()
    assert raw.timestamp is not None
    assert_histories(replace(raw, timestamp=raw.timestamp / 7 - 2), tiny_config())


def test_a_batch_is_as_long_as_its_longest_history(tiny_config: MakeConfig, tiny_log: MakeRaw) -> None:
    config = tiny_config(max_history=500)
    batches = Batches(prepare(tiny_log(), config), config)
    lengths = whole(batches, "train").mask.sum(1)
    for size in (1, 3):
        shapes = [tuple(batch.history.shape) for batch in batches.epoch("train", size)]
        assert shapes == [(len(chunk), int(chunk.max())) for chunk in lengths.split(size)]
    assert (lengths == 0).any()


def test_without_any_liked_event_all_histories_are_empty(tiny_config: MakeConfig, tiny_log: MakeRaw) -> None:
    config = tiny_config(history=HistoryKind.liked)
    raw = tiny_log()
    batch = whole(Batches(prepare(replace(raw, label=np.zeros(len(raw.label))), config), config), "test")
    assert batch.history.shape == batch.mask.shape == (len(batch), 0)


def test_splits_are_chronological_unless_an_event_sees_a_later_split(
    tiny_config: MakeConfig, tiny_log: MakeRaw
) -> None:
    def chronological(time: list[int], split: list[str], user: list[int]) -> bool:
        rows, columns = np.arange(len(time)), {"timestamp": time, "split": split, "user": user}
        arrays = {name: np.array(column) for name, column in columns.items()}
        raw = Raw(origin="", label=rows % 2, item=rows, **arrays)
        return prepare(raw, tiny_config(SplitKind.given, features={})).log.chronological

    assert chronological([1, 2, 3], ["train", "valid", "test"], [1, 1, 1])
    assert chronological([1, 2, 1], ["train", "test", "train"], [1, 1, 2])
    assert not chronological([1, 2, 3], ["train", "test", "valid"], [1, 1, 1])
    assert not chronological([1, 2, 2], ["train", "train", "test"], [1, 1, 1])
    for kind in (SplitKind.user_time, SplitKind.leave_last_out, SplitKind.time):
        assert prepare(tiny_log(), tiny_config(kind)).log.chronological
