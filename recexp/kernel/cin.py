"""A compressed interaction network. Lian et al., xDeepFM, KDD 2018.

B batch, F fields, D embedding size; G maps x that a layer reads, H that it makes
eq. 6   x'_h = sum_g sum_f W_hgf x_g * e_f,  at first x = e
eq. 7   p = [sum_d x_hd for each layer and h]; a split layer gives some maps to p, the others to the next layer
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recexp.kernel.device import on_cpu
from recexp.kernel.library import Library, library

MOST = 8  # the most parts that the kernel takes


class Part(NamedTuple):
    """Maps of the same layer that go to the same places."""

    weight: Tensor  # (H, G F)
    kept: bool  # the next layer reads them
    summed: bool  # p has their sums


def reference(e: Tensor, parts: Sequence[Part]) -> Tensor:
    """`interactions` with the samples on the last axis, the longest, where products are fastest."""
    n, _, dim = e.shape
    x = x0 = e.transpose(0, 1).flatten(1)  # (F, B D)
    sums = []
    for weight, kept, summed in parts:
        maps = compressed(x, x0, weight)  # (H, B D)
        if summed:
            sums.append(maps.unflatten(1, (n, dim)).sum(2))  # (H, B)
        x = maps if kept else x
    return torch.cat(sums).t()


def compressed(x: Tensor, x0: Tensor, weight: Tensor) -> Tensor:
    """The double sum of eq. 6, by the smaller tensor on the way: x (G, N), x0 (F, N), weight (H, G F) -> (H, N)."""
    if len(x) <= len(weight):
        return weight @ (x[:, None] * x0).flatten(0, 1)
    weight = weight.unflatten(1, (len(x), len(x0))).transpose(1, 2)  # (H, F, G)
    return ((weight.flatten(0, 1) @ x).unflatten(0, weight.shape[:2]) * x0).sum(1)


def interactions(e: Tensor, parts: Sequence[Part], otherwise: Callable[[], Tensor]) -> Tensor:
    """p (B, n_out) of e (B, F, D). A part reads the last part before it that is kept, or else e.

    otherwise: returns the same, if there is no kernel.
    """
    kernels = library(e) if on_cpu(e) and len(parts) <= MOST else None
    if kernels is None:
        return otherwise()
    options = {
        "n_parts": len(parts),
        "size": [len(part.weight) for part in parts],
        "kept": [int(part.kept) for part in parts],
        "summed": [int(part.summed) for part in parts],
        "n_out": sum(len(part.weight) for part in parts if part.summed),
    }
    return _Interactions.apply(kernels, options, e, *(part.weight for part in parts))


class _Interactions(torch.autograd.Function):
    """`interactions` by a kernel."""

    @staticmethod
    def forward(ctx: Any, kernels: Library, options: dict[str, Any], e: Tensor, *weights: Tensor) -> Tensor:
        n, n_fields, dim = e.shape
        ctx.kernels, ctx.options = kernels, {"n": n, "n_fields": n_fields, "dim": dim, **options}
        ctx.save_for_backward(e, *weights)
        out = e.new_empty(n, options["n_out"])
        kernels["cin"](e=e, weight=weights, out=out, **ctx.options)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        e, *weights = ctx.saved_tensors
        lanes = ctx.kernels.lanes
        padded = [weight.new_empty(weight.shape[1], -(-len(weight) // lanes) * lanes) for weight in weights]
        de = e.new_empty(e.shape)
        ctx.kernels["cin_back"](e=e, weight=weights, dout=dout, de=de, dweight=padded, **ctx.options)
        dweights = [dweight[:, : len(weight)].t() for dweight, weight in zip(padded, weights, strict=True)]
        return None, None, de, *dweights
