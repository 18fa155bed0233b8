"""Recurrent layers over right-padded histories, and GRUs whose updates attention controls.

B batch, L history length, H state size; u = 1 - z is the weight of the candidate n in torch's GRU
Zhou et al., Deep Interest Evolution Network, AAAI 2019
eq. 9       AIGRU   h' = GRU(a x, h)
eq. 10      AGRU    h' = (1 - a) h + a n
eq. 11, 12  AUGRU   h' = (1 - a u) h + a u n = lerp(h, GRU(x, h), a)
"""

import math
from enum import Enum

import torch
from torch import Tensor, nn
from torch.nn import functional

from recexp.kernel.device import traced
from recexp.kernel.gru import Parameters, attention_gru, gru
from recexp.kernel.scan import State, scanned
from recexp.layer.lookup import Events


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
    """The states of a recurrent layer. It also runs over the right padding, after all states that count."""

    def __init__(self, cell: Cell, n_in: int, n_hidden: int):
        super().__init__()
        self.n_hidden = n_hidden
        self.cell = CELLS[cell](n_in, n_hidden, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, L, n_in) -> states (B, L, H)."""
        if 0 in x.shape[:2]:  # torch refuses an empty sequence
            return x.new_zeros(*x.shape[:2], self.n_hidden)
        if isinstance(self.cell, nn.GRU):
            return gru(x, self.weights())
        if traced():
            return self._scanned(x)
        if isinstance(self.cell, nn.LSTM):
            return self._lstm(x)
        return self.cell(x)[0]

    def over(self, events: Events, mask: Tensor) -> Tensor:
        """The states (B, L, H) of forward(events.expanded()) where the mask (B, L) is true.

        A GRU computes the input's product once per unique event.
        """
        if mask.numel() == 0 or not isinstance(self.cell, nn.GRU):
            return self.forward(events.expanded())
        return gru(events.vectors, self.weights(), mask, events.index, events.expanded)

    def _lstm(self, x: Tensor) -> Tensor:
        """In fp32 on a CPU even under autocast: many CPUs have no bfloat16 LSTM."""
        with torch.autocast("cpu", enabled=False):
            return self.cell(x.to(self.weights()[0].dtype))[0]

    def _scanned(self, x: Tensor) -> Tensor:
        """For any number of steps."""
        weight_ih, weight_hh, bias_ih, bias_hh = self.weights()
        products = functional.linear(x, weight_ih, bias_ih + bias_hh).transpose(0, 1)  # (L, B, .)

        def rnn(state: State, product: Tensor) -> State:
            return (torch.tanh(product + functional.linear(state[0], weight_hh)),)

        def lstm(state: State, product: Tensor) -> State:
            h, c = state
            i, f, g, o = (product + functional.linear(h, weight_hh)).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            return torch.sigmoid(o) * torch.tanh(c), c

        step, n_states = (lstm, 2) if isinstance(self.cell, nn.LSTM) else (rnn, 1)
        start = tuple(x.new_zeros(x.shape[0], self.n_hidden) for _ in range(n_states))
        return scanned(step, start, [products])[0].transpose(0, 1)

    def weights(self) -> Parameters:
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
    """A GRU controlled by attention weights; parameters are named and initialised as in nn.GRUCell."""

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
        dtype = self.weight_ih.dtype  # even under autocast: a state rounded at every step drifts
        inputs, weights = inputs.to(dtype), weights.to(dtype)
        if self.kind is GRUType.aigru:  # eq. 9 is AUGRU with weights of 1
            inputs, weights = inputs * weights[:, :, None], torch.ones_like(weights)
        weights = weights.masked_fill(~mask, 0)  # a step of weight 0 keeps the state: padding needs no gather
        parameters = (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        return attention_gru(inputs, weights, mask, parameters, update=self.kind is not GRUType.agru)
