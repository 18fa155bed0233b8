"""Softmax attention over packed sequences (Vaswani et al., NeurIPS 2017, eq. 1), each event in its place.

T events of n sequences, one after another; D model size, W = 3 D of [q, k, v] or 2 D of [k, v]
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recexp.kernel.device import on_cpu
from recexp.kernel.dropout import dropped
from recexp.kernel.library import Library, library


def attend_packed(
    q: Tensor | None,
    x: Tensor,
    start: Tensor,
    length: Tensor,
    n_heads: int,
    causal: bool,
    p: float,
    reference: Callable[[], Tensor],
) -> Tensor:
    """The heads side by side: (T, D), or (n, D) for queries q (n, D).

    x: each event's q, k and v side by side (T, 3 D), which sees all of its sequence or, if causal, itself and those
    before it; k and v (T, 2 D) if each sequence has one query, which sees all of it. start, length (n,): of the
    sequences, on a CPU. p: dropout probability of the softmax. reference: returns the same, if there is no kernel.
    """
    dim = x.shape[1] // (3 if q is None else 2)
    kernels = library(x, dim // n_heads) if on_cpu(x) else None
    if kernels is None:
        return reference()
    threshold, seed = dropped(p)
    options = {"n_heads": n_heads, "causal": int(causal), "dropped": threshold, "seed": seed}
    return _AttendPacked.apply(kernels, options, start, length, q, x)


class _AttendPacked(torch.autograd.Function):
    """`attend_packed` by a kernel."""

    @staticmethod
    def forward(ctx: Any, kernels: Library, options: dict[str, int], start, length, q, x) -> Tensor:
        dim = x.shape[1] // 3 if q is None else q.shape[1]
        longest = int(length.max()) if len(length) else 0
        ctx.options = {"n": len(length), "dim": dim, "width": x.shape[1], "longest": longest, **options}
        ctx.kernels = kernels
        ctx.save_for_backward(start, length, q, x)
        out = x.new_empty(len(x) if q is None else len(q), dim)
        kernels["attend_packed"](q=q, x=x, start=start, length=length, out=out, **ctx.options)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        start, length, q, x = ctx.saved_tensors
        dq, dx = None if q is None else q.new_empty(q.shape), x.new_empty(x.shape)
        given = {"q": q, "x": x, "start": start, "length": length, "dout": dout}
        ctx.kernels["attend_packed_back"](**given, dq=dq, dx=dx, **ctx.options)
        return None, None, None, None, dq, dx
