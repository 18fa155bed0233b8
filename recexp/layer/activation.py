"""Activations by name, among them Dice, and the batch statistics it rests on.

Zhou et al., Deep Interest Network, KDD 2018
eq. 9   f(s) = p s + (1 - p) alpha s,  p = sigmoid((s - E[s]) / sqrt(Var[s] + eps))

C channels, the last axis of every input
"""

from collections.abc import Iterator
from enum import Enum
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from recexp.kernel.library import Kernels, kernels
from recexp.layer.product import times, weight_gradient


class Activation(Enum):
    relu = "max(0, x)"
    tanh = "hyperbolic tangent"
    sigmoid = "logistic function"
    identity = "x itself: a linear layer stays linear"
    leaky_relu = "relu with slope 0.01 below 0"
    prelu = "relu with a learnt slope below 0 for each channel, from 0.25"
    rrelu = "relu with a random slope below 0, from 1/8 to 1/3 in training, their mean afterwards"
    dice = "a gate between x and alpha x at the batch's mean, alpha learnt for each channel (DIN)"


def activation(kind: Activation, n_channels: int) -> nn.Module:
    """The module of a name; `n_channels` is the size of its inputs' last axis."""
    match kind:
        case Activation.relu:
            return nn.ReLU()
        case Activation.tanh:
            return nn.Tanh()
        case Activation.sigmoid:
            return nn.Sigmoid()
        case Activation.identity:
            return nn.Identity()
        case Activation.leaky_relu:
            return nn.LeakyReLU(0.01)
        case Activation.prelu:
            return PReLU(n_channels)
        case Activation.rrelu:
            return nn.RReLU(1 / 8, 1 / 3)
        case Activation.dice:
            return Dice(n_channels)


class PReLU(nn.Module):
    """max(0, x) + slope min(0, x), a slope a channel: the last axis, where torch's own takes axis 1."""

    def __init__(self, n_channels: int, init: float = 0.25):
        super().__init__()
        self.slope = nn.Parameter(torch.full((n_channels,), init))

    def forward(self, x: Tensor) -> Tensor:
        return F.prelu(x.reshape(-1, x.shape[-1]), self.slope.to(x.dtype)).view(x.shape)  # (..., C)


class BatchNorm(nn.Module):
    """(x - E[x]) / sqrt(Var[x] + eps) per channel, over all axes but the last, and affine on request.

    As torch.nn.BatchNorm1d (biased variance in the batch, unbiased in the running one, momentum 0.1), except
    that only positions with a true mask count, and that a training batch of fewer than two of them, which has
    no variance, is normalised by the running statistics and leaves them as they are, as in evaluation.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, n_channels: int, eps: float = 1e-5, affine: bool = True, momentum: float = 0.1):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(n_channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(n_channels)) if affine else None
        self.register_buffer("running_mean", torch.zeros(n_channels))
        self.register_buffer("running_var", torch.ones(n_channels))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (..., C), mask (...) bool -> (..., C), finite but without meaning at masked positions."""
        rows = x.reshape(-1, x.shape[-1])  # (N, C)
        if self.training and mask is not None:
            return self._masked(rows, mask.reshape(-1, 1)).view(x.shape)
        batch = self.training and len(rows) > 1
        out = F.batch_norm(
            rows, self.running_mean, self.running_var, self.weight, self.bias, batch, self.momentum, self.eps
        )
        return out.view(x.shape)

    def _masked(self, rows: Tensor, valid: Tensor) -> Tensor:
        """rows (N, C), valid (N, 1)."""
        wide = rows.to(self.running_mean.dtype).masked_fill(~valid, 0)  # padding may hold anything
        count = valid.sum()
        mean = wide.sum(0) / count.clamp(min=1)
        var = (wide - mean).masked_fill(~valid, 0).square().sum(0) / count.clamp(min=1)
        mean, var = self._settle(mean, var, count)
        out = (wide - mean) * torch.rsqrt(var + self.eps)
        out = out if self.weight is None or self.bias is None else out * self.weight + self.bias
        return out.to(rows.dtype)

    def _settle(self, mean: Tensor, var: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        """Which statistics to use: the batch's, which move the running ones, or these where count is below two.

        It is arithmetic: an `if` would stall a GPU.
        """
        enough = count > 1
        with torch.no_grad():
            step = self.momentum * enough.to(mean.dtype)
            self.running_mean.lerp_(mean, step)
            self.running_var.lerp_(var * count / (count - 1).clamp(min=1), step)
            old_mean, old_var = self.running_mean.clone(), self.running_var.clone()
        return torch.where(enough, mean, old_mean), torch.where(enough, var, old_var)

    def statistics(self, x: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Of x (N, C) in training, valid (N, 1) being 1 at rows that count and 0 at others, None for all: no gradient.

        The mean and 1 / deviation to normalise by, both (C,), and what each row that counts has of them, 1 / count; 0
        where they are the running ones.
        """
        count = x.new_full((), len(x)) if valid is None else valid.sum()
        shift = self.running_mean  # a value near the mean: see below
        if len(x):
            shift = x[0] if valid is None else x.index_select(0, valid.argmax(0))[0]
        first, second = self._distances(x, valid, shift)
        n = count.clamp(min=1)
        var = (second / n - (first / n).square()).clamp(min=0)  # of large x, not of large distances, it loses digits
        mean, var = self._settle(shift + first / n, var, count)
        return mean, torch.rsqrt(var + self.eps), (count > 1) / n

    def _distances(self, x: Tensor, valid: Tensor | None, shift: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of distances from the shift, and of their squares: (C,) each."""
        first, second = torch.zeros_like(shift), torch.zeros_like(shift)
        for rows in blocks(x):
            distance = counted(x[rows] - shift, valid, rows)
            first += distance.sum(0)
            second += distance.square_().sum(0)
        return first, second


class Dice(nn.Module):
    """Eq. 9: a PReLU whose kink is soft and moves with the data. Statistics are those of `BatchNorm`."""

    def __init__(self, n_channels: int, eps: float = 1e-8):
        super().__init__()
        self.norm = BatchNorm(n_channels, eps, affine=False)
        self.alpha = nn.Parameter(torch.zeros(n_channels))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (..., C), mask (...) bool: the positions that count in the statistics -> (..., C)."""
        if not self.training:
            return self._evaluated(x)
        return self.then(x, mask, None)

    def _evaluated(self, x: Tensor) -> Tensor:
        """Of the running statistics."""
        if torch.is_grad_enabled() or not (run := kernels(x, x.shape[-1])):
            p = torch.sigmoid(self.norm(x))
            return x * (p + (1 - p) * self.alpha)
        scale, out = torch.rsqrt(self.norm.running_var + self.norm.eps), x.new_empty(x.shape)
        shift, n_channels = -self.norm.running_mean * scale, x.shape[-1]
        run("dice", x, shift, scale, self.alpha, None, None, out, x.numel() // n_channels, n_channels, 0)
        return out

    def then(self, x: Tensor, mask: Tensor | None, linear: nn.Linear | None) -> Tensor:
        """linear(Dice(x)) in training: x (..., C), mask (...) bool -> (..., linear's size), (..., C) without it."""
        rows = x.reshape(-1, x.shape[-1]).to(self.alpha.dtype)  # (N, C); not rounded under autocast
        valid = None if mask is None else mask.reshape(-1, 1).to(rows.dtype)
        weight, bias = (None, None) if linear is None else (linear.weight, linear.bias)
        n_out = x.shape[-1] if linear is None else linear.out_features
        if valid is None and _dice_kernels(rows, 0 if linear is None else n_out):
            out = _DiceByKernel.apply(rows, self.alpha, self.norm, weight, bias)
        else:
            out = _Dice.apply(rows, valid, self.alpha, self.norm, weight, bias)
        return out.view(*x.shape[:-1], n_out)


class _Dice(torch.autograd.Function):
    """Dice in training, and the Linear that follows it: x (N, C), valid (N, 1), 1 at rows that count, 0 at others.

    With z = (x - E[x]) / s, s the deviation, p = sigmoid(z), q = p + (1 - p) alpha, y = x q, the gradient is
        dx = dy q + (g - E[g] - z E[g z]) / s,  g = dy x (1 - alpha) p (1 - p)
    the two means, over rows that count, being the gradient of the statistics. Other rows get and give none. Block by
    block, what one operation leaves is in the cache for the next; y is made again in the gradient and never kept.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        valid: Tensor | None,
        alpha: Tensor,
        norm: BatchNorm,
        weight: Tensor | None,
        bias: Tensor | None,
    ) -> Tensor:
        mean, scale, share = norm.statistics(x, valid)
        ctx.save_for_backward(x, valid, alpha, mean, scale, share, weight, bias)
        out = x.new_empty(len(x), x.shape[1] if weight is None else len(weight))
        for rows in blocks(x):
            p = torch.addcmul(-mean * scale, x[rows], scale).sigmoid_()
            y = torch.addcmul(alpha, p, 1 - alpha).mul_(x[rows])
            out[rows] = y if weight is None else times(y, weight, bias)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        x, valid, alpha, mean, scale, share, weight, bias = ctx.saved_tensors
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
        level, slope = inner * sum_g * share, inner * sum_gz * share * scale
        for rows in blocks(x):
            counted(dx[rows].sub_(level - mean * slope).addcmul_(x[rows], slope, value=-1), valid, rows)
        dbias = None if bias is None else dout.sum(0)
        return dx, None, dalpha, None, dweight, dbias


class _DiceByKernel(torch.autograd.Function):
    """`_Dice` where all rows count."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor, norm: BatchNorm, weight: Tensor | None, bias: Tensor | None):
        n_rows, n_channels = x.shape
        ctx.n_out, ctx.share = 0 if weight is None else len(weight), 1 / n_rows if n_rows > 1 else 0.0
        x, shift, scale = x.contiguous(), torch.empty_like(alpha), torch.empty_like(alpha)
        ctx.run, out = _dice_kernels(x, ctx.n_out), x.new_empty(n_rows, ctx.n_out or n_channels)
        statistics = (norm.running_mean, norm.running_var, shift, scale)
        ctx.run("moments", x, *statistics, *x.shape, norm.eps, norm.momentum, sums=[alpha.new_empty(2, n_channels)])
        ctx.save_for_backward(x, shift, scale, alpha, weight)
        ctx.run("dice", x, shift, scale, alpha, None if weight is None else weight.t(), bias, out, *x.shape, ctx.n_out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor):
        x, shift, scale, alpha, weight = ctx.saved_tensors
        dx, dalpha, of_statistics = x.new_empty(x.shape), alpha.new_empty(len(alpha)), alpha.new_empty(2, len(alpha))
        dweight = dbias = None
        if weight is not None:
            dweight, dbias = weight.new_empty(weight.shape), weight.new_empty(len(weight))
        sums = [dweight, dbias, dalpha, of_statistics]
        ctx.run("dice_back", x, shift, scale, alpha, weight, dout, dx, *x.shape, ctx.n_out, ctx.share, sums=sums)
        return dx, dalpha, None, dweight, dbias if ctx.needs_input_grad[4] else None


def _dice_kernels(x: Tensor, n_out: int) -> Kernels | None:
    return kernels(x, x.shape[1], 0 if n_out == 1 else n_out)


def counted(x: Tensor, valid: Tensor | None, rows: slice) -> Tensor:
    """A block x (n, C) of the given rows, which it overwrites, with 0 where valid (N, 1) is 0."""
    return x if valid is None else x.mul_(valid[rows])


def blocks(x: Tensor, size: int = 2048) -> Iterator[slice]:
    """The rows of x (N, C) in blocks of which a few arrays of 64 channels fit in a core's cache; whole on a GPU."""
    size = size if x.device.type == "cpu" else max(1, len(x))
    return (slice(start, start + size) for start in range(0, len(x), size))
