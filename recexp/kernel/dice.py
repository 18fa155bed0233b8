"""Dice with the linear layer after it, and the batch statistics that it uses.

Zhou et al., Deep Interest Network, KDD 2018
eq. 9   f(s) = p s + (1 - p) alpha s,  p = sigmoid((s - E[s]) / sqrt(Var[s] + eps))

N rows, C channels, O outputs of the linear layer
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from recexp.kernel.device import on_cpu, waits
from recexp.kernel.library import Library, library
from recexp.kernel.linear import product, times, weight_gradient


class Running(NamedTuple):
    """The running statistics of channels, which training batches of two rows or more update in place."""

    mean: Tensor  # (C,)
    var: Tensor  # (C,), unbiased
    eps: float
    momentum: float


def reference(x: Tensor, alpha: Tensor, mean: Tensor, var: Tensor, eps: float) -> Tensor:
    """Eq. 9: x (..., C), the others (C,) -> (..., C)."""
    p = torch.sigmoid((x - mean) / (var + eps).sqrt())
    return p * x + (1 - p) * alpha * x


def dice(
    x: Tensor,
    mask: Tensor | None,
    alpha: Tensor,
    running: Running,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Dice(x) in training, or its product with a weight (O, C), plus a bias (O,): x (..., C) -> (..., C or O).

    mask (...) bool: the positions that count in the statistics; all if it is None.
    """
    if weight is not None and not on_cpu(x):
        return product(dice(x, mask, alpha, running), weight, bias)
    n_channels = x.shape[-1]
    rows = x.reshape(-1, n_channels).to(alpha.dtype)  # (N, C); not rounded under autocast
    n_out = 0 if weight is None else len(weight)
    kernels = library(rows, n_channels, 0 if n_out == 1 else n_out) if mask is None else None
    if kernels is None:
        valid = None if mask is None else mask.reshape(-1, 1).to(rows.dtype)
        out = _ByTorch.apply(rows, valid, alpha, running, weight, bias)
    else:
        out = _ByKernel.apply(kernels, rows, alpha, running, weight, bias)
    return out.view(*x.shape[:-1], n_out or n_channels)


def dice_in_evaluation(x: Tensor, alpha: Tensor, running: Running) -> Tensor:
    """Dice(x) with the running statistics: x (..., C) -> (..., C)."""
    n_channels = x.shape[-1]
    kernels = None if torch.is_grad_enabled() else library(x, n_channels)
    if kernels is None:
        z = F.batch_norm(x.reshape(-1, n_channels), running.mean, running.var, eps=running.eps)
        p = torch.sigmoid(z.view(x.shape))
        return x * (p + (1 - p) * alpha)
    scale, out = torch.rsqrt(running.var + running.eps), x.new_empty(x.shape)
    sizes = {"n": x.numel() // n_channels, "width": n_channels, "n_out": 0}
    kernels["dice"](x=x, shift=-running.mean * scale, scale=scale, alpha=alpha, out=out, **sizes)
    return out


def settled(mean: Tensor, var: Tensor, count: Tensor, running: Running) -> tuple[Tensor, Tensor]:
    """The statistics to use: the batch's, which update the running ones, or the running ones if count is below two.

    Arithmetic only: an `if` would stall a GPU.
    """
    enough = count > 1
    with torch.no_grad():
        step = running.momentum * enough.to(mean.dtype)
        running.mean.lerp_(mean, step)
        running.var.lerp_(var * count / (count - 1).clamp(min=1), step)
        old_mean, old_var = running.mean.clone(), running.var.clone()
    return torch.where(enough, mean, old_mean), torch.where(enough, var, old_var)


def statistics(x: Tensor, valid: Tensor | None, running: Running) -> tuple[Tensor, Tensor, Tensor]:
    """The mean and 1 / deviation, both (C,), to normalise x (N, C) by in training, and the weight of a row in them.

    The weight is 1 / count, or 0 if they are the running ones. valid (N, 1) is 1 in rows that count, else 0; None if
    all count. Without a gradient.
    """
    count = x.new_full((), len(x)) if valid is None else valid.sum()
    near = running.mean  # a value near the mean: see below
    if len(x):
        near = x[0] if valid is None else x.index_select(0, valid.argmax(0))[0]
    first, second = torch.zeros_like(near), torch.zeros_like(near)
    for rows in blocks(x):
        distance = _masked(x[rows] - near, valid, rows)
        first += distance.sum(0)
        second += distance.square_().sum(0)
    n = count.clamp(min=1)
    var = (second / n - (first / n).square()).clamp(min=0)  # loses digits on large x, but not on large distances
    mean, var = settled(near + first / n, var, count, running)
    return mean, torch.rsqrt(var + running.eps), (count > 1) / n


class _ByTorch(torch.autograd.Function):
    """x (N, C), valid (N, 1) or None, alpha (C,), weight (O, C) and bias (O,) or None -> (N, C or O).

    With z = (x - E[x]) / s, s the deviation, p = sigmoid(z), q = p + (1 - p) alpha, y = x q, the gradient is
        dx = dy q + (g - E[g] - z E[g z]) / s,  g = dy x (1 - alpha) p (1 - p)
    where the two means, over rows that count, are the gradient of the statistics. Other rows get no gradient and add
    none. Rows go block by block, so that the result of one operation is in the cache for the next; the backward pass
    recomputes y.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, valid: Tensor | None, alpha: Tensor, running: Running, weight, bias) -> Tensor:
        mean, scale, row_weight = statistics(x, valid, running)
        ctx.save_for_backward(x, valid, alpha, mean, scale, row_weight, weight)
        out = x.new_empty(len(x), x.shape[1] if weight is None else len(weight))
        for rows in blocks(x):
            p = torch.addcmul(-mean * scale, x[rows], scale).sigmoid_()
            y = torch.addcmul(alpha, p, 1 - alpha).mul_(x[rows])
            out[rows] = y if weight is None else times(y, weight, bias)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        x, valid, alpha, mean, scale, row_weight, weight = ctx.saved_tensors
        dx, inner = x.new_empty(x.shape), (1 - alpha) * scale
        dalpha, sum_g, sum_gz = (torch.zeros_like(alpha) for _ in range(3))
        dweight = None if weight is None else torch.zeros_like(weight)
        for rows in blocks(x):
            z = torch.addcmul(-mean * scale, x[rows], scale)
            p = z.sigmoid()
            q = torch.addcmul(alpha, p, 1 - alpha)
            dy = dout[rows]
            if dweight is not None:
                dweight += weight_gradient(dy, q * x[rows])
                dy = times(dy, weight.t())
            dy = dy if valid is None else dy * valid[rows]
            dq = dy * x[rows]
            g = torch.ops.aten.sigmoid_backward(dq, p)  # without the factor 1 - alpha
            dalpha += dq.sum(0) - dq.mul_(p).sum(0)
            sum_g += g.sum(0)
            sum_gz += z.mul_(g).sum(0)
            torch.addcmul(q.mul_(dy), g, inner, out=dx[rows])
        level, slope = inner * sum_g * row_weight, inner * sum_gz * row_weight * scale
        for rows in blocks(x):
            _masked(dx[rows].sub_(level - mean * slope).addcmul_(x[rows], slope, value=-1), valid, rows)
        return dx, None, dalpha, None, dweight, dout.sum(0) if ctx.needs_input_grad[5] else None


class _ByKernel(torch.autograd.Function):
    """`_ByTorch` by a kernel, if all rows count."""

    @staticmethod
    def forward(ctx: Any, kernels: Library, x: Tensor, alpha: Tensor, running: Running, weight, bias) -> Tensor:
        n_out = 0 if weight is None else len(weight)
        x, shift, scale = x.contiguous(), torch.empty_like(alpha), torch.empty_like(alpha)
        ctx.kernels, ctx.sizes = kernels, {"n": len(x), "width": x.shape[1]}
        statistics = {"running_mean": running.mean, "running_var": running.var, "shift": shift, "scale": scale}
        options = {"eps": running.eps, "momentum": running.momentum}
        kernels["moments"](x=x, **statistics, **options, distances=alpha.new_empty(2, len(alpha)), **ctx.sizes)
        ctx.sizes["n_out"] = n_out
        ctx.save_for_backward(x, shift, scale, alpha, weight)
        given, turned = {"x": x, "shift": shift, "scale": scale, "alpha": alpha}, None if weight is None else weight.t()
        out = x.new_empty(len(x), n_out or x.shape[1])
        kernels["dice"](**given, weight=turned, bias=bias, out=out, **ctx.sizes)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        x, shift, scale, alpha, weight = ctx.saved_tensors
        dx, dalpha, dstatistics = x.new_empty(x.shape), torch.empty_like(alpha), alpha.new_empty(2, len(alpha))
        dweight = dbias = None
        if weight is not None:
            dweight, dbias = weight.new_empty(weight.shape), weight.new_empty(len(weight))
        given = {"x": x, "shift": shift, "scale": scale, "alpha": alpha, "weight": weight, "dout": dout}
        sums = {"dweight": dweight, "dbias": dbias, "dalpha": dalpha, "dstatistics": dstatistics}
        row_weight = 1 / len(x) if len(x) > 1 else 0.0
        ctx.kernels["dice_back"](**given, dx=dx, row_weight=row_weight, **sums, **ctx.sizes)
        return None, dx, dalpha, None, dweight, dbias if ctx.needs_input_grad[5] else None


def _masked(x: Tensor, valid: Tensor | None, rows: slice) -> Tensor:
    """A block x (n, C) of the given rows, overwritten with 0 where valid (N, 1) is 0."""
    return x if valid is None else x.mul_(valid[rows])


def blocks(x: Tensor, size: int = 2048) -> Iterator[slice]:
    """The rows of x (N, C) in blocks: a few of them with 64 channels fit in a core's cache. One block on a GPU."""
    size = max(1, len(x)) if waits(x) else size
    return (slice(start, start + size) for start in range(0, len(x), size))
