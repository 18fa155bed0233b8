"""Batches that a test changes, or compares with the raw rows."""

from dataclasses import replace
from typing import Any

import numpy as np

from recexp.dataset.batch import Batch, Batches
from recexp.dataset.log import Dataset


def with_catalogue(batch: Batch, **parts: Any) -> Batch:
    """The batch with other users, items or sampling pool."""
    return replace(batch, catalogue=replace(batch.catalogue, **parts))


def whole(batches: Batches, split: str, seed: int | None = None) -> Batch:
    """A split as one batch."""
    return next(batches.epoch(split, 10_000, seed))


def raw_splits(dataset: Dataset) -> np.ndarray:
    """(N,) split of each row of the source."""
    splits = np.empty(len(dataset.log.row), int)
    splits[dataset.log.row] = dataset.log.split
    return splits


def rows_of(batch: Batch) -> list[tuple]:
    """Each sample with all its tensors, as something that compares."""
    length = batch.mask.sum(1)
    columns = (batch.label, batch.user, batch.target, batch.context.ids, batch.context.values)
    return [
        (*batch.history[row, : length[row]].tolist(), *batch.history_label[row, : length[row]].tolist(),
         *(value for column in columns for value in column[row].flatten().tolist()))
        for row in range(len(batch))
    ]  # fmt: skip
