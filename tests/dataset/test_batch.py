"""Batches against loops over the raw rows."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from batches import raw_splits, rows_of, whole

from recexp.dataset.batch import Batches, Samples
from recexp.dataset.config import DatasetConfig, FeatureKind, SplitKind
from recexp.dataset.history import Histories
from recexp.dataset.log import SPLITS
from recexp.dataset.prepare import load, prepare
from recexp.dataset.raw import Raw

MakeConfig = Callable[..., DatasetConfig]
MakeRaw = Callable[..., Raw]


@pytest.fixture
def batches(tiny_config: MakeConfig, tiny_log: MakeRaw) -> Batches:
    config = tiny_config()
    return Batches(prepare(tiny_log(), config), config)


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
@pytest.mark.parametrize("split", SPLITS)
def test_an_epoch_is_every_row_once_whatever_the_batch_size(split: str, size: int, batches: Batches) -> None:
    expected = rows_of(whole(batches, split))
    found = list(batches.epoch(split, size, seed=1))
    assert [len(batch) for batch in found[:-1]] == [size] * (len(found) - 1)
    assert len(found) == batches.steps(split, size)
    assert Counter(row for batch in found for row in rows_of(batch)) == Counter(expected)
    assert [row for batch in batches.epoch(split, size) for row in rows_of(batch)] == expected
    assert len(expected) == batches.size(split) == len(batches.rows[split])


def test_equal_seeds_give_equal_orders_and_other_seeds_others(batches: Batches) -> None:
    one, same, other, unshuffled = (
        [row for batch in batches.epoch("train", 9, seed) for row in rows_of(batch)] for seed in (5, 5, 6, None)
    )
    assert one == same != other
    assert one != unshuffled != other


@pytest.mark.parametrize("skip", [0, 1, 3, 99])
def test_an_epoch_goes_on_from_any_batch_without_gathering_those_before(
    skip: int, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = [samples.row for samples in batches.samples("train", 300, seed=4)]
    gathered = []
    real = Histories.longest_first
    monkeypatch.setattr(Histories, "longest_first", lambda *arguments: gathered.append(1) or real(*arguments))
    rest = [samples.row for samples in batches.samples("train", 300, seed=4, skip=skip)]
    assert len(rest) == len(gathered) == max(0, len(whole) - skip)
    assert all(torch.equal(*pair) for pair in zip(rest, whole[skip:], strict=True))


def test_a_shuffled_batch_has_the_longest_histories_first_and_others_keep_the_order_of_rows(batches: Batches) -> None:
    for batch in batches.epoch("train", 7, seed=3):
        length = batch.mask.sum(1)
        assert (length[1:] <= length[:-1]).all()
    whole = torch.cat([batch.target for batch in batches.epoch("valid", 7)])
    assert torch.equal(whole, batches.columns.item[batches.rows["valid"]].long())


def test_the_order_leaves_the_global_generator_alone(batches: Batches) -> None:
    state = torch.get_rng_state()
    whole(batches, "train", seed=5)
    assert torch.equal(state, torch.get_rng_state())


def test_fields_of_user_item_and_context_are_those_of_the_raw_row(tiny_config: MakeConfig, tiny_log: MakeRaw) -> None:
    raw, config = tiny_log(), tiny_config(SplitKind.given)
    dataset = prepare(replace(raw, split=np.where(np.arange(len(raw.label)) < 150, "train", "test")), config)
    batches, log = Batches(dataset, config), dataset.log
    assert raw.users is not None and raw.items is not None and raw.context is not None
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


# Tables


def test_a_table_gives_its_rows_and_no_more(tiny_config: MakeConfig, tiny_table: MakeRaw) -> None:
    kinds = {"context": {"device": FeatureKind.categorical, "hour": FeatureKind.numeric}}
    config = tiny_config(SplitKind.random, features=kinds)
    raw = tiny_table()
    dataset = prepare(raw, config)
    batches = Batches(dataset, config)
    for split in SPLITS:
        rows = np.flatnonzero(raw_splits(dataset) == SPLITS.index(split))
        for size in (1, 16):
            found = list(batches.epoch(split, size))
            assert torch.cat([batch.label for batch in found]).tolist() == raw.label[rows].tolist()
        batch = whole(batches, split, seed=2)
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
    batches, n = Batches(dataset, config), len(dataset.log)
    columns = {name: array for name, array in dataset.log.arrays().items() if len(array) == n}
    context = {"context.ids": batches.context.ids, "context.values": batches.context.values}
    tensors = context | {name: column for name, column in vars(batches.columns).items() if name != "offsets"}
    assert len(tensors) == 7 and tensors.keys() <= columns.keys()
    for name, tensor in tensors.items():
        assert np.shares_memory(tensor.numpy(), columns[name]) or not columns[name].size, name
    assert batches.label.data_ptr() == batches.columns.label.data_ptr()
    own = [*batches.rows.values(), batches.catalogue.sampling_pool]
    assert sum(array.nbytes for array in columns.values()) + sum(tensor.nbytes for tensor in own) <= 40 * n
