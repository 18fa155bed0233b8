"""The pieces of a Transformer, each usable by itself. Vaswani et al., Attention Is All You Need, NeurIPS 2017.

B batch, L length of the memory, M of the queries, D model size, h heads of size d = D / h
eq. 1      Attention(Q, K, V) = softmax(Q K^T / sqrt(d)) V
sec. 3.2   MultiHead(x, y) = [head_1, ..., head_h] W^O,  head_i = Attention(x W_i^Q, y W_i^K, y W_i^V)
eq. 2      FFN(x) = f(x W_1 + b_1) W_2 + b_2

A `mask` (B, L) is true where there is an event. `seen` is true where an event may be attended to: (B, L) by all
queries, (B, M, L) by each. Masked positions may hold anything.
"""

from collections.abc import Callable, Sequence
from enum import Enum

import torch
from torch import Tensor, nn

from recexp.kernel.attention import attend
from recexp.kernel.sublayer import hide, sublayer
from recexp.layer.activation import Activation
from recexp.layer.lookup import Events, total
from recexp.layer.mlp import MLP, drop_probability, linear
from recexp.layer.product import Linear


class Norm(Enum):
    post = "LayerNorm(x + f(x)), of the paper"
    pre = "x + f(LayerNorm(x)), and a LayerNorm after the last layer"


class MultiHeadAttention(nn.Module):
    """Sec. 3.2, without biases, as in the paper: a query that sees nothing gets exactly 0."""

    def __init__(self, dim: int, n_heads: int, dropout: float):
        super().__init__()
        if dim % n_heads:
            raise ValueError(f"dim = {dim} is not a multiple of n_heads = {n_heads}.")
        self.heads = (n_heads, dim // n_heads)
        self.query = linear(dim, dim, bias=False)
        self.key = linear(dim, dim, bias=False)
        self.value = linear(dim, dim, bias=False)
        self.output = linear(dim, dim, bias=False)
        self.dropout = nn.Dropout(dropout)  # of the weights

    def forward(self, query: Tensor, memory: Tensor, seen: Tensor) -> Tensor:
        """query (B, M, D), memory (B, L, D), seen (B, L) or (B, M, L) -> (B, M, D)."""
        return self.output(self.side_by_side(query, memory, seen))

    def side_by_side(self, query: Tensor, memory: Tensor, seen: Tensor, sources: Sequence[Events] = ()) -> Tensor:
        """The heads [head_1, ..., head_h] (B, M, D), which forward multiplies by W^O.

        sources: events whose sum is the memory, finite even where not seen, so that products of a memory of few unique
        vectors cost less. The output at a query position that is not seen then has no meaning.
        """
        weights = self.query.weight, self.key.weight, self.value.weight
        pairs = [(events.vectors, events.index) for events in sources]
        return attend(query, memory, weights, seen, self.heads[0], drop_probability(self.dropout), pairs)


class Residual(nn.Module):
    """A sublayer with its residual, dropout and LayerNorm."""

    def __init__(self, dim: int, dropout: float, norm: Norm):
        super().__init__()
        self.placement = norm
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor, outer: Linear | MLP, inner: Callable[[Tensor], Tensor]) -> Tensor:
        """The sublayer is outer(inner(x)): x (B, L, D), mask (B, L) -> (B, L, D).

        Where the mask is false, the output is 0 with post-norm, finite but meaningless with pre-norm.
        """
        if self.placement is Norm.pre:
            return x + self.dropout(_apply(outer, inner(self.norm(x)), mask))
        z, p = inner(x), drop_probability(self.dropout)
        norm = self.norm.weight, self.norm.bias, self.norm.eps
        if isinstance(outer, Linear):
            return sublayer(x, z, mask, [(outer.weight, outer.bias)], norm, p=p)
        if outer.slope is None or len(outer.linears) != 2:
            return hide(self.norm(x + self.dropout(outer(z, mask))), mask)
        linears = [(linear.weight, linear.bias) for linear in outer.linears]
        return sublayer(x, z, mask, linears, norm, outer.slope, drop_probability(outer.hidden[0].dropout), p)


def _apply(outer: Linear | MLP, z: Tensor, mask: Tensor) -> Tensor:
    return outer(z, mask) if isinstance(outer, MLP) else outer(z)


class EncoderLayer(nn.Module):
    """Self-attention and FFN."""

    def __init__(self, dim: int, n_heads: int, hidden_size: int, activation: Activation, dropout: float, norm: Norm):
        super().__init__()
        self.attend = MultiHeadAttention(dim, n_heads, dropout)
        self.transform = MLP(dim, [hidden_size], activation, dropout, n_out=dim)  # eq. 2
        self.attended, self.transformed = Residual(dim, dropout, norm), Residual(dim, dropout, norm)

    def forward(self, x: Tensor, mask: Tensor, seen: Tensor, sources: Sequence[Events] = ()) -> Tensor:
        """x (B, L, D), mask (B, L), seen (B, L) or (B, L, L) -> (B, L, D), masked as in `Residual`.

        sources: events whose sum is x, as in `MultiHeadAttention.side_by_side`.
        """
        x, sources = self._inputs(x, mask, sources)
        attend = self.attend
        x = self.attended(x, mask, attend.output, lambda x: attend.side_by_side(x, x, seen, sources))
        return self.transformed(x, mask, self.transform, lambda x: x)

    def last(self, x: Tensor, mask: Tensor, sources: Sequence[Events] = ()) -> Tensor:
        """The output at only the last position, which is no padding and sees all: (B, 1, D), at a lower cost."""
        x, sources = self._inputs(x, mask, sources)
        attend, here = self.attend, mask[:, -1:]
        memory = self.attended.norm(x) if self.attended.placement is Norm.pre else x
        x = self.attended(x[:, -1:], here, attend.output, lambda x: attend.side_by_side(x, memory, mask, sources))
        return self.transformed(x, here, self.transform, lambda x: x)

    def _inputs(self, x: Tensor, mask: Tensor, sources: Sequence[Events]) -> tuple[Tensor, Sequence[Events]]:
        """x, finite where the mask is false, and its sources, unless attention sees them through a LayerNorm."""
        if sources and self.attended.placement is Norm.post:
            return x, sources
        return hide(x, mask), ()


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to a memory, FFN."""

    def __init__(self, dim: int, n_heads: int, hidden_size: int, activation: Activation, dropout: float, norm: Norm):
        super().__init__()
        self.attend = MultiHeadAttention(dim, n_heads, dropout)
        self.recall = MultiHeadAttention(dim, n_heads, dropout)
        self.transform = MLP(dim, [hidden_size], activation, dropout, n_out=dim)  # eq. 2
        self.attended, self.recalled, self.transformed = (Residual(dim, dropout, norm) for _ in range(3))

    def forward(self, x: Tensor, mask: Tensor, memory: Tensor, seen: Tensor) -> Tensor:
        """x (B, M, D), mask (B, M), memory (B, L, D), its seen (B, L) or (B, M, L) -> (B, M, D) as EncoderLayer."""
        x = hide(x, mask)
        x = self.attended(x, mask, self.attend.output, lambda x: self.attend.side_by_side(x, x, causal(mask)))
        x = self.recalled(x, mask, self.recall.output, lambda x: self.recall.side_by_side(x, memory, seen))
        return self.transformed(x, mask, self.transform, lambda x: x)


class Stack(nn.Module):
    """Layers one after another; padding comes out as exactly 0."""

    layer: type[EncoderLayer] | type[DecoderLayer]

    def __init__(
        self,
        n_layers: int,
        dim: int,
        n_heads: int,
        hidden_size: int,
        activation: Activation,
        dropout: float,
        norm: Norm,
    ):
        super().__init__()
        self.layers = nn.ModuleList(
            self.layer(dim, n_heads, hidden_size, activation, dropout, norm) for _ in range(n_layers)
        )
        # With pre-norm no layer has normalised the sum of all residuals.
        self.norm = nn.LayerNorm(dim) if norm is Norm.pre else nn.Identity()

    def normalised(self, x: Tensor, mask: Tensor) -> Tensor:
        return x if isinstance(self.norm, nn.Identity) else hide(self.norm(x), mask)


class Encoder(Stack):
    layer = EncoderLayer

    def forward(self, x: Tensor | Sequence[Events], mask: Tensor, seen: Tensor) -> Tensor:
        """x (B, L, D), mask (B, L), seen: the mask, or causal(mask) (B, L, L) -> (B, L, D).

        x may be given as events whose sum it is, finite even where the mask is false. Products of the first
        layer's attention are then computed once per unique vector instead of once per position.
        """
        total, sources = summed(x)
        for layer in self.layers:
            total, sources = layer(total, mask, seen, sources), ()
        return self.normalised(total, mask)

    def last(self, x: Tensor | Sequence[Events], mask: Tensor) -> Tensor:
        """The output at the last position, which is not padding, where each event sees all: (B, D)."""
        total, sources = summed(x)
        for layer in self.layers[:-1]:
            total, sources = layer(total, mask, mask, sources), ()
        top = self.layers[-1]
        assert isinstance(top, EncoderLayer)
        return self.norm(top.last(total, mask, sources))[:, 0]


class Decoder(Stack):
    layer = DecoderLayer

    def forward(self, x: Tensor, mask: Tensor, memory: Tensor, seen: Tensor) -> Tensor:
        """x (B, M, D), mask (B, M), memory (B, L, D), its seen (B, L) or (B, M, L) -> (B, M, D)."""
        for layer in self.layers:
            x = layer(x, mask, memory, seen)
        return self.normalised(x, mask)


def summed(x: Tensor | Sequence[Events]) -> tuple[Tensor, Sequence[Events]]:
    """x as a tensor, and the events, if any, whose sum it is."""
    return (x, ()) if isinstance(x, Tensor) else (total(x), x)


def causal(mask: Tensor) -> Tensor:
    """What position s of a sequence may see: events up to and including s. mask (B, L) -> (B, L, L)."""
    length = mask.shape[1]
    return mask[:, None] & torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
