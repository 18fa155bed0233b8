"""Two gates on the same numbers, and the linear layer after each. Mao et al., FinalMLP, AAAI 2023.

B batch, N size of e, n_k unique rows of s_k, H_k outputs
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recexp.kernel.device import on_cpu
from recexp.kernel.library import Library, library
from recexp.kernel.linear import product
from recexp.kernel.lookup import lookup, require_rows

Rows = tuple[Tensor, Tensor]  # s_k (n_k, N) and the index (B,) of its rows
Linear = tuple[Tensor, Tensor]  # weight (H_k, N) and bias (H_k,)


def reference(e: Tensor, gates: Sequence[Rows], linears: Sequence[Linear | None]) -> tuple[Tensor, ...]:
    """`gated_linear` operation by operation."""
    inputs = [2 * lookup(s, index) * e for s, index in gates]
    return tuple(x if linear is None else product(x, *linear) for x, linear in zip(inputs, linears, strict=True))


def gated_linear(e: Tensor, gates: Sequence[Rows], linears: Sequence[Linear | None]) -> tuple[Tensor, ...]:
    """W_k (2 s_k * e) + b_k for k = 1, 2: e (B, N) -> (B, H_k) each.

    Without a linear layer: 2 s_k * e (B, N).
    """
    given = [linear for linear in linears if linear is not None]
    widths = [len(bias) for _, bias in given]
    kernels = library(e, e.shape[1], *widths) if on_cpu(e) and len(given) == 2 else None
    if kernels is None:
        return reference(e, gates, linears)
    shares, indices = zip(*gates, strict=True)
    return _GatedLinear.apply(kernels, e, indices, *shares, *(array for linear in given for array in linear))


class _GatedLinear(torch.autograd.Function):
    """`gated_linear` by a kernel, whose backward pass computes 2 s_k * e again."""

    @staticmethod
    def forward(
        ctx: Any, kernels: Library, e: Tensor, indices: Sequence[Tensor], *arrays: Tensor
    ) -> tuple[Tensor, ...]:
        shares, weights, biases = arrays[:2], arrays[2::2], arrays[3::2]
        ctx.kernels, ctx.sizes = kernels, {"n": len(e), "dim": e.shape[1], "n_out": [len(bias) for bias in biases]}
        ctx.save_for_backward(e, *indices, *shares, *weights)
        out = tuple(e.new_empty(len(e), len(bias)) for bias in biases)
        turned = [weight.t() for weight in weights]
        n_rows = [len(share) for share in shares]
        out_of_range = kernels["gated_linear"](
            e=e, s=shares, index=indices, weight=turned, bias=biases, out=out, n_rows=n_rows, **ctx.sizes
        )
        for index, size in zip(indices, n_rows, strict=True):
            require_rows(out_of_range, index, size)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *dout: Tensor) -> tuple[Tensor | None, ...]:
        e, *arrays = ctx.saved_tensors
        indices, shares, weights = arrays[:2], arrays[2:4], arrays[4:]
        n, dim = e.shape
        de, ds, dshares = e.new_empty(n, dim), e.new_empty(n, 2 * dim), [e.new_zeros(share.shape) for share in shares]
        dweights, dbiases = [e.new_empty(w.shape) for w in weights], [e.new_empty(len(w)) for w in weights]
        given = {"e": e, "s": shares, "index": indices, "weight": weights, "dout": dout, "de": de, "ds": ds}
        ctx.kernels["gated_linear_back"](**given, dweight=dweights, dbias=dbiases, **ctx.sizes)
        tables = {"table": dshares, "index": indices, "width": [dim, dim], "n_tables": 2}
        ctx.kernels["scatter_beside"](**tables, x=ds, n=n)
        return None, de, None, *dshares, dweights[0], dbiases[0], dweights[1], dbiases[1]
