"""Factorization Machine. Rendle, ICDM 2010.

B batch, F fields, D embedding size
eq. 1   logit = w0 + sum_i w_i + sum_{i<j} <e_i, e_j>
eq. 5   sum_{i<j} <e_i, e_j> = 1/2 sum_d [(sum_i e_id)^2 - sum_i e_id^2]
"""

from dataclasses import dataclass

from torch import nn

from recexp.config import ModelConfig
from recexp.dataset.batch import Batch
from recexp.dataset.schema import Schema
from recexp.layer.embedding import FeatureEmbedding, Linear
from recexp.layer.interaction import bi_interaction_of
from recexp.model import Inputs, Needs, Output
from recexp.option import above, at_least, size
from recexp.registry import register


@register("fm")
class FM(nn.Module):
    needs = Needs(Inputs.fields, n_fields=2)

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        embedding_dim: int = size()
        embedding_std: float = above(0)
        linear_std: float = at_least(0)
        embedding_l2: float = at_least(0)

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        self.linear = Linear(schema, config.linear_std)
        self.embed = FeatureEmbedding(schema, config.embedding_dim, config.embedding_std)

    def forward(self, batch: Batch) -> Output:
        return Output(logits=self.linear(batch) + bi_interaction_of(self.embed, batch).sum(1))  # (B,), eq. 1, 5
