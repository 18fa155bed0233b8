"""Batches that differ from a given one in what must not matter, or in a way that the model must cope with."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from recexp.dataset.batch import Batch, Features
from recexp.dataset.history import Past
from recexp.dataset.schema import PADDING, UNKNOWN

HISTORIES = ("history", "history_label", "history_age", "mask")


def without_histories(batch: Batch) -> Batch:
    columns: dict[str, Any] = {name: getattr(batch, name)[:, :0] for name in HISTORIES}
    return replace(batch, **columns, found=batch.found and _mapped(batch.found, lambda x: x[:, :0]))


def with_garbage(batch: Batch) -> Batch:
    """The batch with random events on padding."""

    def filled(mask: Tensor, item: Tensor, label: Tensor, age: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        noise = torch.randint(1, len(batch.catalogue.items.ids), mask.shape, generator=torch.Generator().manual_seed(1))
        kept = torch.where(mask, item, noise.to(mask.device))
        return kept, torch.where(mask, label, 1.0), torch.where(mask, age, 1e6)

    history, label, age = filled(batch.mask, batch.history, batch.history_label, batch.history_age)
    if found := batch.found:
        columns = filled(found.mask, found.item, found.label, found.age)
        found = Past(**dict(zip(("item", "label", "age"), columns, strict=True)), mask=found.mask)
    return replace(batch, history=history, history_label=label, history_age=age, found=found)


def _mapped(past: Past, change: Callable[[Tensor], Tensor]) -> Past:
    return Past(**{name: change(column) for name, column in vars(past).items()})


def longer(batch: Batch, n: int) -> Batch:
    """The batch with n more columns of padding."""

    def widen(x: Tensor) -> Tensor:
        return torch.cat([x, x.new_zeros(len(x), n)], 1)

    columns: dict[str, Any] = {name: widen(getattr(batch, name)) for name in HISTORIES}
    return replace(batch, **columns, found=batch.found and _mapped(batch.found, widen))


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
    if found := batch.found:
        n_found = int(found.mask[row].sum())
        found = _mapped(found, lambda x: x[row : row + 1, :n_found])
    return replace(batch, **columns, context=batch.context.at(slice(row, row + 1)), found=found)
