"""Rows of tables by index, side by side, summed over two tables or over a history; gradients are quick on a CPU.

n rows of a table, W its width, an index of any shape (...); B batch, L history length
"""

import operator
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from recexp.kernel.device import waits
from recexp.kernel.library import Library, library


def reference(tables: Sequence[Tensor], indices: Sequence[Tensor]) -> Tensor:
    """The sum over tables (n, W) of rows at indices (...): (..., W)."""
    return reduce(operator.add, (table[index] for table, index in zip(tables, indices, strict=True)))


def lookup_concat_reference(tables: Sequence[Tensor], indices: Sequence[Tensor]) -> Tensor:
    return torch.cat([lookup(table, index) for table, index in zip(tables, indices, strict=True)], 1)


def weighted_reference(weights: Tensor, rows: Tensor) -> Tensor:
    """sum_l w_bl e_bl: weights (B, L), rows e (B, L, W) -> (B, W)."""
    return (weights[:, :, None] * rows).sum(1)


def lookup(table: Tensor, index: Tensor, padding: int | None = None, sparse: bool = False) -> Tensor:
    """table (n, W), index (...) -> (..., W).

    padding: a row that gets no gradient. sparse: the gradient holds only the rows looked up.
    Equals torch's embedding, whose gradient takes three times as long on a CPU as one index_add (docs/performance.md).
    """
    if sparse or waits(table):
        return F.embedding(index, table, padding, sparse=sparse)
    return _Rows.apply([index.long()], padding, table)


def total(tables: Sequence[Tensor], indices: Sequence[Tensor], rows: Sequence[Callable[[], Tensor]]) -> Tensor:
    """The sum over tables (n, W) of rows at indices (...): (..., W).

    rows: for each table, a function that returns its rows, called if no kernel adds them up; callers may cache them.
    """
    by_kernel = len(tables) <= 2 and all(library(table, table.shape[1]) for table in tables)
    if by_kernel and len({(index.shape, table.shape[1]) for table, index in zip(tables, indices, strict=True)}) == 1:
        return _Rows.apply(indices, None, *tables)
    return reduce(operator.add, (get() for get in rows))


def lookup_concat(tables: Sequence[Tensor], indices: Sequence[Tensor]) -> Tensor:
    """Rows of up to three tables (n, W_t) at indices (B,), side by side: (B, W_0 + ...)."""
    kernels = None if waits(tables[0]) else library(tables[0], *(table.shape[1] for table in tables))
    if kernels is None:
        return lookup_concat_reference(tables, indices)
    return _LookupConcat.apply(kernels, [index.long() for index in indices], *tables)


def weighted_sum(weights: Tensor, table: Tensor, index: Tensor, rows: Callable[[], Tensor]) -> Tensor:
    """sum_l w_bl e_bl of rows e of a table (n, W) by index (B, L), weights w (B, L) -> (B, W).

    A kernel skips events of weight 0, so their rows may hold anything. rows: returns e, if there is no kernel.
    """
    if library(table, table.shape[1]) and weights.dtype is torch.float32:
        return _WeightedSum.apply(weights, table, index)
    return weighted_reference(weights, rows())


def gathered(kernels: Library, tables: Sequence[Tensor], indices: Sequence[Tensor]) -> Tensor:
    """`reference` of one or two tables, by a kernel. Raises IndexError for an index that is out of range."""
    width, n_rows = tables[0].shape[1], [len(table) for table in tables]
    out, n = tables[0].new_empty(*indices[0].shape, width), indices[0].numel()
    out_of_range = kernels["gather"](table=tables, index=indices, out=out, n=n, width=width, n_rows=n_rows)
    for index, size in zip(indices, n_rows, strict=True):
        require_rows(out_of_range, index, size)
    return out


def scattered(kernels: Library, x: Tensor, indices: Sequence[Tensor], shapes: Sequence[torch.Size]) -> list[Tensor]:
    """For one or two tables of shapes (n, W): the rows of x (..., W), summed by index (...)."""
    tables = [x.new_zeros(shape) for shape in shapes]
    kernels["scatter"](table=tables, index=indices, x=x, n=indices[0].numel(), width=x.shape[-1])
    return tables


def require_rows(out_of_range: bool, index: Tensor, n_rows: int) -> None:
    """Raises IndexError if a kernel has met an index out of range and `index` holds one."""
    if out_of_range and (int(index.min()) < 0 or int(index.max()) >= n_rows):
        raise IndexError(f"an id of {int(index.min())} to {int(index.max())} is none of the {n_rows} rows of a table")


class _Rows(torch.autograd.Function):
    """The sum of rows of tables (n, W) at indices (...): (..., W)."""

    @staticmethod
    def forward(ctx: Any, indices: Sequence[Tensor], padding: int | None, *tables: Tensor) -> Tensor:
        ctx.save_for_backward(*indices)
        ctx.shapes, ctx.padding = [table.shape for table in tables], padding
        if kernels := library(tables[0], tables[0].shape[1]):
            return gathered(kernels, tables, indices)
        pairs = zip(tables, indices, strict=True)
        rows = [table.index_select(0, index.flatten()).view(*index.shape, table.shape[1]) for table, index in pairs]
        return reduce(operator.add, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        indices, width = ctx.saved_tensors, grad.shape[-1]
        if kernels := library(grad, width):
            dtables = scattered(kernels, grad, indices, ctx.shapes)
        else:
            rows = grad.reshape(-1, width)
            pairs = zip(ctx.shapes, indices, strict=True)
            dtables = [grad.new_zeros(shape).index_add_(0, index.flatten(), rows) for shape, index in pairs]
        if ctx.padding is not None:
            dtables[0][ctx.padding].zero_()  # two thirds of the time of `= 0`
        return None, None, *dtables


class _LookupConcat(torch.autograd.Function):
    """`lookup_concat` by a kernel."""

    @staticmethod
    def forward(ctx: Any, kernels: Library, indices: Sequence[Tensor], *tables: Tensor) -> Tensor:
        ctx.save_for_backward(*indices)
        ctx.kernels, ctx.shapes = kernels, [table.shape for table in tables]
        widths = [table.shape[1] for table in tables]
        ctx.sizes = {"n": len(indices[0]), "n_tables": len(tables), "width": widths}
        out, n_rows = tables[0].new_empty(len(indices[0]), sum(widths)), [len(table) for table in tables]
        out_of_range = kernels["gather_beside"](table=tables, index=indices, out=out, n_rows=n_rows, **ctx.sizes)
        for index, size in zip(indices, n_rows, strict=True):
            require_rows(out_of_range, index, size)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        dtables = [grad.new_zeros(shape) for shape in ctx.shapes]
        ctx.kernels["scatter_beside"](table=dtables, index=ctx.saved_tensors, x=grad, **ctx.sizes)
        return None, None, *dtables


class _WeightedSum(torch.autograd.Function):
    """`weighted_sum` by a kernel: weights (B, L), table (n, W), index (B, L) -> (B, W)."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, table: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(weights, table, index)
        (n, length), (n_rows, width) = index.shape, table.shape
        ctx.kernels, ctx.sizes = library(table, width), {"n": n, "length": length, "width": width}
        out = table.new_empty(n, width)
        arrays = {"weights": weights, "table": table, "index": index, "out": out}
        require_rows(ctx.kernels["weighted_sum"](**arrays, **ctx.sizes, n_rows=n_rows), index, n_rows)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, Tensor, None]:
        weights, table, index = ctx.saved_tensors
        dweights, dtable = weights.new_empty(weights.shape), table.new_zeros(table.shape)
        arrays = {"weights": weights, "table": table, "index": index, "dout": dout}
        ctx.kernels["weighted_sum_back"](**arrays, dweights=dweights, dtable=dtable, **ctx.sizes)
        return dweights, dtable, None
