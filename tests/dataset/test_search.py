"""Search of earlier events by a field's value, against loops over the raw rows."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from batches import whole

from recexp.dataset import artifact
from recexp.dataset.batch import Batches, Samples
from recexp.dataset.config import DatasetConfig, HistoryKind, HistoryUntil, SplitKind
from recexp.dataset.log import SPLITS, Dataset, Log
from recexp.dataset.prepare import prepare
from recexp.dataset.raw import Raw
from recexp.dataset.schema import FIRST
from recexp.dataset.search import Search

MakeConfig = Callable[..., DatasetConfig]
MakeRaw = Callable[..., Raw]
FIELDS = ("item", "brand", "tags")


def search_by(dataset: Dataset, field: str, most: int) -> Search:
    return Search(next(each for each in dataset.schema.item.fields if each.name == field), most)


def events_of(log: Log, field: object, row: int, target: int, allowed: np.ndarray) -> list[tuple[int, float, float]]:
    """(item, label, age) of all that the search must find, oldest first: by looking at every event."""

    def values(item: int) -> set[int]:
        return {int(value) for value in log.items.column(field)[item] if value >= FIRST}

    return [
        (int(log.item[n]), float(log.label[n]), float(log.timestamp[row] - log.timestamp[n]))
        for n in range(len(log))
        if log.user[n] == log.user[row]
        and log.timestamp[n] < log.timestamp[row]
        and allowed[n]
        and values(log.item[n]) & values(target)
    ]


def found_of(batch, row: int) -> list[tuple[int, float, float]]:
    found = batch.found
    n = int(found.mask[row].sum())
    assert found.mask[row].tolist() == [True] * n + [False] * (found.mask.shape[1] - n)
    for column in (found.item, found.label, found.age):
        assert not column[row, n:].any()
    return list(zip(*(column[row, :n].tolist() for column in (found.item, found.label, found.age)), strict=True))


@pytest.mark.parametrize(
    ("history", "until", "field"),
    [
        *((HistoryKind.all, HistoryUntil.target, field) for field in FIELDS),
        (HistoryKind.liked, HistoryUntil.target, "tags"),
        (HistoryKind.all, HistoryUntil.split, "brand"),
    ],
)
@pytest.mark.parametrize("kind", SplitKind)
def test_what_is_found_are_the_last_events_of_the_value_strictly_before(
    kind: SplitKind, history: HistoryKind, until: HistoryUntil, field: str, tiny_config: MakeConfig, tiny_log: MakeRaw
) -> None:
    config = tiny_config(kind, history=history, history_until=until)
    dataset = prepare(tiny_log(0), config)
    log, most = dataset.log, 3
    search = search_by(dataset, field, most)
    batches, n_found = Batches(dataset, config, search=search), []
    for split in SPLITS:
        allowed = log.label > 0 if history is HistoryKind.liked else np.ones(len(log), bool)
        if split == "train" or until is HistoryUntil.split:
            allowed = allowed & (log.split == 0)
        batch = whole(batches, split)
        for place, row in enumerate(log.rows(split)):
            expected = events_of(log, search.field, row, log.item[row], allowed)
            assert found_of(batch, place) == expected[-most:]
            n_found.append(len(expected))
    assert max(n_found) > 1 and (field == "item" or max(n_found) > most)


def test_another_target_finds_what_matches_it(tiny_config: MakeConfig, tiny_log: MakeRaw) -> None:
    config = tiny_config()
    dataset = prepare(tiny_log(1), config)
    log, search = dataset.log, search_by(dataset, "tags", 50)
    batches, rows = Batches(dataset, config, search=search), log.rows("test")
    other = torch.arange(len(rows)) % (len(log.items.raw) - 1) + 1
    batch = batches.gather(Samples(torch.from_numpy(rows.astype(np.int32)), item=other), "test")
    for place, row in enumerate(rows):
        assert found_of(batch, place) == events_of(log, search.field, row, int(other[place]), np.ones(len(log), bool))


def test_without_a_field_all_last_events_are_found(tiny_config: MakeConfig, tiny_log: MakeRaw) -> None:
    config = tiny_config(max_history=50)
    dataset = prepare(tiny_log(2), config)
    batch = whole(Batches(dataset, config, search=Search(None, 50)), "test")
    pairs = (
        (batch.found.item, batch.history),
        (batch.found.label, batch.history_label),
        (batch.found.mask, batch.mask),
    )
    assert batch.mask.sum() > 20
    assert all(torch.equal(*pair) for pair in pairs)


def test_an_unknown_value_finds_nothing_and_a_log_without_values_can_be_searched(
    tiny_config: MakeConfig, tiny_log: MakeRaw
) -> None:
    config = tiny_config()
    dataset = prepare(tiny_log(0), config)
    search = search_by(dataset, "brand", 5)
    assert search.field is not None
    unknown = dataset.log.items.ids.copy()
    unknown[:, search.field.column] = 1
    log = replace(dataset.log, items=replace(dataset.log.items, ids=unknown))
    found = whole(Batches(replace(dataset, log=log), config, search=search), "test").found
    assert found is not None and found.mask.shape[1] == 0


def test_batches_without_a_search_hold_nothing_found(tiny_config: MakeConfig, tiny_log: MakeRaw) -> None:
    config = tiny_config()
    assert whole(Batches(prepare(tiny_log(0), config), config), "test").found is None


@pytest.mark.parametrize("field", [*FIELDS, None])
def test_what_a_run_keeps_finds_the_same_for_held_out_rows(
    field: str | None, tiny_config: MakeConfig, tiny_log: MakeRaw, tmp_path
) -> None:
    config = tiny_config(max_history=1)
    dataset = prepare(tiny_log(3), config)
    search = search_by(dataset, field, 8) if field else Search(None, 8)
    artifact.save(dataset, config, tmp_path / "kept", search)
    kept = artifact.load(tmp_path / "kept")
    for split in ("valid", "test"):
        before, after = (whole(Batches(each, config, search=search), split).found for each in (dataset, kept))
        for name, column in vars(before).items():
            assert torch.equal(column, getattr(after, name)), name
        assert before.mask.sum() > len(before.mask)  # more than the last event alone
