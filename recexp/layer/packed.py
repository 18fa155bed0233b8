"""Attention over packed sequences, which have no padding outside attention.

T events of B sequences, one after another, the longest first; D model size, h heads of size d = D / h
Only attention looks at more than one event. A kernel reads packed events directly; without one, the sequences are cut
into a few rectangles (b, l) of similar lengths.
"""

from collections.abc import Iterable, Iterator
from functools import cached_property

import torch
from torch import Tensor, nn

from recexp.kernel.attention import softmax_attention
from recexp.kernel.linear import product
from recexp.kernel.lookup import lookup
from recexp.kernel.packed import attend_packed
from recexp.layer.dropout import Dropout
from recexp.layer.mlp import drop_probability, linear
from recexp.layer.position import LearntPosition


class Layout:
    """Where each sequence's events are among all T, computed once per batch."""

    def __init__(self, length: Tensor, padded_to: int | None = None, age: Tensor | None = None) -> None:
        """length (B,) int64, descending unless the sequences are padded on the right.

        age (T,): time from each event to the end of its sequence, for layers that read it.
        """
        self.length, self.padded, self.age, device = length, padded_to is not None, age, length.device
        if padded_to is None:
            self.longest = int(length[0]) if len(length) else 0
            self.start = length.cumsum(0) - length  # (B,)
            end = (self.start + length).repeat_interleave(length)  # (T,)
            self.from_end = end - 1 - torch.arange(len(end), device=device)  # how many events follow in the sequence
        else:
            self.longest = padded_to
            step = torch.arange(padded_to, device=device)
            self.start = torch.arange(length.shape[0], device=device) * padded_to
            self.from_end = (length[:, None] - 1 - step).clamp(min=0).flatten()

    @cached_property
    def rectangles(self) -> list[tuple[Tensor, Tensor]]:
        """Sequences of similar lengths: positions (b, l) among the T events, arbitrary at padding, and masks (b, l)."""
        if not self.padded:
            return list(self._rectangles())
        step = torch.arange(self.longest, device=self.length.device)
        seen = (step < self.length[:, None]) | (step == 0)  # some event, for a sequence without any
        return [(self.start[:, None] + step, seen)] if self.longest else []

    def _rectangles(self) -> Iterator[tuple[Tensor, Tensor]]:
        lengths = self.length.tolist()
        bit_lengths = [n.bit_length() for n in lengths]  # sequences of equal bit length form a rectangle
        for bits in sorted(set(bit_lengths) - {0}, reverse=True):
            first, size = bit_lengths.index(bits), bit_lengths.count(bits)
            rows = slice(first, first + size)
            step = torch.arange(lengths[first], device=self.length.device)
            mask = step < self.length[rows, None]
            yield torch.where(mask, self.start[rows, None] + step, 0), mask

    def grid(self) -> tuple[Tensor, Tensor]:
        """All sequences in one rectangle: positions (B, L) among the T events, arbitrary at padding, and the mask."""
        step = torch.arange(self.longest, device=self.length.device)
        mask = step < self.length[:, None]
        return torch.where(mask, self.start[:, None] + step, 0), mask

    def events(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (b, l, ...) with the mask of a rectangle -> its events (t, ...), one sequence after another."""
        x = x.flatten(0, 1)
        return x if self.padded else lookup(x, mask.flatten().nonzero()[:, 0])

    @property
    def last(self) -> Tensor:
        """The position (n,) of the last event of each sequence that has events, or of every sequence if padded."""
        if self.padded:
            return self.start + (self.length - 1).clamp(min=0)
        kept = self.length > 0
        return (self.start + self.length - 1)[kept]


class Encoder(nn.Module):
    """Adds positions, counted from the end; then blocks of attention, and a last LayerNorm."""

    def __init__(self, position: LearntPosition | None, dim: int, dropout: float, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.position = position
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, layout: Layout, last: bool) -> Tensor:
        """x (T, D) -> (T, D), or (n, D) for only the last event of each sequence."""
        x = self.dropout(x if self.position is None else x + self.position(layout.from_end))
        for number, block in enumerate(self.blocks, 1):
            x = block(x, layout, last and number == len(self.blocks))
        return self.norm(x)


class PackedAttention(nn.Module):
    """Attention of each event to itself and the events before it or, if not causal, to its whole sequence."""

    def __init__(self, dim: int, n_heads: int, dropout: float, causal: bool = True) -> None:
        super().__init__()
        self.n_heads, self.causal = n_heads, causal
        self.query, self.key_value, self.output = linear(dim, dim), linear(dim, 2 * dim), linear(dim, dim)
        self.dropout = nn.Dropout(dropout)  # of the weights

    def forward(self, query: Tensor, memory: Tensor, layout: Layout, last: bool) -> Tensor:
        """query and memory (T, D) -> (T, D), or (n, D) for only the last event of each sequence."""
        if last:
            heads = attend_last(self.query(query[layout.last]), self.key_value(memory), layout, self.n_heads)
        else:
            qkv = self._side_by_side(query, memory)
            heads = attend(qkv, layout, self.n_heads, drop_probability(self.dropout), self.causal)
        return self.output(heads)

    def _side_by_side(self, query: Tensor, memory: Tensor) -> Tensor:
        """q, k and v of all events: (T, 3 D)."""
        if query is not memory:
            return torch.cat([self.query(query), self.key_value(memory)], 1)
        linears = (self.query, self.key_value)  # as one product, which reads and writes everything once
        weight, bias = torch.cat([part.weight for part in linears]), torch.cat([part.bias for part in linears])
        return product(query, weight, bias)


def attend(qkv: Tensor, layout: Layout, n_heads: int, p: float, causal: bool = True) -> Tensor:
    """Each event attends as in `PackedAttention`: q, k and v side by side (T, 3 D) -> (T, D)."""

    def by_rectangles() -> Tensor:
        heads = []
        for index, mask in layout.rectangles:
            q, k, v = split_heads(qkv, index, 3, n_heads)  # (b, h, l, d)
            if causal:
                seen = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).tril()
                seen = seen[None, None].expand(q.shape[0], 1, -1, -1)
            else:
                seen = mask[:, None, None]
            out = softmax_attention(q, k, v, seen, p)
            heads.append(layout.events(out.transpose(1, 2).flatten(2), mask))
        return torch.cat(heads) if heads else qkv.new_zeros(0, qkv.shape[1] // 3)

    if layout.padded:
        return by_rectangles()
    return attend_packed(None, qkv, layout.start, layout.length, n_heads, causal, p, by_rectangles)


def attend_last(q: Tensor, kv: Tensor, layout: Layout, n_heads: int) -> Tensor:
    """Attention of only the last event of each sequence: q (n, D), k and v side by side (T, 2 D) -> (n, D)."""

    def by_rectangles() -> Tensor:
        heads, first = [], 0
        for index, mask in layout.rectangles:
            k, v = split_heads(kv, index, 2, n_heads)  # (b, h, l, d)
            rows = q[first : first + index.shape[0]].unflatten(1, (n_heads, -1))[:, :, None]  # (b, h, 1, d)
            heads.append(softmax_attention(rows, k, v, mask[:, None, None], 0.0).flatten(1))
            first += index.shape[0]
        return torch.cat(heads) if heads else q

    if layout.padded:
        return by_rectangles()
    n = len(q)  # those that have events come first
    return attend_packed(q, kv, layout.start[:n], layout.length[:n], n_heads, False, 0.0, by_rectangles)


def split_heads(x: Tensor, index: Tensor, n: int, n_heads: int) -> tuple[Tensor, ...]:
    """n tensors side by side (T, n D), at an index (b, l): n times (b, h, l, d)."""
    return tuple(part.transpose(1, 2) for part in lookup(x, index).unflatten(2, (n, n_heads, -1)).unbind(2))
