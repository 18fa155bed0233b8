"""Activations by name, among them Dice, and batch normalisation, whose statistics Dice uses.

Zhou et al., Deep Interest Network, KDD 2018
eq. 9   f(s) = p s + (1 - p) alpha s,  p = sigmoid((s - E[s]) / sqrt(Var[s] + eps))

C channels, the last axis of every input
"""

from enum import Enum

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recexp.kernel.dice import Running, dice, dice_in_evaluation, settled


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
    """The module for a kind of activation; `n_channels` is the size of its inputs' last axis."""
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
    """max(0, x) + slope min(0, x) with one slope per channel of the last axis; torch's own takes axis 1."""

    def __init__(self, n_channels: int, init: float = 0.25):
        super().__init__()
        self.slope = nn.Parameter(torch.full((n_channels,), init))

    def forward(self, x: Tensor) -> Tensor:
        return F.prelu(x.reshape(-1, x.shape[-1]), self.slope.to(x.dtype)).view(x.shape)  # (..., C)


class BatchNorm(nn.Module):
    """(x - E[x]) / sqrt(Var[x] + eps) per channel, over all axes but the last, and affine on request.

    As torch.nn.BatchNorm1d (biased variance in the batch, unbiased in the running one, momentum 0.1), except that only
    positions with a true mask count, and that a training batch of fewer than two of them, which has no variance, is
    normalised by the running statistics and does not update them, as in evaluation.
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
        mean, var = settled(mean, var, count, self.running)
        out = (wide - mean) * torch.rsqrt(var + self.eps)
        out = out if self.weight is None or self.bias is None else out * self.weight + self.bias
        return out.to(rows.dtype)

    @property
    def running(self) -> Running:
        return Running(self.running_mean, self.running_var, self.eps, self.momentum)


class Dice(nn.Module):
    """f(s) = p s + (1 - p) alpha s, p = sigmoid(norm(s)): a PReLU with a soft kink that moves with the data."""

    def __init__(self, n_channels: int, eps: float = 1e-8):
        super().__init__()
        self.norm = BatchNorm(n_channels, eps, affine=False)
        self.alpha = nn.Parameter(torch.zeros(n_channels))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (..., C), mask (...) bool: the positions that count in the statistics -> (..., C)."""
        if not self.training:
            return dice_in_evaluation(x, self.alpha, self.norm.running)
        return dice(x, mask, self.alpha, self.norm.running)

    def then(self, x: Tensor, mask: Tensor | None, linear: nn.Linear) -> Tensor:
        """linear(Dice(x)) in training, faster than one after the other: x (..., C), mask (...) -> (..., O)."""
        return dice(x, mask, self.alpha, self.norm.running, linear.weight, linear.bias)
