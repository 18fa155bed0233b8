"""BERT4Rec: masked items from what stands before and after them. Sun et al., CIKM 2019.

B windows or samples, T events of all sequences, G timestamps, P masked events, D model size; E the item vectors, m that
of the mask, which is no item; P_s the vectors of positions, counted from the last event of the sequence
    x_s = LN(E_s + P_s), LN(m + P_s) where s is masked
    x <- LN(x + Attention(x)),  x <- LN(x + FFN(x)),  FFN(x) = gelu(x W1 + b1) W2 + b2
    score of item i at a masked event s = <LN gelu(W x_s + b), E_i>
The first and the last LN are those of the authors' code; the paper's biases of items are left out.
Attention looks both ways. In training each event of a window is masked with probability `mask_rate`, only the last in a
share `last_rate` of windows and where chance masks none. A masked event is predicted from later events of its window
too: that is the design. The query after a history is the state of a mask appended to it, which sees nothing later.
Tie mates are masked together and become one mask, whose targets they all are: none is another's input, and their order
is never a target.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recexp.config import ModelConfig
from recexp.dataset.batch import Batch, Features
from recexp.dataset.cloze import MASK, masked
from recexp.dataset.schema import PADDING, Schema
from recexp.dataset.window import WindowBatch, packed
from recexp.layer.dropout import Dropout
from recexp.layer.embedding import SideEmbedding
from recexp.layer.lookup import lookup
from recexp.layer.mlp import linear
from recexp.layer.packed import Layout, PackedAttention
from recexp.layer.position import LearntPosition
from recexp.model import Inputs, Needs, Output, require_divisor
from recexp.option import above, at_least, fraction, read_if, size
from recexp.registry import register


class Block(nn.Module):
    """A layer of the encoder."""

    def __init__(self, dim: int, n_heads: int, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.attention = PackedAttention(dim, n_heads, dropout, causal=False)
        self.up, self.down = linear(dim, hidden_size), linear(hidden_size, dim)  # W1 and b1, W2 and b2
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, layout: Layout, last: bool) -> Tensor:
        """x (T, D) -> (T, D), or (n, D) for only the last event of each sequence."""
        heads = self.attention(x, x, layout, last)
        x = self.norms[0]((x[layout.last] if last else x) + self.dropout(heads))
        return self.norms[1](x + self.dropout(self.down(F.gelu(self.up(x)))))


@register("bert4rec")
class BERT4Rec(nn.Module):
    needs = Needs(Inputs.sequence, context=False, features=False)

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        embedding_dim: int = size()
        embedding_std: float = above(0)
        embedding_l2: float = at_least(0)
        n_layers: int = at_least(1)
        n_heads: int = at_least(1)
        hidden_size: int = size()
        dropout: float = fraction()
        mask_rate: float = read_if("trainer.name", "next_item", allowed=fraction())
        last_rate: float = read_if("trainer.name", "next_item", allowed=fraction())

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        dim, std = config.embedding_dim, config.embedding_std
        require_divisor(config.n_heads, dim)
        self.mask_rate, self.last_rate = config.mask_rate, config.last_rate
        self.item = SideEmbedding("item", schema.ids.item, dim, std)
        self.mask = nn.Parameter(torch.randn(dim) * std)  # m
        self.position = LearntPosition(schema.max_history + 1, dim, std)
        self.input_norm, self.dropout = nn.LayerNorm(dim), Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            Block(dim, config.n_heads, config.hidden_size, config.dropout) for _ in range(config.n_layers)
        )
        self.head, self.norm = linear(dim, dim), nn.LayerNorm(dim)

    def forward(self, batch: Batch) -> Output:
        target = self.item.table(batch.catalogue.items.ids[batch.target, 0])  # (B, D)
        return Output(logits=(self.query(batch).float() * target).sum(1))

    def query(self, batch: Batch) -> Tensor:
        """The query of each user of a batch, after the history: (B, D)."""
        events, order = packed(append_mask(batch))
        last = self.encode(events.item, events.length, batch.catalogue.items, last=True)  # (B, D)
        return self.to_query(torch.empty_like(last).index_copy(0, order, last))

    def pairs(self, batch: WindowBatch) -> tuple[Tensor, Tensor]:
        """Queries (P, D) of events masked at random, and the rows of their items (P,)."""
        cloze = masked(batch.whole, len(batch), self.mask_rate, self.last_rate)
        states = self.encode(cloze.item, cloze.length, batch.events.catalogue.items, last=False)
        return self.to_query(lookup(states, cloze.query)), cloze.target

    def item_vectors(self, ids: Tensor | None = None) -> Tensor:
        return self.item.table.rows(ids)

    def to_query(self, state: Tensor) -> Tensor:
        """States (..., D) -> queries (..., D)."""
        return self.norm(F.gelu(self.head(state)))

    def encode(self, item: Tensor, length: Tensor, items: Features, last: bool) -> Tensor:
        """Rows of items or MASK (T,), or padded (B, L) -> states (T, D), or (n, D) of the last in each sequence."""
        layout = Layout(length, item.shape[1] if item.dim() == 2 else None)
        item = item.flatten()
        is_mask = item == MASK
        ids = items.ids[item.clamp(min=0), 0].masked_fill(is_mask, PADDING)  # whose vector is 0
        x = self.item.table(ids) + is_mask[:, None] * self.mask + self.position(layout.from_end)
        x = self.dropout(self.input_norm(x))
        for number, block in enumerate(self.blocks, 1):
            x = block(x, layout, last and number == len(self.blocks))
        return x


def append_mask(batch: Batch) -> Batch:
    """The batch with a mask token appended to each history."""
    length = batch.mask.sum(1, keepdim=True)
    history = F.pad(batch.history, (0, 1)).scatter(1, length, MASK)
    age = F.pad(batch.history_age, (0, 1)).scatter(1, length, 0.0)
    return replace(batch, history=history, history_age=age, mask=F.pad(batch.mask, (0, 1)).scatter(1, length, True))
