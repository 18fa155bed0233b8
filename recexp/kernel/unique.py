"""The unique values of an index and where each occurs; rows of a table with a gradient of only the rows looked up.

N entries of an index of any shape (...), n unique values; W width of a table
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recexp.kernel.library import library
from recexp.kernel.lookup import gathered, require_rows

LARGEST = 2**31  # of rows and entries: the kernel packs one of each into a word


@dataclass(frozen=True)
class Groups:
    """The unique values of an index in ascending order, and where each occurs."""

    rows: Tensor  # (n,) int64
    order: Tensor  # (N,) int64: positions in the index, those of a value side by side and ascending
    start: Tensor  # (n + 1,) int64: where those of each value start in `order`

    def inverse(self) -> Tensor:
        """The number of each entry's value among the unique ones: (N,) int64."""
        number = torch.arange(len(self.rows), device=self.rows.device).repeat_interleave(self.start.diff())
        return torch.empty_like(self.order).index_copy_(0, self.order, number)


def reference(index: Tensor) -> Groups:
    rows, counts = torch.unique(index, return_counts=True)
    return Groups(rows, index.flatten().argsort(stable=True), torch.cat([counts.new_zeros(1), counts.cumsum(0)]))


def sum_reference(x: Tensor, groups: Groups) -> Tensor:
    """The rows of x (N, W), summed over the entries of each unique value: (n, W)."""
    group = torch.arange(len(groups.rows), device=x.device).repeat_interleave(groups.start.diff())
    return x.new_zeros(len(groups.rows), x.shape[1]).index_add_(0, group, x[groups.order])


def grouped(index: Tensor, table: Tensor) -> Groups:
    """The groups of an index (...) of rows of a table (n_rows, .). Raises IndexError for one that is none of them."""
    kernels, n, n_rows = library(table), index.numel(), len(table)
    if kernels is None or max(n, n_rows) >= LARGEST:
        return reference(index)
    index = index.long()
    rows, order, start, count = (index.new_empty(size) for size in (n, n, n + 1, 1))
    require_rows(
        kernels["group"](index=index, rows=rows, order=order, start=start, count=count, n=n, n_rows=n_rows),
        index,
        n_rows,
    )
    n_unique = int(count)
    return Groups(rows[:n_unique], order, start[: n_unique + 1])


def summed(x: Tensor, groups: Groups) -> Tensor:
    """`sum_reference`, by a kernel where there is one."""
    kernels = library(x)
    if kernels is None:
        return sum_reference(x, groups)
    out = x.new_empty(len(groups.rows), x.shape[1])
    kernels["sum_groups"](x=x, order=groups.order, start=groups.start, out=out, n=len(out), width=x.shape[1])
    return out


def lookup_grouped(table: Tensor, index: Tensor, groups: Groups, padding: int | None = None) -> Tensor:
    """table (n_rows, W), index (...) -> (..., W). The gradient is sparse and coalesced: one value per unique row.

    groups: of the index. padding: 0, if row 0 is to get no gradient.
    """
    assert padding in (None, 0)  # the first row of a gradient, which leaves it without a copy
    return _Grouped.apply(table, index, groups, padding)


def coalesced(grad: Tensor) -> Tensor:
    """A sparse gradient of a table with one value per row, which a single look-up's has without torch marking it."""
    if grad.is_coalesced():
        return grad
    rows, values, shape = grad._indices()[0], grad._values(), grad.shape
    if not bool((rows[1:] > rows[:-1]).all()):
        groups = grouped(rows, grad)
        rows, values = groups.rows, summed(values, groups)
    return torch.sparse_coo_tensor(rows[None], values, shape, is_coalesced=True, check_invariants=False)


class _Grouped(torch.autograd.Function):
    """`lookup_grouped`."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor, groups: Groups, padding: int | None) -> Tensor:
        ctx.groups, ctx.padding, ctx.shape = groups, padding, table.shape
        if kernels := library(table):
            return gathered(kernels, [table], [index.long()])
        return table.index_select(0, index.flatten()).view(*index.shape, table.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows = ctx.groups.rows
        values = summed(grad.reshape(-1, ctx.shape[1]), ctx.groups)
        if ctx.padding is not None and len(rows) and int(rows[0]) == ctx.padding:
            rows, values = rows[1:], values[1:]
        table = torch.sparse_coo_tensor(rows[None], values, ctx.shape, is_coalesced=True, check_invariants=False)
        return table, None, None, None
