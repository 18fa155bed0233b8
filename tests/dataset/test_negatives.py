"""Sampled negatives against loops over the raw rows."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from batches import raw_splits, rows_of, whole

from recexp.dataset.batch import Batches
from recexp.dataset.config import DatasetConfig, HistoryUntil, LabelKind, SplitKind
from recexp.dataset.log import SPLITS, Dataset
from recexp.dataset.prepare import prepare
from recexp.dataset.raw import Raw

MakeConfig = Callable[..., DatasetConfig]
MakeRaw = Callable[..., Raw]


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
    log, splits = dataset.log, raw_splits(dataset)
    trained = set(raw.item[splits == 0])
    for split in SPLITS:
        drawn_before_met = 0
        positives: Counter = Counter()
        for batch in batches.epoch(split, 32, seed):
            for row in range(len(batch)):
                user, item = log.users.raw[batch.user[row]], log.items.raw[batch.target[row]]
                if batch.label[row] == 1:
                    positives[user, item] += 1
                    continue
                assert item in trained
                drawn_before_met += ((raw.user == user) & (raw.item == item)).any()
        rows = splits == SPLITS.index(split)
        assert positives == Counter(zip(raw.user[rows], raw.item[rows], strict=True))
        if split == "train":
            assert drawn_before_met  # at that time nobody knew


@pytest.mark.parametrize("kind", SplitKind)
def test_no_negative_is_in_the_past_of_its_own_event(kind: SplitKind, implicit: Callable) -> None:
    raw, dataset, batches = implicit(kind, n_times=8)
    log, splits = dataset.log, raw_splits(dataset)
    for split in SPLITS:
        batch = whole(batches, split)  # in the order of the log: an event, then its negatives
        for place, row in enumerate(np.repeat(log.row[log.rows(split)], 4)):
            assert log.users.raw[batch.user[place]] == raw.user[row]
            assert batch.label[place] == (place % 4 == 0)
            item = log.items.raw[batch.target[place]]
            if place % 4 == 0:
                assert item == raw.item[row]
                continue
            known = (splits == 0) | (split != "train")
            met = (raw.user == raw.user[row]) & (raw.timestamp <= raw.timestamp[row]) & known
            assert item not in raw.item[met]


@pytest.mark.parametrize("kind", SplitKind)
def test_the_same_rows_are_asked_for_wherever_histories_end(
    kind: SplitKind, tiny_config: MakeConfig, tiny_log: MakeRaw
) -> None:
    config = tiny_config(kind, label=LabelKind.implicit, negatives=3, max_history=50)
    other = replace(config, history_until=HistoryUntil.split)
    until_target, until_split = (Batches(prepare(tiny_log(n_items=60), each), each) for each in (config, other))
    for split in SPLITS:
        before, after = whole(until_target, split), whole(until_split, split)
        assert torch.equal(before.target, after.target) and torch.equal(before.label, after.label)
        if split != "valid":  # which with leave_last_out has nothing but training events before it
            assert torch.equal(before.mask, after.mask) == (split == "train")


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
    for split in SPLITS:
        n = len(dataset.log.rows(split))
        label = torch.cat([batch.label for batch in batches.epoch(split, 10, seed=1)])
        assert len(label) == batches.size(split) == n * (1 + negatives)
        assert label.sum() == n
        assert batches.steps(split, 10) == -(-len(label) // 10)


def test_negatives_are_fresh_each_epoch_of_training_and_the_same_in_evaluation(implicit: Callable) -> None:
    _, _, batches = implicit()
    epochs = [Counter(rows_of(whole(batches, "train", seed))) for seed in (1, 1, 2)]
    assert epochs[0] == epochs[1] != epochs[2]
    for split in ("valid", "test"):
        assert rows_of(whole(batches, split)) == rows_of(whole(batches, split))
        small = [row for batch in batches.epoch(split, 5) for row in rows_of(batch)]
        assert small == rows_of(whole(batches, split))


def test_negatives_are_drawn_evenly_from_the_training_items(implicit: Callable) -> None:
    _, _, batches = implicit(negatives=200, n_items=30, n_rows=60)
    batch = whole(batches, "train", seed=0)
    share = torch.bincount(batch.target[batch.label == 0], minlength=40)
    candidates = batches.negative_sampler.candidates
    assert set(share.nonzero().flatten().tolist()) == set(candidates.tolist())
    assert share[candidates].min() > 0.5 * share.sum() / len(candidates)


def test_a_user_who_has_met_every_item_still_gets_negatives(implicit: Callable) -> None:
    _, dataset, batches = implicit(n_items=2)
    assert len(whole(batches, "test")) == 4 * len(dataset.log.rows("test"))
