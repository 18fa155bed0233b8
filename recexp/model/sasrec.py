"""Self-Attentive Sequential Recommendation. Kang & McAuley, ICDM 2018.

B batch, T events of all its sequences, D model size; E the item vectors, P those of positions
    x_s = E_s + P_s                       positions counted from the last event of the sequence
    x <- x + Attention(LN x),  x <- x + FFN(LN x)                              form=pre
    y = LN x,  x <- y + Attention(q = y, k = v = x),  z = LN x,  x <- z + FFN(z)     form=original
    score of item i after event s = <LN x_s, E_i>
Attention is causal; what it gives has dropout in form=pre alone, what the FFN gives in both. A user without history has
the query 0.
"""

from dataclasses import dataclass
from enum import Enum

from torch import Tensor, nn

from recexp.config import ModelConfig
from recexp.dataset.schema import Schema
from recexp.layer.activation import Activation
from recexp.layer.dropout import Dropout
from recexp.layer.mlp import MLP
from recexp.layer.packed import Encoder, Layout, PackedAttention
from recexp.layer.position import LearntPosition
from recexp.model import Inputs, Needs, require_divisor
from recexp.model.backbone import Backbone
from recexp.option import above, at_least, fraction, size
from recexp.registry import register


class Form(Enum):
    pre = "pre-norm: LayerNorm on the way into each sublayer, residuals past it"
    original = "the paper's code: residuals from the normalised input, keys and values of the input itself"


class Block(nn.Module):
    """Causal attention and FFN."""

    def __init__(self, dim: int, n_heads: int, hidden_size: int, activation: Activation, dropout: float, form: Form):
        super().__init__()
        self.form = form
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.attention = PackedAttention(dim, n_heads, dropout)
        self.transform = MLP(dim, [hidden_size], activation, dropout, n_out=dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, layout: Layout, last: bool) -> Tensor:
        """x (T, D) -> (T, D), or (n, D) for only the last event of each sequence."""
        y = self.norms[0](x)
        pre = self.form is Form.pre
        heads = self.attention(y, y if pre else x, layout, last)
        past = x if pre else y
        x = (past[layout.last] if last else past) + (self.dropout(heads) if pre else heads)
        y = self.norms[1](x)
        return (x if pre else y) + self.dropout(self.transform(y))


@register("sasrec")
class SASRec(Backbone):
    needs = Needs(Inputs.sequence, context=False, features=False)

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        embedding_dim: int = size()
        embedding_std: float = above(0)
        embedding_l2: float = at_least(0)
        n_layers: int = at_least(1)
        n_heads: int = at_least(1)
        hidden_size: int = size()
        activation: Activation
        dropout: float = fraction()
        item_dropout: float = fraction()
        form: Form

    def __init__(self, config: Config, schema: Schema) -> None:
        dim = config.embedding_dim
        require_divisor(config.n_heads, dim)
        blocks = (
            Block(dim, config.n_heads, config.hidden_size, config.activation, config.dropout, config.form)
            for _ in range(config.n_layers)
        )
        position = LearntPosition(schema.max_history, dim, config.embedding_std)
        encoder = Encoder(position, dim, config.dropout, blocks)
        super().__init__(schema, dim, config.embedding_std, encoder, config.item_dropout)
