"""Neural Factorization Machine. He & Chua, SIGIR 2017.

B batch, F fields, D embedding size
eq. 3, 4   BI = sum_{i<j} e_i * e_j = 1/2 [(sum_i e_i)^2 - sum_i e_i^2]        in R^D
eq. 2      logit = w0 + sum_i w_i + MLP(BI)
"""

from dataclasses import dataclass

from torch import nn

from recexp.config import ModelConfig
from recexp.dataset.batch import Batch
from recexp.dataset.schema import Schema
from recexp.layer.activation import Activation, BatchNorm
from recexp.layer.embedding import EmbeddingInit, FeatureEmbedding, Linear
from recexp.layer.interaction import bi_interaction_of
from recexp.layer.mlp import MLP, WeightInit
from recexp.model import Inputs, Needs, Output
from recexp.option import above, at_least, fraction, layer_sizes, size
from recexp.registry import register


@register("nfm")
class NFM(nn.Module):
    needs = Needs(Inputs.fields, n_fields=2)

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        embedding_dim: int = size()
        embedding_std: float = above(0)
        embedding_init: EmbeddingInit
        linear_std: float = at_least(0)
        embedding_l2: float = at_least(0)
        interaction_dropout: float = fraction()
        hidden_sizes: list[int] = layer_sizes()
        activation: Activation
        batch_norm: bool
        dropout: float = fraction()
        weight_init: WeightInit

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        self.linear = Linear(schema, config.linear_std)
        self.embed = FeatureEmbedding(schema, config.embedding_dim, config.embedding_std, config.embedding_init)
        self.norm = BatchNorm(config.embedding_dim) if config.batch_norm else nn.Identity()
        self.dropout = nn.Dropout(config.interaction_dropout)
        self.mlp = MLP.of(config, config.embedding_dim)

    def forward(self, batch: Batch) -> Output:
        interaction = self.dropout(self.norm(bi_interaction_of(self.embed, batch)))  # (B, D), eq. 3, 4
        return Output(logits=self.linear(batch) + self.mlp(interaction)[:, 0])  # (B,), eq. 2
