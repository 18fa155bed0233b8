"""How much each event of a history matters for a target: scores and weights.

Zhou et al., Deep Interest Network, KDD 2018
eq. 3   v = sum_s a(h_s, t) h_s

B batch, L history length, D embedding size, H first hidden size
t target (B, D), events that expand to h (B, L, D), mask (B, L) true where there is an event. A scorer maps them to
scores (B, L), `weigh` scores to weights (B, L).
"""

from collections.abc import Sequence
from enum import Enum

import torch
from torch import Tensor, nn

from recexp.kernel.attention import target_interaction
from recexp.kernel.linear import product
from recexp.layer.activation import Activation
from recexp.layer.lookup import Events
from recexp.layer.mlp import MLP, linear


class Attention(Enum):
    linear = "w h: the history alone"
    mlp = "MLP(h): the history alone"
    dot = "<t, h>"
    bilinear = "h W t"
    add = "MLP(t + h)"
    subtract = "MLP(t - h)"
    multiply = "MLP(t * h)"
    interaction = "MLP([t, h, t - h, t * h]), of DIN's authors' code"
    outer = "MLP([h, vec(h t^T), t]), of the DIN paper"


class Normalise(Enum):
    none = "scores as weights: how much interest there is stays visible (DIN)"
    softmax = "weights that sum to 1 over the history"


def attention(kind: Attention, dim: int, hidden_sizes: Sequence[int], activation: Activation) -> nn.Module:
    """The scorer of a kind: forward(target (B, D), events of (B, L), mask (B, L)) -> scores (B, L).

    Scores at masked positions are finite but have no meaning. linear, dot and bilinear have no hidden layers.
    """
    n_in = {Attention.interaction: 4 * dim, Attention.outer: 2 * dim + dim * dim}.get(kind, dim)
    if kind is Attention.dot:
        return Dot()
    if kind is Attention.bilinear:
        return Bilinear(dim)
    if kind is Attention.linear:
        hidden_sizes = []
    return SCORERS[kind](MLP(n_in, hidden_sizes, activation, n_out=1))


class Dot(nn.Module):
    def forward(self, target: Tensor, events: Events, mask: Tensor) -> Tensor:
        return torch.bmm(events.expanded(), target[:, :, None])[:, :, 0]  # (B, L)


class Bilinear(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.linear = linear(dim, dim, bias=False)

    def forward(self, target: Tensor, events: Events, mask: Tensor) -> Tensor:
        query = self.linear(target)[:, :, None]  # (B, D, 1): W multiplies t once, not every h
        return torch.bmm(events.expanded(), query)[:, :, 0]  # (B, L)


class Scorer(nn.Module):
    """MLP(combine(t, h)) -> 1."""

    def __init__(self, mlp: MLP):
        super().__init__()
        self.mlp = mlp

    def forward(self, target: Tensor, events: Events, mask: Tensor) -> Tensor:
        return self.mlp(self.combine(target[:, None], events.expanded()), mask)[:, :, 0]  # (B, L)

    def combine(self, target: Tensor, history: Tensor) -> Tensor:
        """target (B, 1, D), history (B, L, D) -> (B, L, D)."""
        return history


class Add(Scorer):
    def combine(self, target: Tensor, history: Tensor) -> Tensor:
        return target + history


class Subtract(Scorer):
    def combine(self, target: Tensor, history: Tensor) -> Tensor:
        return target - history


class Multiply(Scorer):
    def combine(self, target: Tensor, history: Tensor) -> Tensor:
        return target * history


class Interaction(Scorer):
    """MLP([t, h, t - h, t * h]) -> 1, its first product computed without the (B, L, 4D) concatenation.

    W [t, h, t - h, t * h] = (W1 + W3) t + (W2 - W3) h + W4 (t * h), the first term computed once per row.
    """

    def forward(self, target: Tensor, events: Events, mask: Tensor) -> Tensor:
        first = self.mlp.first
        w1, w2, w3, w4 = first.weight.chunk(4, dim=1)
        weights = (w1 + w3, w2 - w3, w4)
        x, packed = target_interaction(target, events.vectors, events.index, events.expanded, mask, weights, first.bias)
        scores = self.mlp.after_first(x, None if packed else mask)[..., 0]  # (N,) of the events if packed, or (B, L)
        return scores.new_zeros(mask.shape).masked_scatter(mask, scores) if packed else scores


class Outer(Scorer):
    """MLP([h, vec(h t^T), t]) -> 1, its first product computed without the (B, L, D^2) outer products.

    It is linear in h: W_h h + W_ht vec(h t^T) = (W_h + sum_e t_e W_ht[:, :, e]) h, one (H, D) matrix per row.
    """

    def forward(self, target: Tensor, events: Events, mask: Tensor) -> Tensor:
        first, dim = self.mlp.first, target.shape[-1]
        w_h, w_ht, w_t = first.weight.split([dim, dim * dim, dim], dim=1)
        w_ht = w_ht.reshape(-1, dim)  # (H D, D): [k, d] before e
        matrix = product(target, w_ht).view(target.shape[0], -1, dim) + w_h  # (B, H, D)
        target_term = product(target, w_t, first.bias)[:, None]  # (B, 1, H)
        x = torch.baddbmm(target_term, events.expanded(), matrix.transpose(1, 2))  # (B, L, H)
        return self.mlp.after_first(x, mask)[:, :, 0]  # (B, L)


def condition_on_user(kind: Attention, target: Tensor, events: Events, user: Tensor) -> tuple[Tensor, Events]:
    """Target (B, D) and events with the user (B, D) combined, so that the scores depend on the user too.

    The user is added to the target or multiplied with it, to suit the kind: `multiply` sees h * t * u, and `add`
    h + t + u. The kinds that read only the history see h * u.
    """
    if kind in (Attention.add, Attention.subtract):
        return target + user, events
    if kind in (Attention.linear, Attention.mlp):
        return target, as_unique_events(events.expanded() * user[:, None])
    return target * user, events


def as_unique_events(history: Tensor) -> Events:
    """Vectors (B, L, D) as Events, each treated as unique."""
    index = torch.arange(history.shape[:2].numel(), device=history.device).view(history.shape[:2])
    return Events(history.flatten(0, 1), index)


SCORERS: dict[Attention, type[Scorer]] = {
    Attention.linear: Scorer,
    Attention.mlp: Scorer,
    Attention.add: Add,
    Attention.subtract: Subtract,
    Attention.multiply: Multiply,
    Attention.interaction: Interaction,
    Attention.outer: Outer,
}


def weigh(scores: Tensor, mask: Tensor, normalise: Normalise, scale: float = 1.0) -> Tensor:
    """Weights (B, L) of scores (B, L): exactly 0 where the mask is false, so an empty row is all 0.

    scale: factor of the scores before softmax, D ** -0.5 in DIN's code; `none` leaves scores as they are.
    In fp32 at least, even under autocast.
    """
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if normalise is Normalise.none:
        return scores.masked_fill(~mask, 0)
    # The lowest float, not -inf: an empty row is then uniform instead of NaN, until it is masked again.
    lowest = torch.finfo(scores.dtype).min
    return (scores * scale).masked_fill(~mask, lowest).softmax(1).masked_fill(~mask, 0)
