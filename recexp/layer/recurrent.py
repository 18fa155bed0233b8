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

from recexp.layer.lookup import Events, lookup, product_dtype
from recexp.layer.product import product, times, weight_gradient

sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input


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
        if not self._by_hand(x):
            return self.cell(x)[0]
        return self._gru(self._product(x).transpose(0, 1), [len(x)] * x.shape[1])

    def over(self, events: Events, mask: Tensor) -> Tensor:
        """The states (B, L, H) of forward(events.embedded()) where the mask (B, L) is true.

        The input's product is computed once for each distinct event.
        """
        if mask.numel() == 0 or not self._by_hand(events.vectors):
            return self.forward(events.embedded())
        return self._gru(lookup(self._product(events.vectors), events.place.t()), active(mask))

    def _by_hand(self, x: Tensor) -> bool:
        """nn.GRU takes longer on a CPU (docs/performance.md)."""
        return isinstance(self.cell, nn.GRU) and x.device.type == "cpu"

    def _product(self, x: Tensor) -> Tensor:
        """x (..., n_in) -> (..., 3H)."""
        weight_ih, _, bias_ih, bias_hh = self.cell.all_weights[0]
        return input_product(x, weight_ih, bias_ih, bias_hh)

    def _gru(self, x: Tensor, n_active: list[int]) -> Tensor:
        """Products x (L, B, 3H), n_active as `active` -> states (B, L, H)."""
        _, weight_hh, _, bias_hh = self.cell.all_weights[0]
        states, _ = _Recurrence.apply(x, None, weight_hh, bias_hh, True, n_active)
        return states.transpose(0, 1)


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
        x = input_product(inputs.transpose(0, 1), self.weight_ih, self.bias_ih, self.bias_hh)  # (L, B, 3H)
        a = weights.t()[:, :, None].contiguous()
        update = self.kind is not GRUType.agru
        return _Recurrence.apply(x, a, self.weight_hh, self.bias_hh, update, active(mask))[1]


def input_product(x: Tensor, weight_ih: Tensor, bias_ih: Tensor, bias_hh: Tensor) -> Tensor:
    """What the steps of a GRU get of x (..., n_in): (..., 3H). The state's biases of r and z are in it."""
    n_gates = 2 * len(bias_hh) // 3
    bias = bias_ih + F.pad(bias_hh[:n_gates], (0, n_gates // 2))
    return product(x, weight_ih, bias).to(weight_ih.dtype)


def active(mask: Tensor, multiple: int = 128) -> list[int]:
    """For each step, up to which row there are events: mask (B, L). Tight where the longest histories come first.

    Rounded up, for each further shape of a bfloat16 product is compiled and kept. All rows on a GPU, which would be
    waited for.
    """
    n_rows = len(mask)
    if mask.device.type != "cpu":
        return [n_rows] * mask.shape[1]
    row = torch.arange(1, n_rows + 1, device=mask.device)[:, None]
    last_row = (row * mask).amax(0) if n_rows else mask.new_zeros(mask.shape[1], dtype=torch.long)
    return (last_row + multiple - 1).div(multiple, rounding_mode="floor").mul(multiple).clamp(max=n_rows).tolist()


class _Recurrence(torch.autograd.Function):
    """AUGRU (update=True; GRU where a is None, which means 1) or AGRU, with the gradient written out.

    Of x (L, B, 3H), the input's products, which it overwrites, and a (L, B, 1) it gives the states (L, B, H) and the
    last of them (B, H). At step t rows from n_active[t] on keep their state.

    autograd would record some fifteen operations a step. With y = W_hh h, as torch.nn.GRUCell
        r, u = sigmoid(x_r + y_r), sigmoid(-x_z - y_z),  n = tanh(x_n + r (y_n + b_n))
        h' = h + k (n - h),  k = a u (AUGRU) or a (AGRU)
    dh' reaches n through k, k through n - h, and the step before through 1 - k and through y. A step takes one matrix
    product in forward and two in backward, rounded as autocast says; states and sums are not.
    """

    @staticmethod
    def forward(ctx, x, a, weight_hh, bias_hh, update: bool, n_active: list[int]):
        n_steps, n_rows, n_hidden = len(x), x.shape[1], weight_hh.shape[1]
        ctx.n_active, ctx.update = n_active, update
        x = x.detach()
        ctx.dtype = product_dtype(x)
        with torch.autocast(x.device.type, enabled=False):
            weight, bias = weight_hh.to(ctx.dtype), bias_hh[2 * n_hidden :]
            y_n = x.new_empty(n_steps, n_rows, n_hidden)
            h = x.new_zeros(n_steps + 1, n_rows, n_hidden)
            for t, n in enumerate(n_active):
                y = times(h[t, :n].to(ctx.dtype), weight)  # (n, 3H)
                torch.add(y[:, 2 * n_hidden :], bias, out=y_n[t, :n])
                x[t, :n, : 2 * n_hidden].add_(y[:, : 2 * n_hidden])
                x[t, :n, n_hidden : 2 * n_hidden].neg_()
                x[t, :n, : 2 * n_hidden].sigmoid_()
                r, u, candidate = x[t, :n].chunk(3, dim=1)  # (n, H) each
                # tanh(c) = 2 sigmoid(2 c) - 1, of which torch's sigmoid takes a seventh of its tanh's time on a CPU
                candidate.addcmul_(r, y_n[t, :n]).mul_(2).sigmoid_().mul_(2).sub_(1)
                torch.lerp(h[t, :n], candidate, _share(a, t, u, update), out=h[t + 1, :n])
                h[t + 1, n:] = h[t, n:]
        ctx.save_for_backward(x, a, weight_hh, y_n, h)
        ctx.set_materialize_grads(False)
        return h[1:], h[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx, dstates, dlast):
        gates, a, weight_hh, y_n, h = ctx.saved_tensors
        n_hidden = weight_hh.shape[1]
        dx, dy = torch.empty_like(gates), gates.new_empty(gates.shape[1:])
        da = None if a is None else torch.zeros_like(a)
        dweight, dbias = torch.zeros_like(weight_hh), weight_hh.new_zeros(len(weight_hh))
        dh = torch.zeros_like(h[0]) if dlast is None else dlast.clone()
        with torch.autocast(dh.device.type, enabled=False):
            back = weight_hh.to(ctx.dtype).t().contiguous()
            for t, n in reversed(list(enumerate(ctx.n_active))):
                if dstates is not None:
                    dh += dstates[t]
                grad, before = dh[:n], h[t, :n]
                r, u, candidate = gates[t, :n].chunk(3, dim=1)
                dr, dz, dy_n = dy[:n].chunk(3, dim=1)  # before the gates' nonlinearities
                dn = dx[t, :n, 2 * n_hidden :]
                through = grad * _share(a, t, u, ctx.update)
                torch.addcmul(through, through * candidate, candidate, value=-1, out=dn)
                torch.mul(dn, r, out=dy_n)
                sigmoid_backward(dn * y_n[t, :n], r, grad_input=dr)
                dk = (candidate - before).mul_(grad)
                if da is not None:
                    da[t, :n] = (dk * u if ctx.update else dk).sum(1, keepdim=True)
                if ctx.update:
                    sigmoid_backward(dk.mul_(-1 if a is None else -a[t, :n]), u, grad_input=dz)
                else:  # z plays no part
                    dz.zero_()
                dx[t, :n, : 2 * n_hidden] = dy[:n, : 2 * n_hidden]
                dx[t, n:] = 0
                rounded = dy[:n].to(ctx.dtype)
                dweight += weight_gradient(rounded, before.to(ctx.dtype))
                dbias[2 * n_hidden :] += dy_n.sum(0)
                grad.sub_(through).add_(times(rounded, back))
        return dx, da, dweight, dbias, None, None


def _share(a: Tensor | None, t: int, u: Tensor, update: bool) -> Tensor:
    """k (n, H), the share of the candidate in step t's new state, of weights a (L, B, 1) and gates u (n, H)."""
    if a is None:
        return u
    return a[t, : len(u)] * u if update else a[t, : len(u)].expand_as(u)
