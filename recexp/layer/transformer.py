"""The pieces of a Transformer, each usable alone. Vaswani et al., Attention Is All You Need, NeurIPS 2017.

B batch, L length of what is attended to, M of what attends, D model size, h heads of size d = D / h
eq. 1      Attention(Q, K, V) = softmax(Q K^T / sqrt(d)) V
sec. 3.2   MultiHead(x, y) = [head_1, ..., head_h] W^O,  head_i = Attention(x W_i^Q, y W_i^K, y W_i^V)
eq. 2      FFN(x) = f(x W_1 + b_1) W_2 + b_2
sec. 3.5   PE(p, 2i) = sin(p / 10000^(2i/D)),  PE(p, 2i+1) = cos(p / 10000^(2i/D))

A `mask` (B, L) is true where there is an event. `seen` is true where an event may be attended to: (B, L) by all
queries, (B, M, L) by each. What a mask hides may hold anything.
"""

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from recexp.config import require
from recexp.layer.activation import Activation
from recexp.layer.kernel import kernels
from recexp.layer.lookup import Events, Table, on_cpu, scattered, total
from recexp.layer.mlp import MLP, dropped, linear
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
        if self.by_kernel(query):
            positions = [product(memory, self.weight("key", "value"))]
            return self.by_sources(product(query, self.query.weight), [None], positions, seen)
        return self.between(self.query(query), self.key(memory), self.value(memory), seen)

    def by_kernel(self, x: Tensor) -> bool:
        return on_cpu(x) and kernels(x, self.heads[1]) is not None

    def weight(self, *names: str) -> Tensor:
        """Weights one below the other."""
        return torch.cat([getattr(self, name).weight for name in names])

    def by_sources(
        self, q: Tensor | None, places: list[Tensor | None], tables: Sequence[Tensor], seen: Tensor
    ) -> Tensor:
        """The heads of queries (B, M, D) and, side by side, keys and values; or all three. See _Attend."""
        return _Attend.apply(
            q, seen if seen.dim() == 3 else seen[:, None], self.heads, dropped(self.dropout), places, *tables
        )

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


class _Attend(torch.autograd.Function):
    """softmax(q k^T / sqrt(d)) v of heads side by side, 0 for a query that sees nothing: (B, M, D).

    The tables (n, W), of which rows at the places (B, L) add up, or one (B, L, W) without a place, hold [k, v] beside
    q (B, M, D), or [q, k, v] without it. seen (B, M or 1, L).
    """

    @staticmethod
    def forward(
        ctx: Any, q, seen, heads: tuple[int, int], drop: tuple[int, int], places: list[Tensor | None], *tables: Tensor
    ):
        n_heads, size = heads
        dim, length, width = n_heads * size, seen.shape[2], tables[0].shape[-1]
        n_queries = length if q is None else q.shape[1]
        ctx.heads, ctx.places = heads, places
        ctx.sizes = len(seen), n_queries, length, dim, n_heads, width, int(seen.shape[1] > 1), *drop
        ctx.save_for_backward(q, seen, *tables)
        out = seen.new_empty(len(seen), n_queries, dim, dtype=tables[0].dtype)
        kernels(out, size)("attend", *_Attend.members(ctx, q, seen, tables, out), None, None)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout):
        q, seen, *tables = ctx.saved_tensors
        run, width = kernels(dout, ctx.heads[1]), tables[0].shape[-1]
        dq, dpositions = None if q is None else q.new_empty(q.shape), dout.new_empty(len(seen), seen.shape[2], width)
        run("attend_back", *_Attend.members(ctx, q, seen, tables, dout), dq, dpositions)
        gradients = [
            dpositions if place is None else scattered(run, dpositions, place, table.shape)
            for place, table in zip(ctx.places, tables, strict=True)
        ]
        return dq, None, None, None, None, *gradients

    @staticmethod
    def members(ctx, q, seen, tables, out):
        none = [None] * (2 - len(tables))
        return q, *tables, *none, *ctx.places, *none, seen, out, *ctx.sizes


class Residual(nn.Module):
    """A sublayer with its residual, dropout and LayerNorm."""

    def __init__(self, dim: int, dropout: float, norm: Norm):
        super().__init__()
        self.placement = norm
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, outer: Linear | MLP, inner: Callable[[Tensor], Tensor], mask: Tensor) -> Tensor:
        """The sublayer is outer(inner(x)); x (..., D), mask (...) -> (..., D)."""
        if self.placement is Norm.pre:
            return x + self.dropout(apply(outer, inner(self.norm(x)), mask))
        z = inner(x)
        if self.by_kernel(x, outer):
            drop = (
                dropped(outer.hidden[0].dropout, self.dropout)
                if isinstance(outer, MLP)
                else (0, *dropped(self.dropout))
            )
            return _Sublayer.apply(x, z, *weights(outer), drop, self.norm.weight, self.norm.bias, self.norm.eps)
        return self.norm(x + self.dropout(apply(outer, z, mask)))

    def by_kernel(self, x: Tensor, outer: Linear | MLP) -> bool:
        if not on_cpu(x) or not isinstance(self.norm, nn.LayerNorm):
            return False
        if isinstance(outer, MLP) and outer.slope() is None:
            return False
        linears = outer.linears if isinstance(outer, MLP) else [outer]
        return kernels(x, *(size for each in linears for size in each.weight.shape)) is not None


def apply(outer: Linear | MLP, z: Tensor, mask: Tensor) -> Tensor:
    return outer(z, mask) if isinstance(outer, MLP) else outer(z)


def weights(outer: Linear | MLP) -> tuple[Any, ...]:
    """What _Sublayer wants of it."""
    if not isinstance(outer, MLP):
        return None, None, outer.weight, None, 0
    first, second = outer.linears
    return first.weight, first.bias, second.weight, second.bias, outer.slope()


class _Sublayer(torch.autograd.Function):
    """LayerNorm(x + W_2 f(W_1 z + b_1) + b_2), f a relu with a slope below 0; without W_1 LayerNorm(x + W_2 z).

    x (..., D), z (..., K).
    """

    @staticmethod
    def forward(
        ctx: Any,
        x,
        z,
        weight_1,
        bias_1,
        weight_2,
        bias_2,
        percent: int,
        drop: tuple[int, int, int],
        scale,
        shift,
        eps: float,
    ):
        x, z, y = x.contiguous(), z.contiguous(), x.new_empty(x.shape)
        dim, n_in, hidden = len(weight_2), z.shape[-1], 0 if weight_1 is None else len(weight_1)
        ctx.sizes = x.numel() // dim, dim, n_in, hidden, percent, *drop, eps
        transposed = None if weight_1 is None else weight_1.t().contiguous()
        ctx.same = z.data_ptr() == x.data_ptr()
        ctx.save_for_backward(
            x, z, transposed, bias_1, weight_2.t().contiguous(), bias_2, scale, shift, weight_1, weight_2
        )
        kernels(x, dim, n_in, hidden)(
            "sublayer",
            *ctx.saved_tensors[:8] if False else (x, z, transposed, bias_1, weight_2.t(), bias_2, scale, shift),
            y,
            *ctx.sizes,
            *[None] * 10,
        )
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy):
        *given, weight_1, weight_2 = ctx.saved_tensors
        x, z = given[:2]
        dim, n_in, hidden = ctx.sizes[1:4]
        run = kernels(x, dim, n_in, hidden)
        dx, dz = x.new_empty(x.shape), None if ctx.same else z.new_empty(z.shape)
        shapes = ((hidden, n_in), (hidden,), weight_2.shape, (dim,), (dim,), (dim,))
        sums = [x.new_zeros(run.shares, *shape) for shape in shapes]
        run("sublayer_back", *given, dy, *ctx.sizes, weight_1, weight_2, dx, dz, *sums)
        dweight_1, dbias_1, dweight_2, dbias_2, dscale, dshift = (each.sum(0) for each in sums)
        if weight_1 is None:
            dweight_1 = dbias_1 = dbias_2 = None
        return dx, dz, dweight_1, dbias_1, dweight_2, dbias_2, None, None, dscale, dshift, None


class EncoderLayer(nn.Module):
    """Self-attention and FFN."""

    def __init__(self, dim: int, n_heads: int, hidden_size: int, activation: Activation, dropout: float, norm: Norm):
        super().__init__()
        self.attend = MultiHeadAttention(dim, n_heads, dropout)
        self.transform = MLP(dim, [hidden_size], activation, dropout, n_out=dim)  # eq. 2
        self.attended, self.transformed = Residual(dim, dropout, norm), Residual(dim, dropout, norm)

    def forward(self, x: Tensor, mask: Tensor, seen: Tensor, sources: Sequence[Events] = ()) -> Tensor:
        """x (B, L, D), mask (B, L), seen (B, L) or (B, L, L) -> (B, L, D), finite without meaning where masked."""
        attend = self.attend
        x = hide(x, mask)
        if self.looks_up(x, sources) and attend.by_kernel(x):
            weight, places = attend.weight("query", "key", "value"), [each.place for each in sources]
            tables = [product(each.vectors, weight) for each in sources]
            x = self.attended(x, attend.output, lambda x: attend.by_sources(None, places, tables, seen), mask)
        elif self.looks_up(x, sources):
            q, k, v = (looked_up(sources, each.weight) for each in (attend.query, attend.key, attend.value))
            x = self.attended(x, attend.output, lambda x: attend.between(q, k, v, seen), mask)
        else:
            x = self.attended(x, attend.output, lambda x: attend.side_by_side(x, x, seen), mask)
        return self.transformed(x, self.transform, lambda x: x, mask)

    def last(self, x: Tensor, mask: Tensor, sources: Sequence[Events] = ()) -> Tensor:
        """Its output at the last position alone, which is no padding and sees all: (B, 1, D), at a part of the cost."""
        attend = self.attend
        x = hide(x, mask)
        if self.looks_up(x, sources) and attend.by_kernel(x):
            weight, places = attend.weight("key", "value"), [each.place for each in sources]
            tables = [product(each.vectors, weight) for each in sources]
            x = self.attended(
                x[:, -1:],
                attend.output,
                lambda x: attend.by_sources(attend.query(x), places, tables, mask),
                mask[:, -1:],
            )
        elif self.looks_up(x, sources):
            k, v = looked_up(sources, attend.key.weight), looked_up(sources, attend.value.weight)
            x = self.attended(
                x[:, -1:], attend.output, lambda x: attend.between(attend.query(x), k, v, mask), mask[:, -1:]
            )
        else:
            memory = self.attended.norm(x) if self.attended.placement is Norm.pre else x
            x = self.attended(x[:, -1:], attend.output, lambda x: attend.side_by_side(x, memory, mask), mask[:, -1:])
        return self.transformed(x, self.transform, lambda x: x, mask[:, -1:])

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
        x = self.attended(x, self.attend.output, lambda x: self.attend.side_by_side(x, x, causal(mask)), mask)
        x = self.recalled(x, self.recall.output, lambda x: self.recall.side_by_side(x, memory, seen), mask)
        return self.transformed(x, self.transform, lambda x: x, mask)


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
        return hide(self.norm(x), mask)

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
        return hide(self.norm(x), mask)


def final(dim: int, norm: Norm) -> nn.Module:
    """What follows the last layer: with pre-norm nothing has normalised the sum of all residuals yet."""
    return nn.LayerNorm(dim) if norm is Norm.pre else nn.Identity()


def looked_up(sources: Sequence[Events], weight: Tensor) -> Tensor:
    """weight(x) of x, the sum of the sources (B, L), once for each of their vectors: (B, L, D). weight has no bias."""
    return total(Events(product(each.vectors, weight), each.place) for each in sources)


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


def distance(mask: Tensor) -> Tensor:
    """How many events follow each position, 0 at the last event: mask (B, L) -> (B, L) int64.

    Positions are counted from the end, for histories of any length end at the target.
    """
    return mask.sum(1, keepdim=True) - mask.cumsum(1)


def sinusoid(n: int, dim: int) -> Tensor:
    """The table PE of sec. 3.5: (n, D). An odd D lacks the last cosine."""
    rate = 10000 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)  # (ceil(D / 2),)
    angle = torch.arange(n, dtype=torch.float64)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], 2).flatten(1)[:, :dim].float()


class Sinusoid(nn.Module):
    """Fixed vectors of positions."""

    table: Tensor

    def __init__(self, n_positions: int, dim: int):
        super().__init__()
        self.register_buffer("table", sinusoid(n_positions, dim), persistent=False)

    @property
    def vectors(self) -> Tensor:
        """(n_positions, D)."""
        return self.table

    def forward(self, position: Tensor) -> Tensor:
        """position (...), from 0 and below n_positions -> (..., D)."""
        return self.table[position]


class LearntPosition(nn.Module):
    """A learnt vector for each position."""

    def __init__(self, n_positions: int, dim: int, std: float):
        super().__init__()
        self.table = Table(n_positions, dim)
        nn.init.normal_(self.table.weight, std=std)

    @property
    def vectors(self) -> Tensor:
        """(n_positions, D)."""
        return self.table.weight

    def forward(self, position: Tensor) -> Tensor:
        """position (...), from 0 and below n_positions -> (..., D)."""
        return self.table(position)


class AgePosition(nn.Module):
    """A learnt vector for each bucket of the time since an event: the position of Chen et al., BST, DLP-KDD 2019.

    Bucket k holds ages from 2^k - 1 to below 2^(k+1) - 1, the last bucket all above.
    """

    def __init__(self, n_buckets: int, dim: int, std: float):
        super().__init__()
        self.n_buckets = n_buckets
        self.table = Table(n_buckets, dim)
        nn.init.normal_(self.table.weight, std=std)

    @property
    def vectors(self) -> Tensor:
        """(n_buckets, D)."""
        return self.table.weight

    def forward(self, age: Tensor) -> Tensor:
        """age (...) float, 0 or more -> (..., D)."""
        return self.table(self.bucket(age))

    def bucket(self, age: Tensor) -> Tensor:
        """floor(log2(1 + age)), at most n_buckets - 1: age (...) -> (...) integer."""
        exponent = torch.frexp(1 + age)[1]  # exact where log2 rounds: 1 + age = m 2^exponent, 1/2 <= m < 1
        return (exponent - 1).clamp(0, self.n_buckets - 1)


def require_divisor(n_heads: int, width: int) -> None:
    """Raises ConfigError for heads that cannot share the width equally, naming the numbers that can."""
    divisors = ", ".join(str(n) for n in range(1, width + 1) if width % n == 0)
    require(width % n_heads == 0, "model.n_heads", n_heads, f"a divisor of the encoder's width {width}: {divisors}")
