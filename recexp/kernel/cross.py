"""The full crosses of DCN v2, one after another, and a Linear from them to one number.

Wang et al., WWW 2021, eq. 1   x_l+1 = x_0 * (W_l x_l + b_l) + x_l
B batch, N size of x_0, L crosses
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recexp.kernel.device import on_cpu
from recexp.kernel.library import Library, library
from recexp.kernel.linear import product


def reference(x0: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], last: Tensor | None) -> Tensor:
    """`crosses` one by one."""
    x = x0
    for weight, bias in zip(weights, biases, strict=True):
        x = torch.addcmul(x, x0, product(x, weight, bias))
    return x if last is None else product(x, last)


def crosses(x0: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], last: Tensor | None = None) -> Tensor:
    """x_L (B, N), or x_L last^T (B, 1): x_0 (B, N), weights (N, N) and biases (N,) of the crosses, last (1, N)."""
    kernels = library(x0, x0.shape[1]) if on_cpu(x0) else None
    if kernels is None:
        return reference(x0, weights, biases, last)
    return _Crosses.apply(kernels, x0, last, *weights, *biases)


class _Crosses(torch.autograd.Function):
    """`crosses` by a kernel, which keeps the products and computes each x_l again."""

    @staticmethod
    def forward(ctx: Any, kernels: Library, x0: Tensor, last: Tensor | None, *parameters: Tensor) -> Tensor:
        n_layers = len(parameters) // 2
        weights, biases = parameters[:n_layers], parameters[n_layers:]
        (n, dim), z = x0.shape, x0.new_empty(n_layers, *x0.shape)
        ctx.kernels, ctx.sizes = kernels, {"n": n, "dim": dim, "n_layers": n_layers}
        ctx.save_for_backward(x0, z, last, *weights)
        turned, out = torch.stack([weight.t() for weight in weights]), x0.new_empty(n, dim if last is None else 1)
        kernels["cross"](x=x0, weight=turned, bias=torch.stack(biases), last=last, z=z, out=out, **ctx.sizes)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        x0, z, last, *weights = ctx.saved_tensors
        weight, dx = torch.stack(weights), x0.new_empty(x0.shape)
        dlast = None if last is None else last.new_empty(last.shape)
        dweight, dbias = weight.new_empty(weight.shape), weight.new_empty(weight.shape[:2])
        grads = {"dout": dout, "dx": dx, "dweight": dweight, "dbias": dbias, "dlast": dlast}
        ctx.kernels["cross_back"](x=x0, z=z, weight=weight, last=last, **grads, **ctx.sizes)
        return None, dx, dlast, *dweight, *dbias
