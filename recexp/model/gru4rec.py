"""GRU4Rec: a GRU over a user's items. Hidasi et al., ICLR 2016; Hidasi & Karatzoglou, CIKM 2018.

B batch, T events of all its sequences, D model size; E the item vectors
    h_s = GRU(E_s, h_{s-1}),  h_0 = 0                 further layers run over the states of the one below
    score of item i after event s = <h_s, E_i>         tied output: the vectors that are read are also multiplied
The papers' losses are trainer.loss=cross_entropy and bpr_max. A user without history has the query 0.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from recexp.config import ModelConfig
from recexp.dataset.schema import Schema
from recexp.layer.dropout import Dropout
from recexp.layer.lookup import Events
from recexp.layer.packed import Layout
from recexp.layer.recurrent import Cell, Recurrent
from recexp.model import Inputs, Needs
from recexp.model.backbone import Backbone
from recexp.option import above, at_least, fraction, size
from recexp.registry import register


class Layer(nn.Module):
    """A GRU over packed sequences, with dropout of its input."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.recurrent = Recurrent(Cell.gru, dim, dim)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """(T, D) -> (T, D)."""
        index, mask = layout.grid()
        return layout.events(self.recurrent.over(Events(self.dropout(x), index), mask), mask)


class Encoder(nn.Module):
    """Layers of GRUs, and dropout of the last states."""

    def __init__(self, dim: int, n_layers: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(dim, dropout) for _ in range(n_layers))
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, layout: Layout, last: bool) -> Tensor:
        """x (T, D) -> (T, D), or (n, D) for only the last event of each sequence."""
        for layer in self.layers:
            x = layer(x, layout)
        return self.dropout(x[layout.last] if last else x)


@register("gru4rec")
class GRU4Rec(Backbone):
    needs = Needs(Inputs.sequence, context=False, features=False)

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        embedding_dim: int = size()
        embedding_std: float = above(0)
        embedding_l2: float = at_least(0)
        n_layers: int = at_least(1)
        dropout: float = fraction()
        item_dropout: float = fraction()

    def __init__(self, config: Config, schema: Schema) -> None:
        encoder = Encoder(config.embedding_dim, config.n_layers, config.dropout)
        super().__init__(schema, config.embedding_dim, config.embedding_std, encoder, config.item_dropout)
