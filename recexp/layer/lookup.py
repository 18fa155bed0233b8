"""Rows of a table by index, with a gradient that is quick on a CPU.

n rows of the table, D its width, ids of any shape (...)
"""

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from recexp.kernel.library import Kernels, kernels, known_kernels


def lookup(table: Tensor, ids: Tensor, padding: int | None = None, sparse: bool = False) -> Tensor:
    """table (n, D), ids (...) int64 -> (..., D).

    padding: a row that gets no gradient. sparse: the gradient holds the rows looked up alone.
    As torch's embedding, whose gradient takes three times as long on a CPU as one index_add (docs/performance.md).
    """
    if sparse or table.device.type != "cpu":
        return F.embedding(ids, table, padding, sparse=sparse)
    return _Lookup.apply(table, ids, padding)


@dataclass(frozen=True)
class Origin:
    """The ids of the data that the n rows of a table stand for."""

    side: str  # user, item or context
    ids: Tensor  # (n,) int64


class Table(nn.Embedding):
    """An nn.Embedding that is looked up by `lookup`. A layer says here what the trainer may do with it."""

    rowwise = False  # whether optimizers may update only the rows that a batch holds
    origin: Origin | None = None  # where rows stand for ids of the data

    @property
    def decayed(self) -> bool:
        """Whether the L2 term of embeddings holds for it."""
        return self.origin is not None

    def forward(self, ids: Tensor) -> Tensor:
        """ids (...) int64 -> (..., D)."""
        return lookup(self.weight, ids, self.padding_idx, self.sparse)


@dataclass(frozen=True)
class Events:
    """Unique events plus the index that expands them, so per-event work runs once."""

    vectors: Tensor  # (n, E)
    index: Tensor  # (B, L) int64: rows of vectors

    def expanded(self) -> Tensor:
        """(B, L, E), looked up once."""
        return self._expanded

    @cached_property
    def _expanded(self) -> Tensor:
        return lookup(self.vectors, self.index)


def total(sources: Iterable[Events]) -> Tensor:
    """The sum of what is looked up in each: (B, L, E)."""
    sources = list(sources)
    vectors, places = [each.vectors for each in sources], [each.index for each in sources]
    alike = len({(each.index.shape, each.vectors.shape[1]) for each in sources}) == 1
    if len(sources) <= 2 and alike and all(kernels(each, each.shape[1]) for each in vectors):
        return _Total.apply(places, *vectors)
    return reduce(operator.add, (each.expanded() for each in sources))


def weighted_sum(weights: Tensor, events: Events) -> Tensor:
    """sum_s weights_s e_s of events e: weights (B, L), 0 of those that do not count -> (B, E).

    A kernel passes over a weight of 0, whatever the event holds.
    """
    if kernels(events.vectors, events.vectors.shape[1]) and weights.dtype is torch.float32:
        return _WeightedSum.apply(weights, events.vectors, events.index)
    return (weights[:, :, None] * events.expanded()).sum(1)


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
        ids = ids.long()
        ctx.save_for_backward(ids)
        ctx.shape, ctx.padding = table.shape, padding
        if run := kernels(table, table.shape[1]):
            return gathered(run, [table], [ids])
        return table.index_select(0, ids.flatten()).view(*ids.shape, table.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (ids,) = ctx.saved_tensors
        if run := kernels(grad, ctx.shape[1]):
            (total,) = scattered(run, grad, [ids], [ctx.shape])
        else:
            total = grad.new_zeros(ctx.shape).index_add_(0, ids.flatten(), grad.reshape(-1, ctx.shape[1]))
        if ctx.padding is not None:
            total[ctx.padding].zero_()  # two thirds of the time of `= 0`
        return total, None, None


def gathered(run: Kernels, tables: Sequence[Tensor], places: Sequence[Tensor]) -> Tensor:
    """The sum of rows of a table (n, W), or of two, by their places (...): (..., W).

    Raises IndexError for a place that is none of the rows.
    """
    out = tables[0].new_empty(*places[0].shape, tables[0].shape[1])
    sizes = [len(table) for table in tables]
    *_, amiss = run("gather", *pair(tables), *pair(places), out, places[0].numel(), out.shape[-1], *pair(sizes), 0)
    for place, size in zip(places, sizes, strict=True):
        require_rows(amiss, place, size)
    return out


def require_rows(amiss: int, place: Tensor, n_rows: int) -> None:
    """Raises IndexError where a kernel has met places that are none of the rows, and these do."""
    if amiss and (int(place.min()) < 0 or int(place.max()) >= n_rows):
        raise IndexError(f"an id of {int(place.min())} to {int(place.max())} is none of the {n_rows} rows of a table")


def scattered(run: Kernels, grad: Tensor, places: Sequence[Tensor], shapes: Sequence[torch.Size]) -> list[Tensor]:
    """The sums of rows of grad (..., W) by their places (...) in one table or two of shapes (n, W)."""
    totals = [grad.new_zeros(shape) for shape in shapes]
    run("scatter", *pair(totals), *pair(places), grad, places[0].numel(), grad.shape[-1])
    return totals


def pair(values: Sequence[Any]) -> list[Any]:
    """One value and None, or two."""
    return [*values, None][:2]


class _Total(torch.autograd.Function):
    """The sum of rows of one table or two (n, E), at the places (...) of each: (..., E)."""

    @staticmethod
    def forward(ctx: Any, places: list[Tensor], *tables: Tensor) -> Tensor:
        ctx.places, ctx.shapes = places, [each.shape for each in tables]
        return gathered(known_kernels(tables[0], tables[0].shape[1]), tables, places)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor):
        return None, *scattered(known_kernels(grad, grad.shape[-1]), grad, ctx.places, ctx.shapes)


class _WeightedSum(torch.autograd.Function):
    """Weights (B, L), vectors (n, E), place (B, L) -> (B, E)."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, vectors: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(weights, vectors, place)
        out = vectors.new_empty(len(place), vectors.shape[1])
        run = known_kernels(vectors, vectors.shape[1])
        sizes = (*place.shape, *vectors.shape[::-1])
        *_, amiss, _, _ = run("weighted_sum", weights, vectors, place, out, *sizes, 0, None, None)
        require_rows(amiss, place, len(vectors))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, Tensor, None]:
        weights, vectors, place = ctx.saved_tensors
        dweights, dvectors = weights.new_empty(weights.shape), vectors.new_zeros(vectors.shape)
        run, sizes = known_kernels(dout, dout.shape[1]), (*place.shape, *vectors.shape[::-1])
        run("weighted_sum_back", weights, vectors, place, dout, *sizes, 0, dweights, dvectors)
        return dweights, dvectors, None
