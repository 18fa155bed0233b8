"""How much each event of a history matters for a target: scores, weights, pooling.

Zhou et al., Deep Interest Network, KDD 2018
eq. 3   v = sum_s a(h_s, t) h_s

B batch, L history length, D embedding size, H first hidden size
t target (B, D), h history (B, L, D), mask (B, L) true where there is an event. A scorer maps them to
scores (B, L), `weigh` scores to weights (B, L), `pool` weights and h to v (B, D).
"""

from collections.abc import Sequence
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from recexp.kernel.library import kernels
from recexp.layer.activation import Activation, blocks
from recexp.layer.lookup import Events, on_cpu, require_rows
from recexp.layer.mlp import MLP, linear
from recexp.layer.product import product, times, weight_gradient


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
    """The scorer of a name: forward(target (B, D), history (B, L, D), mask (B, L)) -> scores (B, L).

    Scores at masked positions are finite and without meaning. linear, dot and bilinear have no hidden layers.
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
    def forward(self, target: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        return torch.bmm(history, target[:, :, None])[:, :, 0]  # (B, L)


class Bilinear(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.linear = linear(dim, dim, bias=False)

    def forward(self, target: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        return torch.bmm(history, self.linear(target)[:, :, None])[:, :, 0]  # (B, L); W meets t once, not every h


class Scorer(nn.Module):
    """MLP(combine(t, h)) -> 1."""

    def __init__(self, mlp: MLP):
        super().__init__()
        self.mlp = mlp

    def forward(self, target: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        return self.mlp(self.combine(target[:, None], history), mask)[:, :, 0]  # (B, L)

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
    """MLP([t, h, t - h, t * h]) -> 1, its first product without the (B, L, 4D) concatenation.

    W [t, h, t - h, t * h] = (W1 + W3) t + (W2 - W3) h + W4 (t * h), the first term once a row.
    """

    def forward(self, target: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        of_target, of_event, of_product = self.weights()
        x = product(history, of_event) + product(target[:, None] * history, of_product)  # (B, L, H)
        x = x + product(target, of_target, self.mlp.first.bias)[:, None]
        return self.mlp.after_first(x, mask)[:, :, 0]  # (B, L)

    def over(self, target: Tensor, events: Events, mask: Tensor) -> Tensor:
        """forward(target, events.expanded(), mask), the second term once a distinct event, and without the padding."""
        if not on_cpu(target):
            return self.forward(target, events.expanded(), mask)
        of_target, of_event, of_product = self.weights()
        row, place = mask.nonzero()[:, 0], events.index[mask]  # (N,) each, of the events
        key = product(events.vectors, of_event)  # (n, H)
        query = product(target, of_target, self.mlp.first.bias)  # (B, H)
        x = _Meet.apply(events.vectors, place, target, row, key, query, of_product)  # (N, H)
        scores = self.mlp.after_first(x)[:, 0]
        return scores.new_zeros(mask.shape).masked_scatter(mask, scores)

    def weights(self) -> tuple[Tensor, Tensor, Tensor]:
        """W1 + W3, W2 - W3 and W4, (H, D) each."""
        w1, w2, w3, w4 = self.mlp.first.weight.chunk(4, dim=1)
        return w1 + w3, w2 - w3, w4


class _Meet(torch.autograd.Function):
    """key_p + query_r + W (v_p * t_r) for places p and rows r (N,).

    Block by block, so that what is gathered stays in the cache. Vectors v (n, D), target t (B, D), key (n, H),
    query (B, H), weight W (H, D) -> (N, H).
    """

    @staticmethod
    def forward(ctx: Any, vectors, place, target, row, key, query, weight):
        x = key.new_empty(len(place), key.shape[1])
        ctx.save_for_backward(vectors, place, target, row, weight)
        if run := kernels(x, *weight.shape):
            sizes = (len(x), *weight.shape[::-1], len(vectors))
            *_, amiss = run("meet", vectors, target, key, query, weight.t(), place, row, x, *sizes, 0)
            require_rows(amiss, place, len(vectors))
            return x
        for each in blocks(place):
            p, r = place[each], row[each]
            met = times(vectors.index_select(0, p).mul_(target.index_select(0, r)), weight)
            torch.add(key.index_select(0, p), query.index_select(0, r), out=x[each]).add_(met)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dx):
        vectors, place, target, row, weight = ctx.saved_tensors
        dvectors, dtarget = vectors.new_zeros(vectors.shape), target.new_zeros(target.shape)
        dkey, dquery = dx.new_zeros(len(vectors), dx.shape[1]), dx.new_zeros(len(target), dx.shape[1])
        if run := kernels(dx, *weight.shape):
            dmet, dweight = dx.new_empty(len(dx), vectors.shape[1]), dx.new_empty(weight.shape)
            sizes = (len(dx), *weight.shape[::-1])
            run("meet_back", vectors, target, weight, dx, place, row, dmet, *sizes, sums=[dweight])
            run("meet_add", vectors, target, dx, dmet, place, row, dvectors, dtarget, dkey, dquery, *sizes)
            return dvectors, None, dtarget, None, dkey, dquery, dweight
        dweight = torch.zeros_like(weight)
        for each in blocks(place):
            p, r = place[each], row[each]
            v, t = vectors.index_select(0, p), target.index_select(0, r)
            dweight += weight_gradient(dx[each], v * t)
            dproduct = times(dx[each], weight.t())  # (n, D)
            dvectors.index_add_(0, p, t.mul_(dproduct))
            dtarget.index_add_(0, r, v.mul_(dproduct))
        return dvectors, None, dtarget, None, dkey.index_add_(0, place, dx), dquery.index_add_(0, row, dx), dweight


class Outer(Scorer):
    """MLP([h, vec(h t^T), t]) -> 1, its first product without the (B, L, D^2) outer products.

    It is linear in h: W_h h + W_ht vec(h t^T) = (W_h + sum_e t_e W_ht[:, :, e]) h, one (H, D) matrix a row.
    """

    def forward(self, target: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        first, dim = self.mlp.first, target.shape[-1]
        w_h, w_ht, w_t = first.weight.split([dim, dim * dim, dim], dim=1)
        w_ht = w_ht.reshape(-1, dim)  # (H D, D): [k, d] before e
        matrix = product(target, w_ht).view(len(target), -1, dim) + w_h  # (B, H, D)
        x = torch.baddbmm(product(target, w_t, first.bias)[:, None], history, matrix.transpose(1, 2))  # (B, L, H)
        return self.mlp.after_first(x, mask)[:, :, 0]  # (B, L)


def meet_user(kind: Attention, target: Tensor, history: Tensor, user: Tensor) -> tuple[Tensor, Tensor]:
    """Target (B, D) and history (B, L, D) as the scorer of a kind sees them when the user (B, D) takes part.

    The user joins the target as the kind joins it to h, so `multiply` sees h * t * u and `add` h + t + u; the kinds
    that see the history alone see h * u.
    """
    if kind in (Attention.add, Attention.subtract):
        return target + user, history
    if kind in (Attention.linear, Attention.mlp):
        return target, history * user[:, None]
    return target * user, history


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
    """Weights (B, L) of scores (B, L): exactly 0 where the mask is false, so on all of an empty row.

    scale: what softmax multiplies scores by first, D ** -0.5 in DIN's code; `none` leaves scores as they are.
    In fp32 at least, under autocast too.
    """
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if normalise is Normalise.none:
        return scores.masked_fill(~mask, 0)
    # The lowest float, not -inf: an empty row is then uniform instead of NaN, until it is masked again.
    lowest = torch.finfo(scores.dtype).min
    return (scores * scale).masked_fill(~mask, lowest).softmax(1).masked_fill(~mask, 0)


def pool(weights: Tensor, history: Tensor) -> Tensor:
    """sum_s weights_s h_s: weights (B, L), history (B, L, D) -> (B, D). Eq. 3."""
    return (weights[:, :, None] * history).sum(1)
