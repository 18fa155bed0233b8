"""Pointwise attention over packed sequences, with biases of position and time (Zhai et al., HSTU, ICML 2024).

T events of n sequences, one after another; D model size, h heads
    A_sr = silu(<q_s, k_r> + position[s - r] + time[bucket(age_r - age_s)]) / scale      for r <= s, else 0
    out = A v
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recexp.kernel.device import on_cpu
from recexp.kernel.library import Library, library


def attend_pointwise(
    x: Tensor,
    age: Tensor,
    position: Tensor,
    time: Tensor,
    start: Tensor,
    length: Tensor,
    n_heads: int,
    scale: int,
    last: bool,
    reference: Callable[[], Tensor],
) -> Tensor:
    """The heads side by side: (T, D), or (n, D) if the last event of each sequence alone asks.

    x: each event's v, q and k side by side (T, 3 D). age (T,): time from each event to the end of its sequence.
    position: a bias (P, 1) by how many events lie between, P the length of the longest sequence or more. time: one
    (K, 1) by the bucket of the time between, floor(log2(1 + time)). start, length (n,): of the sequences, on a CPU.
    reference: returns the same, if there is no kernel.
    """
    kernels = library(x, x.shape[1] // 3 // n_heads) if on_cpu(x) else None
    longest = int(length.max()) if len(length) else 0
    if kernels is None or longest > len(position):
        return reference()
    options = {"n_heads": n_heads, "scale": scale, "last": int(last), "longest": longest}
    return _AttendPointwise.apply(kernels, options, start, length, age.float(), x, position, time)


class _AttendPointwise(torch.autograd.Function):
    """`attend_pointwise` by a kernel."""

    @staticmethod
    def forward(ctx: Any, kernels: Library, options: dict[str, int], start, length, age, x, position, time) -> Tensor:
        dim = x.shape[1] // 3
        ctx.kernels, ctx.options = kernels, {"n": len(length), "dim": dim, "n_buckets": len(time), **options}
        ctx.save_for_backward(start, length, age, x, position, time)
        out = x.new_empty(len(length) if options["last"] else len(x), dim)
        given = {"x": x, "age": age, "position": position, "time": time, "start": start, "length": length}
        kernels["attend_pointwise"](**given, out=out, **ctx.options)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        start, length, age, x, position, time = ctx.saved_tensors
        dx, dposition, dtime = x.new_zeros(x.shape), torch.empty_like(position), torch.empty_like(time)
        given = {"x": x, "age": age, "position": position, "time": time, "start": start, "length": length}
        ctx.kernels["attend_pointwise_back"](**given, dout=dout, dx=dx, dposition=dposition, dtime=dtime, **ctx.options)
        return None, None, None, None, None, dx, dposition, dtime
