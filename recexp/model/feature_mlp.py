"""Multi-layer perceptron over all fields.

B batch, F fields of user, target and context, D embedding size
    logit = MLP([e_1, ..., e_F])
"""

from dataclasses import dataclass

from torch import nn

from recexp.config import ModelConfig
from recexp.dataset.batch import Batch
from recexp.dataset.schema import Schema
from recexp.layer.activation import Activation
from recexp.layer.embedding import EmbeddingInit, FeatureEmbedding
from recexp.layer.mlp import MLP, WeightInit
from recexp.model import Inputs, Needs, Output
from recexp.option import above, at_least, fraction, layer_sizes, size
from recexp.registry import register


@register("feature_mlp")
class FeatureMLP(nn.Module):
    needs = Needs(Inputs.fields, n_fields=2)

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        embedding_dim: int = size()
        embedding_std: float = above(0)
        embedding_init: EmbeddingInit
        embedding_l2: float = at_least(0)
        hidden_sizes: list[int] = layer_sizes()
        activation: Activation
        batch_norm: bool
        dropout: float = fraction()
        weight_init: WeightInit

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        self.embed = FeatureEmbedding(schema, config.embedding_dim, config.embedding_std, config.embedding_init)
        self.mlp = MLP.of(config, self.embed.n_fields * config.embedding_dim)

    def forward(self, batch: Batch) -> Output:
        e = self.embed.fields(batch)  # (B, F, D)
        return Output(logits=self.mlp(e.flatten(1))[:, 0])  # (B,)
