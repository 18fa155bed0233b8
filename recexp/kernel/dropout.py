"""Dropout, by itself and inside kernels: a function of only a seed and a number's position (kernel.h, kept)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from recexp.kernel.library import Library, library


def dropped(*probabilities: float) -> tuple[int, ...]:
    """Dropout thresholds in units of 2^-32, and a seed that torch's generator draws; all 0 if nothing is dropped."""
    thresholds = [min(round(p * 2**32), 2**32 - 1) for p in probabilities]
    return *thresholds, int(torch.randint(2**31, ())) if any(thresholds) else 0


def dropout(x: Tensor, p: float) -> Tensor:
    """x (..., D) with numbers set to 0 with probability p, the others divided by 1 - p."""
    if not p:
        return x
    kernels = library(x, x.shape[-1])
    return F.dropout(x, p) if kernels is None else _Dropout.apply(kernels, x, p)


class _Dropout(torch.autograd.Function):
    """Keeps a seed in place of the factors."""

    @staticmethod
    def forward(ctx: Any, kernels: Library, x: Tensor, p: float) -> Tensor:
        ctx.kernels, (threshold, seed) = kernels, dropped(p)
        ctx.options = {"n": x.shape[:-1].numel(), "dim": x.shape[-1], "dropped": threshold, "seed": seed}
        return _Dropout._times_factors(ctx, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, _Dropout._times_factors(ctx, grad), None

    @staticmethod
    def _times_factors(ctx: Any, x: Tensor) -> Tensor:
        out = x.new_empty(x.shape)
        ctx.kernels["drop"](x=x, out=out, **ctx.options)
        return out
