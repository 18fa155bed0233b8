"""The pieces of a Transformer, each usable alone. Vaswani et al., Attention Is All You Need, NeurIPS 2017.

B batch, L length of what is attended to, M of what attends, D model size, h heads of size d = D / h
eq. 1      Attention(Q, K, V) = softmax(Q K^T / sqrt(d)) V
sec. 3.2   MultiHead(x, y) = [head_1, ..., head_h] W^O,  head_i = Attention(x W_i^Q, y W_i^K, y W_i^V)
eq. 2      FFN(x) = f(x W_1 + b_1) W_2 + b_2

A `mask` (B, L) is true where there is an event. `seen` is true where an event may be attended to: (B, L) by all
queries, (B, M, L) by each. What a mask hides may hold anything.
"""

from collections.abc import Callable, Sequence
from enum import Enum

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recexp.kernel.library import kernels
from recexp.layer import fused
from recexp.layer.activation import Activation
from recexp.layer.lookup import Events, on_cpu, total
from recexp.layer.mlp import MLP, linear
from recexp.layer.product import Linear, product

SHORT = 64  # longest sequence whose scores a CPU keeps whole


class Norm(Enum):
    post = "LayerNorm(x + f(x)), of the paper"
    pre = "x + f(LayerNorm(x)), and a LayerNorm after the last layer"


class MultiHeadAttention(nn.Module):
    """Sec. 3.2, without biases as there: a query that sees nothing gets exactly 0."""

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

    def side_by_side(self, query: Tensor, memory: Tensor, seen: Tensor) -> Tensor:
        """The heads [head_1, ..., head_h] (B, M, D) of which forward gives the product."""
        # A weight of 0 is not enough: 0 times infinity is NaN.
        memory = hide(memory, seen if seen.dim() == 2 else seen.any(1))
        if self._by_kernel(query):
            positions = product(memory, torch.cat([self.key.weight, self.value.weight])).flatten(0, 1)
            return fused.attend(self.query(query), [positions], [None], seen, self.heads[0], self.dropout)
        return self.between(self.query(query), self.key(memory), self.value(memory), seen)

    def over(self, sources: Sequence[Events], seen: Tensor, query: Tensor | None = None) -> Tensor:
        """side_by_side of x, the sum of the sources (B, L), with itself or a query (B, M, D): (B, M, D).

        Products are computed once for each vector of the sources. On a CPU. Without a query, what a position gets that
        is not seen has no meaning.
        """
        q = None if query is None else self.query(query)
        weights = [each.weight for each in (self.query, self.key, self.value)][0 if q is None else 1 :]
        if self._by_kernel(sources[0].vectors) and len(sources) <= 2:
            tables = [product(each.vectors, torch.cat(weights)) for each in sources]
            return fused.attend(q, tables, [each.index for each in sources], seen, self.heads[0], self.dropout)
        parts = [looked_up(sources, each) for each in weights]
        q, k, v = parts if q is None else (q, *parts)
        return self.between(q, k, v, seen)

    def _by_kernel(self, x: Tensor) -> bool:
        return on_cpu(x) and kernels(x, self.heads[1]) is not None

    def between(self, q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
        """The heads of the products q (B, M, D), k and v (B, L, D), these finite also where not seen."""
        seen = seen if seen.dim() == 3 else seen[:, None]  # (B, M or 1, L)
        blind = ~seen.any(2, keepdim=True)  # (B, M or 1, 1)
        q, k, v = (x.unflatten(2, self.heads).transpose(1, 2) for x in (q, k, v))  # (B, h, M or L, d)
        # Kernels differ in what they make of a row that is all masked, so it sees all and is blanked afterwards.
        heads = attend(q, k, v, (seen | blind)[:, None], self.dropout)
        heads = heads.masked_fill(blind[:, None], 0)  # (B, h, M, d)
        return heads.transpose(1, 2).flatten(2)


def attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, dropout: nn.Dropout) -> Tensor:
    """Eq. 1: q (B, h, M, d), k and v (B, h, L, d), seen (B, 1, M or 1, L), some of it in each row -> (B, h, M, d)."""
    rows, length, size = (*q.shape[:3], k.shape[2]), k.shape[2], q.shape[3]
    if q.device.type != "cpu" or length > SHORT:
        return F.scaled_dot_product_attention(q, k, v, seen, dropout.p if dropout.training else 0.0)
    # torch's kernel takes three times as long as these products of short sequences (docs/performance.md).
    hidden = q.new_zeros(seen.shape).masked_fill(~seen, torch.finfo(q.dtype).min).expand(rows).flatten(0, 1)
    q, k, v = q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)  # (B h, M or L, d)
    weights = torch.baddbmm(hidden, q, k.transpose(1, 2), alpha=size**-0.5).softmax(2)  # (B h, M, L)
    return torch.bmm(dropout(weights), v).unflatten(0, rows[:2])


class Residual(nn.Module):
    """A sublayer with its residual, dropout and LayerNorm."""

    def __init__(self, dim: int, dropout: float, norm: Norm):
        super().__init__()
        self.placement = norm
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor, outer: Linear | MLP, inner: Callable[[Tensor], Tensor]) -> Tensor:
        """The sublayer is outer(inner(x)): x (B, L, D), mask (B, L) -> (B, L, D).

        Where the mask is false it is 0 with post-norm, finite without meaning with pre-norm.
        """
        if self.placement is Norm.pre:
            return x + self.dropout(_apply(outer, inner(self.norm(x)), mask))
        z = inner(x)
        if not self._by_kernel(x, outer):
            return hide(self.norm(x + self.dropout(_apply(outer, z, mask))), mask)
        if not isinstance(outer, MLP):
            return fused.sublayer(x, z, mask, [outer], 0, (0, *fused.dropped(self.dropout)), self.norm)
        hidden = outer.hidden[0]
        drop, slope = fused.dropped(hidden.dropout, self.dropout), fused.SLOPES[type(hidden.activation)]
        return fused.sublayer(x, None if z is x else z, mask, outer.linears, slope, drop, self.norm)

    def _by_kernel(self, x: Tensor, outer: Linear | MLP) -> bool:
        linears = outer.linears if isinstance(outer, MLP) else [outer]
        fits = not isinstance(outer, MLP) or (outer.is_plain() and len(linears) == 2)
        sizes = [size for each in linears for size in each.weight.shape]
        return fits and on_cpu(x) and isinstance(self.norm, nn.LayerNorm) and kernels(x, *sizes) is not None


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
        """x (B, L, D), mask (B, L), seen (B, L) or (B, L, L) -> (B, L, D), where masked as `Residual`."""
        attend = self.attend
        if self.looks_up(x, sources):  # finite where the mask is false
            x = self.attended(x, mask, attend.output, lambda x: attend.over(sources, seen))
        else:
            x = hide(x, mask)
            x = self.attended(x, mask, attend.output, lambda x: attend.side_by_side(x, x, seen))
        return self.transformed(x, mask, self.transform, lambda x: x)

    def last(self, x: Tensor, mask: Tensor, sources: Sequence[Events] = ()) -> Tensor:
        """Its output at the last position alone, which is no padding and sees all: (B, 1, D), at a part of the cost."""
        attend, here = self.attend, mask[:, -1:]
        if self.looks_up(x, sources):
            x = self.attended(x[:, -1:], here, attend.output, lambda x: attend.over(sources, mask, query=x))
        else:
            x = hide(x, mask)
            memory = self.attended.norm(x) if self.attended.placement is Norm.pre else x
            x = self.attended(x[:, -1:], here, attend.output, lambda x: attend.side_by_side(x, memory, mask))
        return self.transformed(x, here, self.transform, lambda x: x)

    def looks_up(self, x: Tensor, sources: Sequence[Events]) -> bool:
        """Whether products of x are looked up in those of its sources: on a CPU, where no norm stands between."""
        return bool(sources) and on_cpu(x) and self.attended.placement is Norm.post


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


class Encoder(nn.Module):
    """Encoder layers one after another; padding comes out as exactly 0.

    sources: what x is the sum of, where a caller knows it, finite also where the mask is false. Products of the first
    layer's attention are then computed once for each of their vectors, in place of once a position.
    """

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
            EncoderLayer(dim, n_heads, hidden_size, activation, dropout, norm) for _ in range(n_layers)
        )
        self.norm = final(dim, norm)

    def forward(self, x: Tensor, mask: Tensor, seen: Tensor, sources: Sequence[Events] = ()) -> Tensor:
        """x (B, L, D), mask (B, L), seen: the mask, or causal(mask) (B, L, L) -> (B, L, D)."""
        for layer in self.layers:
            x, sources = layer(x, mask, seen, sources), ()
        return x if isinstance(self.norm, nn.Identity) else hide(self.norm(x), mask)

    def last(self, x: Tensor, mask: Tensor, sources: Sequence[Events] = ()) -> Tensor:
        """The output at the last position, which is no padding, all seeing all: (B, D)."""
        for layer in self.layers[:-1]:
            x, sources = layer(x, mask, mask, sources), ()
        top = self.layers[-1]
        assert isinstance(top, EncoderLayer)
        return self.norm(top.last(x, mask, sources))[:, 0]


class Decoder(nn.Module):
    """Decoder layers one after another; padding comes out as exactly 0."""

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
            DecoderLayer(dim, n_heads, hidden_size, activation, dropout, norm) for _ in range(n_layers)
        )
        self.norm = final(dim, norm)

    def forward(self, x: Tensor, mask: Tensor, memory: Tensor, seen: Tensor) -> Tensor:
        """x (B, M, D), mask (B, M), memory (B, L, D), its seen (B, L) or (B, M, L) -> (B, M, D)."""
        for layer in self.layers:
            x = layer(x, mask, memory, seen)
        return x if isinstance(self.norm, nn.Identity) else hide(self.norm(x), mask)


def final(dim: int, norm: Norm) -> nn.Module:
    """What follows the last layer: with pre-norm nothing has normalised the sum of all residuals yet."""
    return nn.LayerNorm(dim) if norm is Norm.pre else nn.Identity()


def looked_up(sources: Sequence[Events], weight: Tensor) -> Tensor:
    """weight(x) of x, the sum of the sources (B, L), once for each of their vectors: (B, L, D). weight has no bias."""
    return total(Events(product(each.vectors, weight), each.index) for each in sources)


def hide(x: Tensor, mask: Tensor) -> Tensor:
    """x (B, L, D) with zeros where mask (B, L) is false."""
    if x.device.type != "cpu":
        return x.masked_fill(~mask[:, :, None], 0)
    padding = (~mask).flatten().nonzero()[:, 0]  # a quarter of the time on a CPU; a GPU would be waited for
    return x.flatten(0, 1).index_fill(0, padding, 0).view_as(x)


def causal(mask: Tensor) -> Tensor:
    """What position s of a sequence may see, its events up to s itself: mask (B, L) -> (B, L, L)."""
    length = mask.shape[1]
    return mask[:, None] & torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
