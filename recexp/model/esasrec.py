"""eSASRec: SASRec with LiGR layers, trained by sampled softmax. Klenitskiy et al., RecSys 2025.

Layers as in LiGR (Borisyuk et al., 2025); T events of all sequences, D model size, H hidden size
    x <- x + Attention(LN x) o sigmoid(W1 x)
    x <- x + SwiGLU(LN x) o sigmoid(W2 x),  SwiGLU(y) = (silu(A y) o B y) C,  A and B (D, H)
All else is as in `sasrec`. With open gates (sigmoid = 1), attention and residuals are those of its form=pre.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from recexp.config import ModelConfig
from recexp.dataset.schema import Schema
from recexp.layer.dropout import Dropout
from recexp.layer.mlp import linear
from recexp.layer.packed import Encoder, Layout, PackedAttention
from recexp.layer.position import LearntPosition
from recexp.model import Inputs, Needs, require_divisor
from recexp.model.backbone import Backbone
from recexp.option import above, at_least, fraction, size
from recexp.registry import register


class Block(nn.Module):
    """A LiGR layer."""

    def __init__(self, dim: int, n_heads: int, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.gates = nn.ModuleList(linear(dim, dim) for _ in range(2))  # W1, W2
        self.attention = PackedAttention(dim, n_heads, dropout)
        self.up, self.down = linear(dim, 2 * hidden_size), linear(hidden_size, dim)  # A and B, C
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, layout: Layout, last: bool) -> Tensor:
        """x (T, D) -> (T, D), or (n, D) for only the last event of each sequence."""
        y = self.norms[0](x)
        heads = self.attention(y, y, layout, last)
        x = x[layout.last] if last else x
        x = x + self.dropout(heads) * self.gates[0](x).sigmoid()
        a, b = self.up(self.norms[1](x)).chunk(2, 1)
        return x + self.dropout(self.down(F.silu(a) * b)) * self.gates[1](x).sigmoid()


@register("esasrec")
class ESASRec(Backbone):
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
        item_dropout: float = fraction()

    def __init__(self, config: Config, schema: Schema) -> None:
        dim = config.embedding_dim
        require_divisor(config.n_heads, dim)
        blocks = (Block(dim, config.n_heads, config.hidden_size, config.dropout) for _ in range(config.n_layers))
        position = LearntPosition(schema.max_history, dim, config.embedding_std)
        encoder = Encoder(position, dim, config.dropout, blocks)
        super().__init__(schema, dim, config.embedding_std, encoder, config.item_dropout)
