"""Recurrent layers over right-padded histories, and GRUs whose steps attention governs.

B batch, L history length, H state size; u = 1 - z is the share of the candidate n in torch's GRU
Zhou et al., Deep Interest Evolution Network, AAAI 2019
eq. 9       AIGRU   h' = GRU(a x, h)
eq. 10      AGRU    h' = (1 - a) h + a n
eq. 11, 12  AUGRU   h' = (1 - a u) h + a u n = lerp(h, GRU(x, h), a)
"""

import itertools
import math
from collections.abc import Iterable
from enum import Enum
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from recexp.kernel.library import kernels, known_kernels
from recexp.layer.lookup import Events, lookup, product_dtype, require_rows, scattered
from recexp.layer.product import product, times, weight_gradient

sigmoid_backward, tanh_backward = torch.ops.aten.sigmoid_backward.grad_input, torch.ops.aten.tanh_backward.grad_input


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
        return recurrence(x, *self._weights(), mask=None)[0] if self._by_hand(x) else self.cell(x)[0]

    def over(self, events: Events, mask: Tensor) -> Tensor:
        """The states (B, L, H) of forward(events.expanded()) where the mask (B, L) is true.

        The input's product is computed once for each distinct event.
        """
        if mask.numel() == 0 or not self._by_hand(events.vectors):
            return self.forward(events.expanded())
        return recurrence(events, *self._weights(), mask=mask)[0]

    def _by_hand(self, x: Tensor) -> bool:
        """nn.GRU takes longer on a CPU (docs/performance.md)."""
        return isinstance(self.cell, nn.GRU) and x.device.type == "cpu"

    def _weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        weight_ih, weight_hh, bias_ih, bias_hh = self.cell.all_weights[0]
        return weight_ih, weight_hh, bias_ih, bias_hh


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
        parameters = (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        return recurrence(inputs, *parameters, mask, weights, self.kind is not GRUType.agru)[1]


def recurrence(
    inputs: Tensor | Events,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor,
    bias_hh: Tensor,
    mask: Tensor | None,
    weights: Tensor | None = None,
    update: bool = True,
) -> tuple[Tensor, Tensor]:
    """AUGRU (update=True; GRU without weights, which are then 1) or AGRU of inputs (B, L, n_in), weights (B, L).

    Gives the states (B, L, H) and the last of them (B, H). Of inputs that are Events the product is computed once for
    each distinct one. The mask (B, L), right-padded, says from where on states may be anything; with weights of 0 there
    they stay.
    """
    n_gates, n_hidden = 2 * len(bias_hh) // 3, weight_hh.shape[1]
    weight, bias = flipped(weight_ih), flipped(bias_ih + F.pad(bias_hh[:n_gates], (0, n_gates // 2)))
    if isinstance(inputs, Events):
        x, place = product(inputs.vectors, weight, bias).to(weight.dtype), inputs.index.t()
    else:
        x, place = inputs.transpose(0, 1), None  # (L, B, n_in)
    by_kernel = kernels(x, n_hidden) is not None
    inside = by_kernel and place is None and kernels(x, n_hidden, x.shape[2]) is not None
    if place is None and not inside:
        x = product(x, weight, bias).to(weight.dtype)  # (L, B, 3H)
    if by_kernel:
        of_x = (weight, bias) if inside else (None, None)
        states, end = _Steps.apply(x, place, *of_x, weights, weight_hh, bias_hh, mask, update)
    else:
        x = x if place is None else lookup(x, place)  # (L, B, 3H)
        a = None if weights is None else weights.t()[:, :, None].contiguous()
        n_active = [x.shape[1]] * len(x) if mask is None else active(mask)
        states, end = _Recurrence.apply(x, a, weight_hh, bias_hh, update, n_active)
    return states.transpose(0, 1), end


def flipped(weight: Tensor) -> Tensor:
    """Rows for r, z, n (3H, ...) as rows for r, u, n, or back: u = 1 - z = sigmoid(-z) is what a step wants."""
    r, z, n = weight.chunk(3)
    return torch.cat([r, -z, n])


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


def spans(n_active: list[int]) -> list[tuple[slice, int]]:
    """Runs of steps with the same number of active rows, and that number."""
    found, start = [], 0
    for n, run in itertools.groupby(n_active):
        stop = start + len(list(run))
        found.append((slice(start, stop), n))
        start = stop
    return found


class _Recurrence(torch.autograd.Function):
    """AUGRU (update=True; GRU where a is None, which means 1) or AGRU, with the gradient written out.

    Of x (L, B, 3H), the input's products, which it overwrites, and a (L, B, 1) it gives the states (L, B, H) and the
    last of them (B, H). At step t rows from n_active[t] on keep their state.

    autograd would record some fifteen operations a step. With y = W_hh h + b, as torch.nn.GRUCell
        r, u = sigmoid(x_r + y_r), sigmoid(x_u + y_u),  n = tanh(x_n + r y_n)
        h' = h + k (n - h),  k = a u (AUGRU) or a (AGRU)
    dh' reaches n through k, k through n - h, and the step before through 1 - k and through y. A step takes one matrix
    product in forward and one in backward, rounded as autocast says; states and sums are not. Its operations are so
    short that naming rows of arrays takes as long: arrays are cut once for a run of steps.
    """

    @staticmethod
    def forward(ctx: Any, x, a, weight_hh, bias_hh, update: bool, n_active: list[int]):
        n_steps, n_rows, n_hidden = len(x), x.shape[1], weight_hh.shape[1]
        ctx.spans, ctx.update, ctx.dtype = spans(n_active), update, product_dtype(x)
        x, h = x.detach(), x.new_zeros(n_steps + 1, n_rows, n_hidden)
        ctx.set_materialize_grads(False)
        products, minus_one = [], x.new_full((), -1)
        with torch.autocast(x.device.type, enabled=False):
            weight, bias = flipped(weight_hh).to(ctx.dtype), F.pad(bias_hh[2 * n_hidden :], (2 * n_hidden, 0))
            for steps, n in ctx.spans:
                gates, before, after = x[steps, :n], h[steps, :n], h[1:][steps, :n]
                cut = (before, after, _cut(a, steps, n), gates[..., : 2 * n_hidden], *gates.chunk(3, 2))
                for old, new, weights, r_u, r, u, candidate in zip(*cut, strict=True):
                    y = times(old, weight, bias) if ctx.dtype is old.dtype else times(old.to(ctx.dtype), weight) + bias
                    y_gates, y_n = y.split([2 * n_hidden, n_hidden], 1)
                    r_u.add_(y_gates).sigmoid_()
                    # tanh(c) = 2 sigmoid(2 c) - 1, of which torch's sigmoid takes a seventh of its tanh's time on a CPU
                    candidate.addcmul_(r, y_n).mul_(2).sigmoid_()
                    torch.add(minus_one, candidate, alpha=2, out=candidate)
                    torch.lerp(old, candidate, _share(weights, u, update), out=new)
                    products.append(y_n)
                if n < n_rows:
                    h[1:][steps, n:] = h[steps.start, n:]
        ctx.save_for_backward(x, a, weight_hh, h, *products)
        return h[1:], h[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dstates, dlast):
        gates, a, weight_hh, h, *products = ctx.saved_tensors
        n_hidden = weight_hh.shape[1]
        # Of the gates and the candidate before their nonlinearities: dy for the hidden product, dx for the input's.
        dy, dx_n = torch.empty_like(gates), torch.empty_like(h[1:])
        da = None if a is None else torch.zeros_like(a)
        dh = torch.zeros_like(h[0]) if dlast is None else dlast.clone()
        with torch.autocast(dh.device.type, enabled=False):
            back = flipped(weight_hh).to(ctx.dtype).t().contiguous()
            for steps, n in reversed(ctx.spans):
                grad = dh[:n]
                cut = (
                    _cut(dstates, steps, len(dh)), h[steps, :n], products[steps], _cut(a, steps, n), _cut(da, steps, n),
                    *gates[steps, :n].chunk(3, 2), dy[steps, :n], *dy[steps, :n].chunk(3, 2), dx_n[steps, :n],
                )  # fmt: skip
                for dnew, old, y_n, weights, dweights, r, u, candidate, dy_t, dr, du, dy_n, dn in reversed(
                    list(zip(*cut, strict=True))
                ):
                    if dnew is not None:
                        dh += dnew
                    through = grad * _share(weights, u, ctx.update)
                    tanh_backward(through, candidate, grad_input=dn)
                    torch.mul(dn, r, out=dy_n)
                    sigmoid_backward(dn * y_n, r, grad_input=dr)
                    dk = (candidate - old).mul_(grad)
                    if dweights is not None:
                        torch.sum(dk * u if ctx.update else dk, 1, keepdim=True, out=dweights)
                    if ctx.update:
                        sigmoid_backward(dk if weights is None else dk.mul_(weights), u, grad_input=du)
                    else:  # u plays no part
                        du.zero_()
                    grad.sub_(through).add_(times(dy_t.to(ctx.dtype), back))
                dy[steps, n:] = dx_n[steps, n:] = 0
            before = h[:-1].flatten(0, 1)
            dweight = weight_gradient(dy.flatten(0, 1).to(ctx.dtype), before.to(ctx.dtype)).to(weight_hh.dtype)
        dy_n = dy[..., 2 * n_hidden :]
        dbias = F.pad(dy_n.sum((0, 1)), (2 * n_hidden, 0))
        dy_n.copy_(dx_n)
        return dy, da, flipped(dweight), dbias, None, None


class _Steps(torch.autograd.Function):
    """`_Recurrence` by a kernel that takes rows through all their steps, in fp32 under autocast too.

    x (L, B, n_in) with its product's weight (3H, n_in) and bias (3H,); or, without them, products (n, 3H) at places
    (L, B), or products (L, B, 3H). a (B, L) or None, mask (B, L) or None.
    """

    @staticmethod
    def forward(ctx: Any, x, place, weight_x, bias_x, a, weight_hh, bias_hh, mask, update: bool):
        n_steps, n_rows = x.shape[:2] if place is None else place.shape
        width = weight_hh.shape[1]
        ctx.sizes, ctx.shape = (n_steps, n_rows, x.shape[-1], width, int(update)), x.shape
        ctx.set_materialize_grads(False)
        x, h = x.contiguous(), x.new_empty(n_steps + 1, n_rows, width)
        h[0] = 0
        gates, y_n = x.new_empty(n_steps, n_rows, 3 * width), x.new_empty(n_steps, n_rows, width)
        given = (x, None if weight_x is None else weight_x.t(), bias_x, place, a)
        parameters, made = (flipped(weight_hh).t(), bias_hh[2 * width :]), (h, gates, y_n)
        run = known_kernels(h, width, x.shape[-1])
        *_, amiss = run("recurrence", *given, *parameters, mask, *made, *ctx.sizes, len(x), 0)
        if amiss:
            require_rows(amiss, place, len(x))
        ctx.save_for_backward(None if weight_x is None else x, weight_x, place, a, weight_hh, mask, h, gates, y_n)
        return h[1:], h[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dstates, dlast):
        x, weight_x, place, a, weight_hh, mask, h, gates, y_n = ctx.saved_tensors
        n_gates, width = weight_hh.shape
        run, da = known_kernels(gates, width, ctx.shape[-1]), None if a is None else a.new_empty(a.shape)
        dx = gates.new_empty((gates if x is None else x).shape)
        dweight, dbias = h.new_empty(n_gates, width), h.new_empty(width)
        of_x = [None, None] if x is None else [h.new_empty(weight_x.shape), h.new_empty(n_gates)]
        made, grads, sums = (mask, h, gates, y_n), (dstates, dlast, da, dx), [dweight, dbias, *of_x]
        run("recurrence_back", x, weight_x, a, flipped(weight_hh), *made, *grads, *ctx.sizes, sums=sums)
        dx = dx if place is None else scattered(run, dx, [place], [ctx.shape])[0]
        return dx, None, *of_x, da, flipped(dweight), F.pad(dbias, (2 * width, 0)), None, None


def _cut(x: Tensor | None, steps: slice, n: int) -> Iterable[Any]:
    """The first n rows of each of some steps of x (L, B, .), or None for each."""
    return [None] * (steps.stop - steps.start) if x is None else x[steps, :n]


def _share(weights: Tensor | None, u: Tensor, update: bool) -> Tensor:
    """k (n, H), the share of the candidate in a new state, of attention (n, 1) and gates u (n, H)."""
    if weights is None:
        return u
    return weights * u if update else weights.expand_as(u)
