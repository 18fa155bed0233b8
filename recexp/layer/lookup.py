"""Rows of a table by index, with a gradient that is quick on a CPU.

n rows of the table, D its width, ids of any shape (...)
"""

import operator
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def lookup(table: Tensor, ids: Tensor, padding: int | None = None, sparse: bool = False) -> Tensor:
    """table (n, D), ids (...) int64 -> (..., D).

    padding: a row that gets no gradient. sparse: the gradient holds the rows looked up alone.
    As torch's embedding, whose gradient takes three times as long on a CPU as one index_add (docs/performance.md).
    """
    if sparse or table.device.type != "cpu":
        return F.embedding(ids, table, padding, sparse=sparse)
    return _Lookup.apply(table, ids, padding)


class Table(nn.Embedding):
    """An nn.Embedding that is looked up by `lookup`."""

    def forward(self, ids: Tensor) -> Tensor:
        """ids (...) int64 -> (..., D)."""
        return lookup(self.weight, ids, self.padding_idx, self.sparse)


@dataclass(frozen=True)
class Events:
    """The events of a batch's histories, each distinct one once: what is a function of single events is computed so."""

    vectors: Tensor  # (n, E)
    place: Tensor  # (B, L) int64: rows of vectors

    def embedded(self) -> Tensor:
        """(B, L, E)."""
        return lookup(self.vectors, self.place)


def total(sources: Iterable[Events]) -> Tensor:
    """The sum of what is looked up in each: (B, L, E)."""
    return reduce(operator.add, (each.embedded() for each in sources))


def on_cpu(x: Tensor) -> bool:
    """Whether operations written for a CPU's caches take x: on one, and unless autocast is to round products."""
    return x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")


def product_dtype(x: Tensor) -> torch.dtype:
    """What matrix products are rounded to: x's own type, or autocast's."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, ids: Tensor, padding: int | None) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.shape, ctx.padding = table.shape, padding
        return table.index_select(0, ids.flatten()).view(*ids.shape, table.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (ids,) = ctx.saved_tensors
        total = grad.new_zeros(ctx.shape)
        total.index_add_(0, ids.flatten(), grad.reshape(-1, ctx.shape[1]))
        if ctx.padding is not None:
            total[ctx.padding] = 0
        return total, None, None
