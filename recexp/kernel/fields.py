"""Sums over the fields of a row, for a factorization machine and the first layer of an MLP, from one look-up.

n rows, F fields, D embedding size, H outputs of the linear layer; S = sum_i e_i, Q = sum_i e_i^2
Rendle, ICDM 2010, lemma 3.1   sum_{i<j} e_i * e_j = (S^2 - Q) / 2
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recexp.kernel.device import on_cpu
from recexp.kernel.library import Library, library
from recexp.kernel.linear import product


def reference(e: Tensor, weight: Tensor | None) -> Tensor:
    """[S, Q, W e]."""
    e_wide = e.to(torch.promote_types(e.dtype, torch.float32))
    sums = [e_wide.sum(1), e_wide.square().sum(1)]
    return torch.cat(sums if weight is None else [*sums, product(e.flatten(1), weight)], 1)


def split_reference(sums: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """(S^2 - Q) / 2 and W e + b."""
    hidden = 0 if bias is None else len(bias)
    dim = (sums.shape[1] - hidden) // 2
    s, q, linear = sums.split([dim, dim, hidden], 1)
    return (s.square() - q) / 2, linear if bias is None else linear + bias


def field_sums(e: Tensor, weight: Tensor | None = None) -> Tensor:
    """[S, Q, W e] side by side: e (n, F, D), weight (H, F D) -> (n, 2 D + H).

    Results of disjoint sets of fields add up. In fp32 at least: the difference of two large sums has no correct digit
    left in bfloat16.
    """
    hidden = 0 if weight is None else len(weight)
    kernels = library(e, e.shape[2], hidden) if on_cpu(e) else None
    return reference(e, weight) if kernels is None else _FieldSums.apply(kernels, e, weight)


def split_sums(sums: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The products of pairs (n, D) and W e + b (n, H), from [S, Q, W e] (n, 2 D + H) and b (H,)."""
    hidden = 0 if bias is None else len(bias)
    kernels = library(sums, (sums.shape[1] - hidden) // 2, hidden) if on_cpu(sums) else None
    return split_reference(sums, bias) if kernels is None else _SplitSums.apply(kernels, sums, bias)


class _FieldSums(torch.autograd.Function):
    """`field_sums` by a kernel."""

    @staticmethod
    def forward(ctx: Any, kernels: Library, e: Tensor, weight: Tensor | None) -> Tensor:
        (n, n_fields, dim), hidden = e.shape, 0 if weight is None else len(weight)
        ctx.kernels, ctx.sizes = kernels, {"n": n, "n_fields": n_fields, "dim": dim, "hidden": hidden}
        ctx.save_for_backward(e, weight)
        out = e.new_empty(n, 2 * dim + hidden)
        kernels["field_sums"](e=e, weight=None if weight is None else weight.t(), out=out, **ctx.sizes)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        e, weight = ctx.saved_tensors
        de, dweight = e.new_empty(e.shape), None if weight is None else weight.new_empty(weight.shape)
        ctx.kernels["field_sums_back"](e=e, weight=weight, dout=dout, de=de, dweight=dweight, **ctx.sizes)
        return None, de, dweight


class _SplitSums(torch.autograd.Function):
    """`split_sums` by a kernel."""

    @staticmethod
    def forward(ctx: Any, kernels: Library, sums: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        hidden = 0 if bias is None else len(bias)
        dim = (sums.shape[1] - hidden) // 2
        ctx.kernels, ctx.sizes = kernels, {"n": len(sums), "dim": dim, "hidden": hidden}
        ctx.save_for_backward(sums)
        pairs, linear = sums.new_empty(len(sums), dim), sums.new_empty(len(sums), hidden)
        kernels["split_sums"](sums=sums, bias=bias, pairs=pairs, linear=linear, **ctx.sizes)
        return pairs, linear

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dpairs: Tensor, dlinear: Tensor) -> tuple[Tensor | None, ...]:
        (sums,) = ctx.saved_tensors
        hidden = ctx.sizes["hidden"]
        dsums, dbias = sums.new_empty(sums.shape), sums.new_empty(hidden) if hidden else None
        given = {"sums": sums, "dpairs": dpairs, "dlinear": dlinear}
        ctx.kernels["split_sums_back"](**given, dsums=dsums, dbias=dbias, **ctx.sizes)
        return None, dsums, dbias
