"""Cells of many values: kept as lists, and in all else as if they were padded."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from batches import whole

from recexp.contract.variant import all_unknown, single_row
from recexp.dataset import artifact
from recexp.dataset.batch import Batch, Batches
from recexp.dataset.config import FeatureKind, SplitKind
from recexp.dataset.leak import leaks
from recexp.dataset.log import Dataset
from recexp.dataset.merge import decoded
from recexp.dataset.prepare import prepare
from recexp.dataset.ragged import Ragged, concat_columns, concat_rows
from recexp.dataset.raw import Raw
from recexp.layer.embedding import FeatureEmbedding
from recexp.run.importance import features, mixed
from recexp.trainer.broken import flattened, restored

RAGGED = Ragged(
    ids=np.array([7, 8, 9, 5]), start=np.array([[0, 3], [3, 0], [1, 0]]), count=np.array([[3, 1], [0, 2], [2, 0]])
)
CELLS = [[7, 8, 9], [5], [], [7, 8], [8, 9], []]


def cells(ragged: Ragged) -> list[list[int]]:
    return [cell.tolist() for cell in ragged.cells()]


def test_cells_are_told_row_by_row_and_survive_being_picked_and_joined() -> None:
    assert cells(RAGGED) == CELLS
    assert cells(RAGGED.at(np.array([2, 0]))) == [*CELLS[4:], *CELLS[:2]]
    assert cells(RAGGED.column(1)) == CELLS[1::2]
    assert cells(concat_rows(RAGGED, RAGGED.at(slice(1)))) == CELLS + CELLS[:2]
    swapped = concat_columns([RAGGED.column(1), RAGGED.column(0)])
    assert cells(swapped) == [cell for pair in zip(CELLS[1::2], CELLS[::2], strict=True) for cell in pair]
    compact = RAGGED.at(np.array([1])).compact()
    assert (cells(compact), compact.ids.tolist()) == (CELLS[2:4], [7, 8])


# In all else as if they were padded

KINDS = {
    "user": {"city": FeatureKind.categorical},
    "item": {"tags": FeatureKind.multi, "brand": FeatureKind.categorical, "price": FeatureKind.numeric},
    "context": {"device": FeatureKind.multi, "words": FeatureKind.multi},
}
Prepare = Callable[[bool], tuple[Dataset, Batches]]


def words(rng: np.random.Generator, n_rows: int) -> list[str]:
    """Cells of 0 to 20 words, some of which are in few rows."""
    return ["|".join(f"w{number}" for number in rng.zipf(1.6, rng.integers(21)) % 90) for _ in range(n_rows)]


@pytest.fixture
def raw(tiny_log: Callable[..., Raw]) -> Raw:
    rng, raw = np.random.default_rng(5), tiny_log()
    assert raw.items is not None and raw.context is not None
    items = raw.items.assign(tags=words(rng, len(raw.items)))
    return replace(raw, items=items, context=raw.context.assign(words=words(rng, len(raw.context))))


@pytest.fixture
def prepared(raw: Raw, tiny_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Prepare:
    """prepared(wide): the data with wide cells as lists, or padded. The latest call holds."""

    def prepared(wide: bool) -> tuple[Dataset, Batches]:
        for module in ("schema", "field"):
            monkeypatch.setattr(f"recexp.dataset.{module}.WIDE", 16 if wide else 1000)
        config = tiny_config(features=KINDS, most_liked=["tags"])
        dataset = prepare(raw, config)
        assert [field.name for field in dataset.schema.item.fields if field.wide] == (["tags"] if wide else [])
        return dataset, Batches(dataset, config)

    return prepared


def fields(dataset: Dataset, batches: Batches) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """All fields of the held-out rows, and the gradients of the tables."""
    torch.manual_seed(0)
    embed = FeatureEmbedding(dataset.schema, 3, std=1.0)
    vectors = embed.fields(whole(batches, "test"))
    (vectors * torch.arange(3)).square().sum().backward()
    return vectors.detach(), [parameter.grad for parameter in embed.parameters() if parameter.grad is not None]


def test_vectors_and_gradients_are_those_of_padded_cells(prepared: Prepare) -> None:
    (vectors, gradients), (wanted, wanted_gradients) = (fields(*prepared(wide)) for wide in (True, False))
    torch.testing.assert_close(vectors, wanted)
    torch.testing.assert_close(gradients, wanted_gradients)


def test_facts_counts_and_leaks_are_those_of_padded_cells(prepared: Prepare) -> None:
    dataset, batches = prepared(True)
    counts = {side: batches.counts(side) for side in ("item", "context")}
    found = list(leaks(dataset.log, {side: getattr(dataset.schema, side) for side in KINDS}, dataset.log.label))
    padded, padded_batches = prepared(False)
    assert dataset.facts == padded.facts
    assert 0 < dataset.facts["unknown_rate"]["test"]["context.words"] < 1
    for side, count in counts.items():
        assert torch.equal(count[1:], padded_batches.counts(side)[1:])  # padding is counted only where there is some
    assert found == list(leaks(padded.log, {side: getattr(padded.schema, side) for side in KINDS}, padded.log.label))


def test_values_are_told_back_as_from_padded_cells(prepared: Prepare) -> None:
    def told(dataset: Dataset) -> pd.DataFrame:
        return decoded(dataset.encoder.item, dataset.log.items, ["tags", "brand"])  # type: ignore[attr-defined]

    pd.testing.assert_frame_equal(told(prepared(True)[0]), told(prepared(False)[0]))


def test_what_a_run_keeps_gives_the_same_vectors(
    prepared: Prepare, tiny_config: Callable[..., Any], tmp_path: Path
) -> None:
    config = tiny_config(features=KINDS, most_liked=["tags"])
    dataset, batches = prepared(True)
    artifact.save(dataset, config, tmp_path / "kept")
    kept = artifact.load(tmp_path / "kept")
    assert kept.schema == dataset.schema
    assert torch.equal(fields(kept, Batches(kept, config))[0], fields(dataset, batches)[0])


def first(batch: Batch, n_rows: int) -> Batch:
    columns = {name: getattr(batch, name)[:n_rows] for name in ("label", "user", "target")}
    return replace(batch, **columns, context=batch.context.at(slice(n_rows)))  # type: ignore[arg-type]


def test_one_feature_is_mixed_alone(prepared: Prepare) -> None:
    dataset, batches = prepared(True)
    torch.manual_seed(0)
    embed = FeatureEmbedding(dataset.schema, 3, std=1.0)
    batch, other = (whole(batches, split) for split in ("train", "valid"))
    batch, other = (first(batch, 20), first(other, 20))
    names = [f"{side}.{field.name}" for side in embed.sides for field in getattr(dataset.schema, side).fields]
    for feature in features(dataset.schema, history=False):
        found = embed.fields(mixed(batch, other, feature))
        for number, name in enumerate(names):
            source = other if name in (feature.name, f"{feature.name}.{feature.name}") else batch
            torch.testing.assert_close(found[:, number], embed.fields(source)[:, number])


def test_batches_of_one_row_and_of_unknown_values_hold_the_lists_too(prepared: Prepare) -> None:
    dataset, batches = prepared(True)
    torch.manual_seed(0)
    embed, batch = FeatureEmbedding(dataset.schema, 3, std=1.0), whole(batches, "test")
    wanted = embed.fields(batch)
    torch.testing.assert_close(torch.cat([embed.fields(single_row(batch, row)) for row in range(len(batch))]), wanted)
    with torch.no_grad():
        embed.sides["context"].table.weight[1] = 1.0
    words = embed.fields(all_unknown(batch))[:, -2]  # the mean of unknown values, or 0 where there are none
    assert set(words.flatten().tolist()) == {0.0, 1.0}


def test_a_batch_kept_for_another_try_holds_the_lists_too(prepared: Prepare) -> None:
    batch = whole(prepared(True)[1], "test")
    again = restored(Batch, "batch", flattened("batch", batch))
    for one, two in ((batch.context, again.context), (batch.catalogue.items, again.catalogue.items)):
        assert one.lists is not None and two.lists is not None
        assert torch.equal(one.lists.column(0)[0], two.lists.column(0)[0])
    assert again.catalogue.users.lists is None


def test_memory_follows_the_values(tiny_table: Callable[..., Raw], tiny_config: Callable[..., Any]) -> None:
    n_rows = 3000
    raw = tiny_table(n_rows=n_rows)
    cells = ["a|b"] * (n_rows - 1) + ["|".join(f"t{number}" for number in range(n_rows))]
    config = tiny_config(SplitKind.random, features={"context": {"tags": FeatureKind.multi}})
    dataset = prepare(replace(raw, context=pd.DataFrame({"tags": cells})), config)
    assert sum(array.nbytes for array in dataset.log.arrays().values()) < 40 * n_rows
