"""Bilinear-interaction MLP: the pairs of a factorization machine as input of an MLP; NFM without its linear part.

B batch, F fields, D embedding size. Neural Factorization Machines: He & Chua, SIGIR 2017
eq. 3, 4   BI = sum_{i<j} e_i * e_j = 1/2 [(sum_i e_i)^2 - sum_i e_i^2]        in R^D
           logit = MLP(BI)
"""

from dataclasses import dataclass

from torch import nn

from recexp.config import ModelConfig
from recexp.dataset.batch import Batch
from recexp.dataset.schema import Schema
from recexp.layer.activation import Activation
from recexp.layer.embedding import FeatureEmbedding
from recexp.layer.interaction import bi_interaction_of
from recexp.layer.mlp import MLP
from recexp.model import Inputs, Needs, Output
from recexp.option import above, at_least, fraction, layer_sizes, size
from recexp.registry import register


@register("fnn_plus")
class FNNPlus(nn.Module):
    needs = Needs(Inputs.fields, n_fields=2)

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        embedding_dim: int = size()
        embedding_std: float = above(0)
        embedding_l2: float = at_least(0)
        hidden_sizes: list[int] = layer_sizes()
        activation: Activation
        dropout: float = fraction()

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        self.embed = FeatureEmbedding(schema, config.embedding_dim, config.embedding_std)
        self.mlp = MLP(config.embedding_dim, config.hidden_sizes, config.activation, config.dropout, n_out=1)

    def forward(self, batch: Batch) -> Output:
        return Output(logits=self.mlp(bi_interaction_of(self.embed, batch))[:, 0])  # (B,), eq. 3, 4
