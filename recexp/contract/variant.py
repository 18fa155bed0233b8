"""Batches that differ from a given one in what must not matter, or in a way that the model must cope with."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from recexp.dataset.batch import Batch, Features
from recexp.dataset.schema import PADDING, UNKNOWN

HISTORIES = ("history", "history_label", "history_age", "mask")


def without_histories(batch: Batch) -> Batch:
    columns: dict[str, Any] = {name: getattr(batch, name)[:, :0] for name in HISTORIES}
    return replace(batch, **columns)


def with_garbage(batch: Batch) -> Batch:
    """The batch with random events on padding."""
    mask = batch.mask
    noise = torch.randint(1, len(batch.catalogue.items.ids), mask.shape, generator=torch.Generator().manual_seed(1))
    return replace(
        batch,
        history=torch.where(mask, batch.history, noise.to(mask.device)),
        history_label=torch.where(mask, batch.history_label, 1.0),
        history_age=torch.where(mask, batch.history_age, 1e6),
    )


def longer(batch: Batch, n: int) -> Batch:
    """The batch with n more columns of padding."""

    def widen(x: Tensor) -> Tensor:
        return torch.cat([x, x.new_zeros(len(x), n)], 1)

    columns: dict[str, Any] = {name: widen(getattr(batch, name)) for name in HISTORIES}
    return replace(batch, **columns)


def all_unknown(batch: Batch) -> Batch:
    """The batch in which every user, item and value is one that training has not seen."""

    def unknown(features: Features) -> Features:
        lists = features.lists and replace(features.lists, ids=torch.full_like(features.lists.ids, UNKNOWN))
        return Features(torch.where(features.ids == PADDING, PADDING, UNKNOWN), features.values, lists)

    catalogue = batch.catalogue
    unknowns = replace(catalogue, users=unknown(catalogue.users), items=unknown(catalogue.items))
    return replace(batch, catalogue=unknowns, context=unknown(batch.context))


def one_sampled(batch: Batch) -> Batch:
    """The batch whose sampled items are all the same one, however many are drawn."""
    return replace(batch, catalogue=replace(batch.catalogue, sampling_pool=batch.catalogue.sampling_pool[:1]))


def single_row(batch: Batch, row: int) -> Batch:
    """One row of a batch, without the padding that only longer histories beside it need."""
    length = int(batch.mask[row].sum())
    columns: dict[str, Any] = {
        name: getattr(batch, name)[row : row + 1] for name in ("label", "tasks", "user", "target")
    }
    columns |= {name: getattr(batch, name)[row : row + 1, :length] for name in HISTORIES}
    return replace(batch, **columns, context=batch.context.at(slice(row, row + 1)))
