"""Batches against loops over the raw rows."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from recexp.config import DatasetConfig, FeatureKind, HistoryKind, LabelKind, SplitKind
from recexp.dataset.batch import Batch, Batches, Samples
from recexp.dataset.log import PARTS, Dataset, in_order
from recexp.dataset.prepare import load, prepare
from recexp.dataset.raw import Raw

MakeConfig = Callable[..., DatasetConfig]
MakeRaw = Callable[..., Raw]


def whole(batches: Batches, part: str, seed: int | None = None) -> Batch:
    return next(batches.epoch(part, 10_000, seed))


def raw_parts(dataset: Dataset) -> np.ndarray:
    assert dataset.log.row is not None
    parts = np.empty(len(dataset.log.row), int)
    parts[dataset.log.row] = dataset.log.part
    return parts


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
    batches, log, parts = Batches(dataset, config), dataset.log, raw_parts(dataset)
    assert log.row is not None and log.raw_item is not None and log.raw_user is not None
    assert raw.user is not None and raw.item is not None
    longest = 0
    for part in PARTS:
        allowed = np.ones(len(parts), bool) if config.history is HistoryKind.all else raw.label == 1
        if part == "train":
            allowed = allowed & (parts == 0)
        batch = whole(batches, part)
        rows = log.row[log.rows(part)]
        lengths = []
        for place, row in enumerate(rows):
            history = history_of(raw, row, allowed, config.max_history)
            items = log.raw_item[batch.history[place].numpy()]
            found = list(zip(items, batch.history_label[place].tolist(), strict=True))
            assert found[: len(history)] == history
            padding = len(found) - len(history)
            assert batch.mask[place].tolist() == [True] * len(history) + [False] * padding
            assert batch.history[place, len(history) :].tolist() == [0] * padding
            assert batch.history_label[place, len(history) :].tolist() == [0] * padding
            assert log.raw_user[batch.user[place]] == raw.user[row]
            assert log.raw_item[batch.target[place]] == raw.item[row]
            assert batch.label[place] == raw.label[row]
            lengths.append(len(history))
        assert batch.history.shape[1] == max(lengths)
        longest = max(longest, *lengths)
    return longest


@pytest.mark.parametrize("history", HistoryKind)
@pytest.mark.parametrize("kind", SplitKind)
def test_history_is_what_the_user_did_strictly_before(
    kind: SplitKind, history: HistoryKind, tiny_config: MakeConfig, tiny_log: MakeRaw
) -> None:
    for seed in range(3):
        assert assert_histories(tiny_log(seed), tiny_config(kind, history=history)) == 4


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
        assert shapes == [(len(part), int(part.max())) for part in lengths.split(size)]
    assert (lengths == 0).any()


def test_without_any_liked_event_all_histories_are_empty(tiny_config: MakeConfig, tiny_log: MakeRaw) -> None:
    config = tiny_config(history=HistoryKind.liked)
    raw = tiny_log()
    batch = whole(Batches(prepare(replace(raw, label=np.zeros(len(raw.label))), config), config), "test")
    assert batch.history.shape == batch.mask.shape == (len(batch), 0)


def test_parts_are_in_order_unless_an_event_sees_a_later_part(tiny_config: MakeConfig, tiny_log: MakeRaw) -> None:
    def ordered(time: list[int], part: list[str], user: list[int]) -> bool:
        rows, columns = np.arange(len(time)), {"timestamp": time, "split": part, "user": user}
        arrays = {name: np.array(column) for name, column in columns.items()}
        raw = Raw(origin="", label=rows % 2, item=rows, **arrays)
        return in_order(prepare(raw, tiny_config(SplitKind.given, features={})).log)

    assert ordered([1, 2, 3], ["train", "valid", "test"], [1, 1, 1])
    assert ordered([1, 2, 1], ["train", "test", "train"], [1, 1, 2])
    assert not ordered([1, 2, 3], ["train", "test", "valid"], [1, 1, 1])
    assert not ordered([1, 2, 2], ["train", "train", "test"], [1, 1, 1])
    for kind in (SplitKind.user_time, SplitKind.leave_last_out, SplitKind.time):
        assert in_order(prepare(tiny_log(), tiny_config(kind)).log)


@pytest.fixture
def batches(tiny_config: MakeConfig, tiny_log: MakeRaw) -> Batches:
    config = tiny_config()
    return Batches(prepare(tiny_log(), config), config)


def rows_of(batch: Batch) -> list[tuple]:
    """Each sample with all its tensors, as something that compares."""
    length = batch.mask.sum(1)
    columns = (batch.label, batch.user, batch.target, batch.context.ids, batch.context.values)
    return [
        (*batch.history[row, : length[row]].tolist(), *batch.history_label[row, : length[row]].tolist(),
         *(value for column in columns for value in column[row].flatten().tolist()))
        for row in range(len(batch))
    ]  # fmt: skip


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
@pytest.mark.parametrize("part", PARTS)
def test_an_epoch_is_every_row_once_whatever_the_batch_size(part: str, size: int, batches: Batches) -> None:
    expected = rows_of(whole(batches, part))
    found = list(batches.epoch(part, size, seed=1))
    assert [len(batch) for batch in found[:-1]] == [size] * (len(found) - 1)
    assert len(found) == batches.steps(part, size)
    assert Counter(row for batch in found for row in rows_of(batch)) == Counter(expected)
    assert [row for batch in batches.epoch(part, size) for row in rows_of(batch)] == expected
    assert len(expected) == batches.size(part) == len(batches.rows[part])


def test_equal_seeds_give_equal_orders_and_other_seeds_others(batches: Batches) -> None:
    one, same, other, unshuffled = (
        [row for batch in batches.epoch("train", 9, seed) for row in rows_of(batch)] for seed in (5, 5, 6, None)
    )
    assert one == same != other
    assert one != unshuffled != other


def test_a_shuffled_batch_has_the_longest_histories_first_and_others_keep_the_order_of_rows(batches: Batches) -> None:
    for batch in batches.epoch("train", 7, seed=3):
        length = batch.mask.sum(1)
        assert (length[1:] <= length[:-1]).all()
    whole = torch.cat([batch.target for batch in batches.epoch("valid", 7)])
    assert torch.equal(whole, batches.log["item"][batches.rows["valid"]].long())


def test_the_order_leaves_the_global_generator_alone(batches: Batches) -> None:
    state = torch.get_rng_state()
    whole(batches, "train", seed=5)
    assert torch.equal(state, torch.get_rng_state())


def test_fields_of_user_item_and_context_are_those_of_the_raw_row(tiny_config: MakeConfig, tiny_log: MakeRaw) -> None:
    raw, config = tiny_log(), tiny_config(SplitKind.given)
    dataset = prepare(replace(raw, split=np.where(np.arange(len(raw.label)) < 150, "train", "test")), config)
    batches, log = Batches(dataset, config), dataset.log
    assert raw.users is not None and raw.items is not None and raw.context is not None and log.row is not None
    batch = whole(batches, "train")
    names: dict[tuple, set] = {}
    for place, row in enumerate(log.row[log.rows("train")]):
        assert raw.user is not None and raw.item is not None
        values = {
            "city": raw.users.loc[raw.user[row], "city"],
            "brand": raw.items.loc[raw.item[row], "brand"],
            "device": raw.context["device"][row],
        }
        ids = {
            "city": batch.catalogue.users.ids[batch.user[place], 1],
            "brand": batch.catalogue.items.ids[batch.target[place], 1],
            "device": batch.context.ids[place, 0],
        }
        for name, value in values.items():
            names.setdefault((name, int(ids[name])), set()).add(value)
    assert all(len(values) == 1 for values in names.values())  # an id stands for one value
    assert len({(name, *values) for (name, _), values in names.items()}) == len(names)  # and a value has one id


@pytest.mark.parametrize("side", ["user", "item", "context"])
def test_counts_are_those_of_a_loop_over_the_training_rows(side: str, batches: Batches) -> None:
    batch = whole(batches, "train")
    expected = [0] * batches.vocabulary[side]
    for row in range(len(batch)):
        ids = {
            "user": batch.catalogue.users.ids[batch.user[row]],
            "item": batch.catalogue.items.ids[batch.target[row]],
            "context": batch.context.ids[row],
        }[side]
        for index in ids.tolist():
            expected[index] += 1
    assert batches.counts(side).tolist() == [max(1, count) for count in expected]


def test_all_training_rows_at_once_come_without_histories(batches: Batches) -> None:
    batch, expected = batches.training(), whole(batches, "train")
    assert batch.history.shape == batch.mask.shape == (len(expected), 0)
    for name in ("label", "user", "target"):
        assert torch.equal(getattr(batch, name), getattr(expected, name))


def test_drawn_items_follow_their_share_of_the_training_events(batches: Batches) -> None:
    batch = whole(batches, "train")
    torch.manual_seed(0)
    drawn = batch.catalogue.draw_items(torch.empty(200, 300))
    assert drawn.shape == (200, 300)
    share = torch.bincount(drawn.flatten(), minlength=20) / drawn.numel()
    expected = torch.bincount(batch.target, minlength=20) / len(batch)
    torch.testing.assert_close(share, expected, atol=0.01, rtol=0)
    assert not share[expected == 0].any()


def test_draws_repeat_with_the_global_seed(batches: Batches) -> None:
    batch = whole(batches, "test")
    draws = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        draws.append(batch.catalogue.draw_items(batch.history).tolist())
    assert draws[0] == draws[1] != draws[2]


# Implicit labels


@pytest.fixture
def implicit(tiny_config: MakeConfig, tiny_log: MakeRaw) -> Callable[..., tuple[Raw, Dataset, Batches]]:
    def build(kind: SplitKind = SplitKind.user_time, negatives: int = 3, **sizes: int) -> tuple[Raw, Dataset, Batches]:
        config = tiny_config(kind, label=LabelKind.implicit, negatives=negatives)
        raw = tiny_log(**({"n_items": 60} | sizes))
        dataset = prepare(raw, config)
        return raw, dataset, Batches(dataset, config)

    return build


@pytest.mark.parametrize("seed", [None, 1])
@pytest.mark.parametrize("kind", SplitKind)
def test_negatives_are_training_items_and_every_event_is_a_positive(
    kind: SplitKind, seed: int | None, implicit: Callable
) -> None:
    raw, dataset, batches = implicit(kind)
    log, parts = dataset.log, raw_parts(dataset)
    trained = set(raw.item[parts == 0])
    for part in PARTS:
        drawn_before_met = 0
        positives: Counter = Counter()
        for batch in batches.epoch(part, 32, seed):
            for row in range(len(batch)):
                user, item = log.raw_user[batch.user[row]], log.raw_item[batch.target[row]]
                if batch.label[row] == 1:
                    positives[user, item] += 1
                    continue
                assert item in trained
                drawn_before_met += ((raw.user == user) & (raw.item == item)).any()
        rows = parts == PARTS.index(part)
        assert positives == Counter(zip(raw.user[rows], raw.item[rows], strict=True))
        if part == "train":
            assert drawn_before_met  # at that time nobody knew


@pytest.mark.parametrize("kind", SplitKind)
def test_no_negative_is_in_the_past_of_its_own_event(kind: SplitKind, implicit: Callable) -> None:
    raw, dataset, batches = implicit(kind, n_times=8)
    log, parts = dataset.log, raw_parts(dataset)
    for part in PARTS:
        batch = whole(batches, part)  # in the order of the log: an event, then its negatives
        for place, row in enumerate(np.repeat(log.row[log.rows(part)], 4)):
            assert log.raw_user[batch.user[place]] == raw.user[row]
            assert batch.label[place] == (place % 4 == 0)
            item = log.raw_item[batch.target[place]]
            if place % 4 == 0:
                assert item == raw.item[row]
                continue
            known = (parts == 0) | (part != "train")
            met = (raw.user == raw.user[row]) & (raw.timestamp <= raw.timestamp[row]) & known
            assert item not in raw.item[met]


def test_negatives_share_history_and_context_with_their_event(implicit: Callable) -> None:
    _, _, batches = implicit(negatives=2)
    batch = whole(batches, "test")
    for tensor in (batch.user, batch.history, batch.history_label, batch.mask, batch.context.ids, batch.context.values):
        groups = tensor.unflatten(0, (-1, 3))
        assert torch.equal(groups[:, 0], groups[:, 1]) and torch.equal(groups[:, 0], groups[:, 2])
    assert batch.history_label[batch.mask].min() == 1


@pytest.mark.parametrize("negatives", [1, 4])
def test_sizes_count_the_negatives(negatives: int, implicit: Callable) -> None:
    _, dataset, batches = implicit(negatives=negatives)
    for part in PARTS:
        n = len(dataset.log.rows(part))
        label = torch.cat([batch.label for batch in batches.epoch(part, 10, seed=1)])
        assert len(label) == batches.size(part) == n * (1 + negatives)
        assert label.sum() == n
        assert batches.steps(part, 10) == -(-len(label) // 10)


def test_negatives_are_fresh_each_epoch_of_training_and_the_same_in_evaluation(implicit: Callable) -> None:
    _, _, batches = implicit()
    epochs = [Counter(rows_of(whole(batches, "train", seed))) for seed in (1, 1, 2)]
    assert epochs[0] == epochs[1] != epochs[2]
    for part in ("valid", "test"):
        assert rows_of(whole(batches, part)) == rows_of(whole(batches, part))
        small = [row for batch in batches.epoch(part, 5) for row in rows_of(batch)]
        assert small == rows_of(whole(batches, part))


def test_negatives_are_drawn_evenly_from_the_training_items(implicit: Callable) -> None:
    _, _, batches = implicit(negatives=200, n_items=30, n_rows=60)
    batch = whole(batches, "train", seed=0)
    share = torch.bincount(batch.target[batch.label == 0], minlength=40)
    trained = batches.trained
    assert set(share.nonzero().flatten().tolist()) == set(trained.tolist())
    assert share[trained].min() > 0.5 * share.sum() / len(trained)


def test_a_user_who_has_met_every_item_still_gets_negatives(implicit: Callable) -> None:
    _, dataset, batches = implicit(n_items=2)
    assert len(whole(batches, "test")) == 4 * len(dataset.log.rows("test"))


# Tables


def test_a_table_gives_its_rows_and_no_more(tiny_config: MakeConfig, tiny_table: MakeRaw) -> None:
    kinds = {"context": {"device": FeatureKind.categorical, "hour": FeatureKind.numeric}}
    config = tiny_config(SplitKind.random, features=kinds)
    raw = tiny_table()
    dataset = prepare(raw, config)
    batches = Batches(dataset, config)
    for part in PARTS:
        rows = np.flatnonzero(raw_parts(dataset) == PARTS.index(part))
        for size in (1, 16):
            found = list(batches.epoch(part, size))
            assert torch.cat([batch.label for batch in found]).tolist() == raw.label[rows].tolist()
        batch = whole(batches, part, seed=2)
        assert batch.context.ids.shape == batch.context.values.shape == (len(rows), 1)
        for tensor in (batch.user, batch.target, batch.history, batch.mask, batch.history_label):
            assert tensor.shape == (len(rows), 0)
        assert batch.catalogue.users.ids.shape == batch.catalogue.items.ids.shape == (1, 0)
    assert batches.counts("context").sum() == len(batches.rows["train"]) + 2  # padding and unknown count as 1
    assert len(batches.training()) == len(batches.rows["train"])


def test_any_rows_can_be_gathered(batches: Batches) -> None:
    assert len(batches.gather(Samples(batches.rows["test"][:0]), "test")) == 0
    one = batches.gather(Samples(batches.rows["test"][3:4]), "test")
    assert rows_of(one) == rows_of(whole(batches, "test"))[3:4]


def test_an_event_takes_at_most_40_bytes_and_its_columns_lie_in_memory_once(compose: Callable) -> None:
    config = compose("dataset.cache_dir=null", "dataset.n_events=20000", "dataset.n_users=400").dataset
    dataset = load(config)
    batches, n = Batches(dataset, config), len(dataset.log.label)
    columns = {name: array for name, array in dataset.log.arrays().items() if len(array) == n}
    for name in batches.log.keys() & columns:
        assert np.shares_memory(batches.log[name].numpy(), columns[name]) or not columns[name].size, name
    own = [*batches.rows.values(), batches.catalogue.sampling_pool]
    assert sum(array.nbytes for array in columns.values()) + sum(tensor.nbytes for tensor in own) <= 40 * n
