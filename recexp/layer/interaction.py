"""Pairs of fields: their sums in linear time, and one by one.

B batch, F fields, P = F (F - 1) / 2 pairs, D embedding size; S = sum_i e_i
Rendle, ICDM 2010, lemma 3.1   sum_{i<j} <e_i, e_j> = 1/2 sum_d (S_d^2 - sum_i e_id^2)
He & Chua, NFM, SIGIR 2017, eq. 4   the same before the sum over d
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recexp.kernel.library import kernels, known_kernels
from recexp.layer.lookup import on_cpu
from recexp.layer.product import product


def bi_interaction(e: Tensor) -> Tensor:
    """Elementwise products of all pairs, summed: e (B, F, D) -> (B, D)."""
    return pairs(moments(e))


def moments(e: Tensor) -> Tensor:
    """S and sum_i e_i^2 side by side: e (B, F, D) -> (B, 2 D). Those of disjoint sets of fields add up.

    In fp32 at least: the difference of two large sums has no correct digit left in bfloat16.
    """
    return terms(e, None)


def terms(e: Tensor, weight: Tensor | None) -> Tensor:
    """moments(e) and, given a weight (H, F D), beside them its product: e (B, F, D) -> (B, 2 D + H)."""
    hidden = 0 if weight is None else len(weight)
    if on_cpu(e) and kernels(e, e.shape[2], hidden):
        return _Terms.apply(e, weight)
    wide = e.to(torch.promote_types(e.dtype, torch.float32))
    both = [wide.sum(1), wide.square().sum(1)]
    return torch.cat(both if weight is None else [*both, product(e.flatten(1), weight)], 1)


def pairs(moments: Tensor) -> Tensor:
    """Elementwise products of all pairs, summed, of the fields' moments (B, 2 D) -> (B, D)."""
    return apart(moments, None)[0]


def apart(sums: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Of sums of terms (B, 2 D + H) the pairs (B, D), and their products plus a bias (H,): (B, H)."""
    hidden = 0 if bias is None else len(bias)
    dim = (sums.shape[1] - hidden) // 2
    if on_cpu(sums) and kernels(sums, dim, hidden):
        return _Apart.apply(sums, bias)
    total, squares, rest = sums.split([dim, dim, hidden], 1)
    return (total.square() - squares) / 2, rest if bias is None else rest + bias


class _Terms(torch.autograd.Function):
    """`terms` by a kernel."""

    @staticmethod
    def forward(ctx: Any, e, weight):
        hidden, transposed = (0, None) if weight is None else (len(weight), weight.t())
        ctx.save_for_backward(e, weight)
        out = e.new_empty(len(e), 2 * e.shape[2] + hidden)
        known_kernels(e, e.shape[2], hidden)("terms", e, transposed, out, *e.shape, hidden, None, None)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout):
        e, weight = ctx.saved_tensors
        shape = (0, 0) if weight is None else weight.shape
        run, de = known_kernels(e, e.shape[2], shape[0]), e.new_empty(e.shape)
        dweight = e.new_empty(shape)
        run("terms_back", e, None, dout, *e.shape, shape[0], weight, de, sums=[dweight])
        return de, None if weight is None else dweight


class _Apart(torch.autograd.Function):
    """`apart` by a kernel."""

    @staticmethod
    def forward(ctx: Any, sums, bias):
        hidden = 0 if bias is None else len(bias)
        dim = (sums.shape[1] - hidden) // 2
        products, rest = sums.new_empty(len(sums), dim), sums.new_empty(len(sums), hidden)
        known_kernels(sums, dim, hidden)("apart", sums, bias, products, rest, None, len(sums), dim, hidden)
        ctx.save_for_backward(sums)
        return products, rest

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dproducts, drest):
        (sums,) = ctx.saved_tensors
        dim, hidden = dproducts.shape[1], drest.shape[1]
        run, dsums = known_kernels(sums, dim, hidden), sums.new_empty(sums.shape)
        dbias = sums.new_empty(hidden)
        run("apart_back", sums, None, dproducts, drest, dsums, len(sums), dim, hidden, sums=[dbias])
        return dsums, dbias if hidden else None


def pair_products(e: Tensor) -> Tensor:
    """Elementwise products of the pairs (0, 1), (0, 2), ..., (F - 2, F - 1): e (B, F, D) -> (B, P, D)."""
    first, second = torch.triu_indices(e.shape[1], e.shape[1], offset=1, device=e.device)
    return e.index_select(1, first) * e.index_select(1, second)
