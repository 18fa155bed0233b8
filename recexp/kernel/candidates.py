"""Scores of a few items for each query: dot products with rows of a table.

P queries, S items for each, n rows of the table, D their size
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recexp.kernel.library import Library, filled, library
from recexp.kernel.lookup import require_rows
from recexp.kernel.unique import Groups

LARGEST = 2**21  # numbers of looked-up rows at once, without a kernel


def reference(query: Tensor, table: Tensor, index: Tensor) -> Tensor:
    """<q_p, row index_ps>: query (P, D), table (n, D), index (P, S) -> (P, S)."""
    return torch.bmm(table[index], query[:, :, None])[:, :, 0]


def scores(query: Tensor, table: Tensor, index: Tensor) -> Tensor:
    """As `reference`, without keeping the rows looked up."""
    return _Scores.apply(*filled(query, table), index, None)


def scores_grouped(query: Tensor, table: Tensor, groups: Groups, n_each: int) -> Tensor:
    """The same of an index (P, S) whose groups are known, their unique values in order the rows of the table: (P, S).

    n_each: S.
    """
    shape = len(query), n_each
    query, table = filled(query, table)
    if library(query, query.shape[1]):
        return _Scores.apply(query, table, groups.order.view(shape), groups)
    return scores(query, table, groups.inverse().view(shape))


class _Scores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, table: Tensor, index: Tensor, groups: Groups | None) -> Tensor:
        """groups: of the index, if they are known; of the index only the shape is read then."""
        ctx.save_for_backward(query, table, index)
        ctx.kernels, ctx.all_rows = library(query, query.shape[1]), groups is not None
        if ctx.kernels is None:
            parts = zip(query.split(_rows(index, query)), index.split(_rows(index, query)), strict=True)
            return torch.cat([reference(q, table, i) for q, i in parts])
        start, entry = _sorted(ctx.kernels, index, len(table)) if groups is None else _entries(groups, index.shape[1])
        ctx.given = {"start": start, "entry": entry, "width": query.shape[1], "n_rows": len(table)}
        out = query.new_empty(index.shape)
        ctx.kernels["candidates"](query=query, table=table, out=out, **ctx.given)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        query, table, index = ctx.saved_tensors
        empty = torch.empty_like if ctx.all_rows else torch.zeros_like  # a kernel sets each row that has entries
        dquery, dtable = query.new_zeros(query.shape), empty(table)
        if ctx.kernels is not None:
            arrays = {"query": query, "table": table, "dout": dout, "dquery": dquery, "dtable": dtable}
            ctx.kernels["candidates_back"](**arrays, **ctx.given)
            return dquery, dtable, None, None
        size = _rows(index, query)
        for start in range(0, len(query), size):
            rows = slice(start, start + size)
            dquery[rows] = torch.bmm(dout[rows, None], table[index[rows]])[:, 0]
            outer = dout[rows, :, None] * query[rows, None]  # (P, S, D)
            dtable.index_add_(0, index[rows].flatten(), outer.flatten(0, 1))
        return dquery, dtable, None, None


def _sorted(kernels: Library, index: Tensor, n_rows: int) -> tuple[Tensor, Tensor]:
    """Where the entries of each row begin: (rows + 1,), and the entries by row, as candidates.c says: (P S,)."""
    start, entry = index.new_zeros(n_rows + 1), index.new_empty(index.numel())
    sizes = {"n": len(index), "n_each": index.shape[1], "n_rows": n_rows}
    out_of_range = kernels["candidates_sort"](index=index, start=start, entry=entry, **sizes)
    require_rows(out_of_range, index, n_rows)
    return start, entry


def _entries(groups: Groups, n_each: int) -> tuple[Tensor, Tensor]:
    """`_sorted` of an index whose groups are known, S entries for each query."""
    order = groups.order
    return groups.start, order.div(n_each, rounding_mode="floor").bitwise_left_shift_(32).bitwise_or_(order)


def _rows(index: Tensor, query: Tensor) -> int:
    """Queries at once, without a kernel."""
    return max(1, LARGEST // max(1, index.shape[1] * query.shape[1]))
