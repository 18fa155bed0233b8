"""Field-aware Factorization Machine. Juan et al., RecSys 2016.

B batch, F fields; e_i^(j) the vector of field i for its pair with field j
    logit = w0 + sum_i w_i + sum_{i<j} <e_i^(j), e_j^(i)>        the paper leaves w out of its equations
"""

from dataclasses import dataclass

from torch import nn

from recexp.config import ModelConfig
from recexp.dataset.batch import Batch
from recexp.dataset.schema import Schema
from recexp.layer.embedding import Linear
from recexp.layer.field_aware import FieldAwarePairs
from recexp.model import Inputs, Needs, Output
from recexp.option import above, at_least, size
from recexp.registry import register


@register("ffm")
class FFM(nn.Module):
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
        self.pairs = FieldAwarePairs(schema, config.embedding_dim, config.embedding_std)

    def forward(self, batch: Batch) -> Output:
        return Output(logits=self.linear(batch) + self.pairs(batch).sum(1))  # (B,)
