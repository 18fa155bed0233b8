"""Scores of a few items for each query: dot products with rows of a table.

P queries, S items for each, n rows of the table, D their size
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recexp.kernel.library import library
from recexp.kernel.lookup import require_rows

LARGEST = 2**21  # numbers of looked-up rows at once, without a kernel


def reference(query: Tensor, table: Tensor, index: Tensor) -> Tensor:
    """<q_p, row index_ps>: query (P, D), table (n, D), index (P, S) -> (P, S)."""
    return torch.bmm(table[index], query[:, :, None])[:, :, 0]


def scores(query: Tensor, table: Tensor, index: Tensor) -> Tensor:
    """As `reference`, without keeping the rows looked up."""
    return _Scores.apply(query, table, index)


class _Scores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, table: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(query, table, index)
        ctx.kernels = library(query, query.shape[1])
        if ctx.kernels is None:
            parts = zip(query.split(_rows(index, query)), index.split(_rows(index, query)), strict=True)
            return torch.cat([reference(q, table, i) for q, i in parts])
        (n, n_each), n_rows = index.shape, len(table)
        start, entry = index.new_zeros(n_rows + 1), index.new_empty(index.numel())
        sizes = {"n": n, "n_each": n_each, "n_rows": n_rows}
        out_of_range = ctx.kernels["candidates_sort"](index=index, start=start, entry=entry, **sizes)
        require_rows(out_of_range, index, n_rows)
        ctx.given = {"start": start, "entry": entry, "width": query.shape[1], "n_rows": n_rows}
        out = query.new_empty(index.shape)
        ctx.kernels["candidates"](query=query, table=table, out=out, **ctx.given)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, Tensor, None]:
        query, table, index = ctx.saved_tensors
        dquery, dtable = query.new_zeros(query.shape), table.new_zeros(table.shape)
        if ctx.kernels is not None:
            arrays = {"query": query, "table": table, "dout": dout, "dquery": dquery, "dtable": dtable}
            ctx.kernels["candidates_back"](**arrays, **ctx.given)
            return dquery, dtable, None
        size = _rows(index, query)
        for start in range(0, len(query), size):
            rows = slice(start, start + size)
            dquery[rows] = torch.bmm(dout[rows, None], table[index[rows]])[:, 0]
            outer = dout[rows, :, None] * query[rows, None]  # (P, S, D)
            dtable.index_add_(0, index[rows].flatten(), outer.flatten(0, 1))
        return dquery, dtable, None


def _rows(index: Tensor, query: Tensor) -> int:
    """Queries at once, without a kernel."""
    return max(1, LARGEST // max(1, index.shape[1] * query.shape[1]))
