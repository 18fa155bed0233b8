"""DeepFM. Guo et al., IJCAI 2017.

B batch, F fields, D embedding size
eq. 1   logit = y_FM + y_DNN
eq. 2   y_FM = w0 + sum_i w_i + sum_{i<j} <e_i, e_j>
eq. 4   y_DNN = MLP([e_1, ..., e_F]), of the same embeddings
        logit = Linear([w0 + sum_i w_i; sum_{i<j} e_i * e_j; last hidden layer of the MLP])     combine=concat
"""

from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor, nn

from recexp.config import ModelConfig
from recexp.dataset.batch import Batch
from recexp.dataset.schema import Schema
from recexp.layer.activation import Activation
from recexp.layer.embedding import EmbeddingInit, FeatureEmbedding, Linear
from recexp.layer.interaction import bi_interaction, bi_interaction_and_linear
from recexp.layer.mlp import MLP, WeightInit, linear
from recexp.model import Inputs, Needs, Output
from recexp.option import above, at_least, fraction, layer_sizes, size
from recexp.registry import register


class Combine(Enum):
    sum = "logit = linear + FM + MLP (paper)"
    concat = "logit = Linear([linear; products of pairs; last hidden layer])"


@register("deepfm")
class DeepFM(nn.Module):
    needs = Needs(Inputs.fields, n_fields=2)

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        embedding_dim: int = size()
        embedding_std: float = above(0)
        embedding_init: EmbeddingInit
        linear_std: float = at_least(0)
        embedding_l2: float = at_least(0)
        combine: Combine
        hidden_sizes: list[int] = layer_sizes()
        activation: Activation
        batch_norm: bool
        dropout: float = fraction()
        weight_init: WeightInit

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        self.linear = Linear(schema, config.linear_std)
        self.embed = FeatureEmbedding(schema, config.embedding_dim, config.embedding_std, config.embedding_init)
        n_in = self.embed.n_fields * config.embedding_dim
        n_out = 1 if config.combine is Combine.sum else None
        self.deep = MLP.of(config, n_in, n_out)
        n_parts = 1 + config.embedding_dim + self.deep.n_out
        self.output = linear(n_parts, 1, init=config.weight_init) if config.combine is Combine.concat else None

    def forward(self, batch: Batch) -> Output:
        wide = self.linear(batch)  # (B,)
        products, deep = self.products(batch)
        if self.output is None:
            return Output(logits=wide + products.sum(1) + deep[:, 0])  # (B,), eq. 1
        return Output(logits=self.output(torch.cat([wide[:, None], products, deep], 1))[:, 0])  # (B,)

    def products(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Products of pairs, summed (B, D), and eq. 4 (B, 1) or the last hidden layer (B, H)."""
        if not len(self.deep.linears):  # concat without hidden layers: the fields themselves
            e = self.embed.fields(batch)
            return bi_interaction(e), e.flatten(1)
        pairs, x = bi_interaction_and_linear(self.embed, self.deep.first, batch)
        return pairs, self.deep.after_first(x)
