"""Operation-aware Neural Network. Yang et al., Neural Networks 121, 2020.

B batch, F fields, P pairs of fields; a field has a vector e_i for its copy and e_i^(j) for its product with field j
    logit = MLP([e_1, ..., e_F, <e_i^(j), e_j^(i)> of all pairs i < j])
"""

from dataclasses import dataclass

import torch
from torch import nn

from recexp.config import ModelConfig
from recexp.dataset.batch import Batch
from recexp.dataset.schema import Schema
from recexp.layer.activation import Activation
from recexp.layer.embedding import FeatureEmbedding
from recexp.layer.field_aware import FieldAwarePairs
from recexp.layer.mlp import MLP, WeightInit
from recexp.model import Inputs, Needs, Output
from recexp.option import above, at_least, fraction, layer_sizes, size
from recexp.registry import register


@register("onn")
class ONN(nn.Module):
    needs = Needs(Inputs.fields, n_fields=2)

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        embedding_dim: int = size()
        embedding_std: float = above(0)
        embedding_l2: float = at_least(0)
        hidden_sizes: list[int] = layer_sizes()
        activation: Activation
        batch_norm: bool
        dropout: float = fraction()
        weight_init: WeightInit

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        dim, std = config.embedding_dim, config.embedding_std
        self.copy = FeatureEmbedding(schema, dim, std)
        self.pairs = FieldAwarePairs(schema, dim, std)
        self.mlp = MLP.of(config, self.copy.n_fields * dim + self.pairs.n_pairs)

    def forward(self, batch: Batch) -> Output:
        e, products = self.copy.fields(batch), self.pairs(batch)  # (B, F, D), (B, P)
        return Output(logits=self.mlp(torch.cat([e.flatten(1), products], 1))[:, 0])  # (B,)
