"""Attention among the fields of each row, with a residual. Song et al., AutoInt, CIKM 2019, eq. 5 to 8.

B batch, F fields, N size of a field, A attention size, h heads of size d = A / h
head = softmax(scale <Q e_i, K e_j>) V e over the fields j
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recexp.kernel.attention import attend
from recexp.kernel.device import on_cpu
from recexp.kernel.dropout import dropped
from recexp.kernel.library import Library, library
from recexp.kernel.linear import product


def reference(
    x: Tensor, weights: Sequence[Tensor], residual: Tensor | None, n_heads: int, scale: float, relu: bool, p: float
) -> Tensor:
    """`attend_fields` operation by operation."""
    w_q, w_k, w_v = weights
    root = (len(w_q) / n_heads) ** 0.5  # `attend` divides by it
    seen = x.new_ones(x.shape[:2], dtype=torch.bool)
    heads = attend(x, x, (scale * root * w_q, w_k, w_v), seen, n_heads, p)
    y = heads + (x if residual is None else product(x, residual))
    return torch.relu(y) if relu else y


def attend_fields(
    x: Tensor, weights: Sequence[Tensor], residual: Tensor | None, n_heads: int, scale: float, relu: bool, p: float
) -> Tensor:
    """The heads side by side plus R e, after a relu if asked for: x (B, F, N) -> (B, F, A).

    weights: Q, K and V (A, N). residual: R (A, N), None for the identity, with A = N. p: dropout probability of the
    softmax.
    """
    kernels = library(x, *weights[0].shape) if on_cpu(x) else None
    if kernels is None:
        return reference(x, weights, residual, n_heads, scale, relu, p)
    threshold, seed = dropped(p)
    options = {"n_heads": n_heads, "relu": int(relu), "dropped": threshold, "seed": seed, "scale": scale}
    return _AttendFields.apply(kernels, options, x, *weights, *([] if residual is None else [residual]))


class _AttendFields(torch.autograd.Function):
    """`attend_fields` by a kernel, whose backward pass computes products and softmax again."""

    @staticmethod
    def forward(ctx: Any, kernels: Library, options: dict[str, float], x: Tensor, *parameters: Tensor) -> Tensor:
        (n, n_fields, n_in), weight, size = x.shape, torch.cat(parameters), len(parameters[0])
        sizes = {"n": n if n_fields else 0, "n_fields": n_fields, "n_in": n_in, "size": size, "n_out": len(weight)}
        y, ctx.kernels, ctx.options = x.new_empty(n, n_fields, size), kernels, {**sizes, **options}
        kernels["field_attention"](x=x, weight=weight, y=y, **ctx.options)
        ctx.save_for_backward(x, y, weight)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, y, weight = ctx.saved_tensors
        dx, dweight = x.new_empty(x.shape), weight.new_empty(weight.shape)
        ctx.kernels["field_attention_back"](x=x, weight=weight, y=y, dy=dy, dx=dx, dweight=dweight, **ctx.options)
        return None, None, dx, *dweight.split(ctx.options["size"])
