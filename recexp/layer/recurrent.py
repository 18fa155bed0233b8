"""Recurrent layers over right-padded histories, and GRUs whose steps attention governs.

B batch, L history length, H state size; u = 1 - z is the share of the candidate n in torch's GRU
Zhou et al., Deep Interest Evolution Network, AAAI 2019
eq. 9       AIGRU   h' = GRU(a x, h)
eq. 10      AGRU    h' = (1 - a) h + a n
eq. 11, 12  AUGRU   h' = (1 - a u) h + a u n = lerp(h, GRU(x, h), a)
"""

import math
from enum import Enum

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class Cell(Enum):
    rnn = "h' = tanh(W x + U h + b)"
    lstm = "long short-term memory"
    gru = "gated recurrent unit"


class GRUType(Enum):
    augru = "attention scales the update gate (DIEN)"
    agru = "attention replaces the update gate"
    aigru = "attention scales the input"


CELLS: dict[Cell, type[nn.RNN] | type[nn.LSTM] | type[nn.GRU]] = {
    Cell.rnn: nn.RNN,
    Cell.lstm: nn.LSTM,
    Cell.gru: nn.GRU,
}


class Recurrent(nn.Module):
    """The states of a recurrent layer. It runs through right padding, which follows all states that count."""

    def __init__(self, cell: Cell, n_in: int, n_hidden: int):
        super().__init__()
        self.n_hidden = n_hidden
        self.cell = CELLS[cell](n_in, n_hidden, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, L, n_in) -> states (B, L, H)."""
        if 0 in x.shape[:2]:  # torch refuses an empty sequence
            return x.new_zeros(*x.shape[:2], self.n_hidden)
        if isinstance(self.cell, nn.GRU) and x.device.type == "cpu":
            return self._gru(x)
        return self.cell(x)[0]

    def _gru(self, x: Tensor) -> Tensor:
        """As nn.GRU, which takes longer on a CPU (docs/performance.md)."""
        weights = (getattr(self.cell, name) for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"))
        weight_ih, weight_hh, bias_ih, bias_hh = weights
        inputs = x.to(weight_ih.dtype).transpose(0, 1).contiguous()  # not rounded under autocast
        ones = inputs.new_ones(len(inputs), inputs.shape[1], 1)
        states = _Recurrence.apply(inputs, ones, weight_ih, weight_hh, bias_ih, bias_hh, True)
        return states[1:].transpose(0, 1)


def last(states: Tensor, mask: Tensor) -> Tensor:
    """The state at each row's last event, exactly 0 without any: states (B, L, H), mask (B, L) -> (B, H)."""
    if states.shape[1] == 0:
        return states.new_zeros(states.shape[0], states.shape[2])
    length = mask.sum(1)
    index = (length - 1).clamp(min=0)[:, None, None].expand(-1, 1, states.shape[2])
    return states.gather(1, index)[:, 0].masked_fill((length == 0)[:, None], 0)


class AttentionGRU(nn.Module):
    """A GRU governed by attention weights; parameters named and drawn as those of nn.GRUCell."""

    weight_ih: nn.Parameter  # (3H, n_in), for r, z, n
    weight_hh: nn.Parameter  # (3H, H)
    bias_ih: nn.Parameter  # (3H,)
    bias_hh: nn.Parameter  # (3H,)

    def __init__(self, kind: GRUType, n_in: int, n_hidden: int):
        super().__init__()
        self.kind = kind
        bound = 1 / math.sqrt(n_hidden)
        shapes = {"weight_ih": (n_in,), "weight_hh": (n_hidden,), "bias_ih": (), "bias_hh": ()}
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.empty(3 * n_hidden, *shape).uniform_(-bound, bound)))

    def forward(self, inputs: Tensor, weights: Tensor, mask: Tensor) -> Tensor:
        """inputs (B, L, n_in), weights (B, L), mask (B, L) -> state after the last event (B, H)."""
        dtype = self.weight_ih.dtype  # under autocast too: a state rounded at every step drifts
        inputs, weights = inputs.to(dtype), weights.to(dtype)
        if self.kind is GRUType.aigru:  # eq. 9 is AUGRU of weight 1
            inputs, weights = inputs * weights[:, :, None], torch.ones_like(weights)
        weights = weights.masked_fill(~mask, 0)  # a step of weight 0 keeps the state: padding needs no gather
        states = _Recurrence.apply(
            inputs.transpose(0, 1).contiguous(),
            weights.t()[:, :, None].contiguous(),
            self.weight_ih,
            self.weight_hh,
            self.bias_ih,
            self.bias_hh,
            self.kind is not GRUType.agru,
        )
        return states[-1]


class _Recurrence(torch.autograd.Function):
    """AUGRU (update=True; GRU where a = 1) or AGRU over time-major inputs, with the gradient written out.

    Gives the states (L + 1, B, H), of which the first is 0.

    autograd would record some fifteen operations a step. With x = W_ih input + b_ih, y = W_hh h + b_hh
        r, z = sigmoid(x_rz + y_rz),  n = tanh(x_n + r y_n)         as torch.nn.GRUCell
        h' = h + k (n - h),  k = a (1 - z) (AUGRU) or a (AGRU)
    dh' reaches n through k, k through n - h, and the step before through 1 - k and through y. A step takes
    one matrix product in forward and two in backward; those of the inputs are done for all steps at once.
    """

    @staticmethod
    def forward(ctx, inputs, a, weight_ih, weight_hh, bias_ih, bias_hh, update: bool):
        # inputs (L, B, n_in), a (L, B, 1)
        with torch.autocast(inputs.device.type, enabled=False):
            x = F.linear(inputs, weight_ih, bias_ih)  # (L, B, 3H); its place is taken by the gates
            n_steps, n_rows, n_hidden = len(x), x.shape[1], weight_hh.shape[1]
            y_n = x.new_empty(n_steps, n_rows, n_hidden)
            h = x.new_zeros(n_steps + 1, n_rows, n_hidden)
            for t in range(n_steps):
                y = F.linear(h[t], weight_hh, bias_hh)  # (B, 3H)
                y_n[t] = y[:, 2 * n_hidden :]
                x[t, :, : 2 * n_hidden].add_(y[:, : 2 * n_hidden]).sigmoid_()
                r, z, n = x[t].chunk(3, dim=1)  # (B, H) each
                # tanh(n) = 2 sigmoid(2 n) - 1, of which torch's sigmoid takes a seventh of its tanh's time on a CPU
                n.addcmul_(r, y_n[t]).mul_(2).sigmoid_().mul_(2).sub_(1)
                torch.lerp(h[t], n, _share(a[t], z, update), out=h[t + 1])
        ctx.save_for_backward(inputs, a, weight_ih, weight_hh, x, y_n, h)
        ctx.update = update
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx, dstates):
        inputs, a, weight_ih, weight_hh, gates, y_n, h = ctx.saved_tensors
        dx, da = torch.zeros_like(gates), torch.empty_like(a)
        dweight_hh, dbias_hh = torch.zeros_like(weight_hh), weight_hh.new_zeros(len(weight_hh))
        dh = torch.zeros_like(h[0])
        with torch.autocast(dh.device.type, enabled=False):
            for t in reversed(range(len(gates))):
                dh = dh + dstates[t + 1]
                r, z, n = gates[t].chunk(3, dim=1)
                dr, dz, dn = dx[t].chunk(3, dim=1)  # before the gates' nonlinearities
                k, dk = _share(a[t], z, ctx.update), dh * (n - h[t])
                if ctx.update:
                    torch.mul(dk * -a[t], z * (1 - z), out=dz)
                    da[t] = (dk * (1 - z)).sum(1, keepdim=True)
                else:  # z plays no part
                    da[t] = dk.sum(1, keepdim=True)
                direct = dh * k
                torch.mul(direct, 1 - n * n, out=dn)
                torch.mul(dn * y_n[t], r * (1 - r), out=dr)
                dy = torch.cat([dr, dz, dn * r], dim=1)  # (B, 3H)
                dweight_hh.addmm_(dy.t(), h[t])  # here and not after the loop, while dy is in the cache
                dbias_hh += dy.sum(0)
                dh = torch.addmm(dh - direct, dy, weight_hh)
            dx = dx.flatten(0, 1)  # (L B, 3H)
            dinputs = (dx @ weight_ih).view_as(inputs)
            return dinputs, da, dx.t() @ inputs.flatten(0, 1), dweight_hh, dx.sum(0), dbias_hh, None


def _share(a: Tensor, z: Tensor, update: bool) -> Tensor:
    """k (B, H), the share of the candidate in the new state, of weights a (B, 1) and gates z (B, H)."""
    return a * (1 - z) if update else a.expand_as(z)
