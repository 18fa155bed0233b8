"""A Linear of the bilinear products of all pairs of fields. Huang et al., FiBiNET, RecSys 2019, eq. 5 to 7.

B batch, F fields, P = F (F - 1) / 2 pairs, D embedding size, H outputs of the Linear
p_ij = (v_i W) * v_j, v_i = a_i e_i; W may depend on i or on (i, j)
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recexp.kernel.device import on_cpu
from recexp.kernel.library import Library, library


def linear_of_products(
    e: Tensor,
    scale: Tensor | None,
    weight: Tensor,
    linear: Tensor,
    by_field: bool,
    by_pair: bool,
    otherwise: Callable[[], Tensor],
) -> Tensor:
    """[p_01, p_02, ...] A^T for a Linear's weight A: e (B, F, D), A (H, P D) -> (B, H).

    scale: the a_i (B, F), 1 without it. weight: one W (1, D, D), or by field (F, D, D), or by pair (P, D, D).
    otherwise: returns the same, if there is no kernel.
    """
    kernels = library(e, e.shape[2], len(linear)) if on_cpu(e) else None
    if kernels is None:
        return otherwise()
    by = {"by_field": int(by_field), "by_pair": int(by_pair)}
    return _LinearOfProducts.apply(kernels, by, e, scale, weight, linear)


class _LinearOfProducts(torch.autograd.Function):
    """`linear_of_products` by a kernel: the products are never in memory."""

    @staticmethod
    def forward(ctx: Any, kernels: Library, by: dict[str, int], e, scale, weight, linear) -> Tensor:
        n, n_fields, dim = e.shape
        ctx.kernels, ctx.options = kernels, {"n": n, "n_fields": n_fields, "dim": dim, "hidden": len(linear), **by}
        ctx.save_for_backward(e, scale, weight, linear)
        out = e.new_empty(n, len(linear))
        kernels["bilinear"](e=e, scale=scale, weight=weight, first=linear.t(), out=out, **ctx.options)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        e, scale, weight, linear = ctx.saved_tensors
        de, dweight, dlinear = (x.new_empty(x.shape) for x in (e, weight, linear))
        dscale = None if scale is None else scale.new_empty(scale.shape)
        given = {"e": e, "scale": scale, "weight": weight, "first": linear, "turned": weight.transpose(1, 2)}
        grads = {"de": de, "dscale": dscale, "dweight": dweight, "dfirst": dlinear}
        ctx.kernels["bilinear_back"](**given, dout=dout, **grads, **ctx.options)
        return None, None, de, dscale, dweight, dlinear
