"""Logistic regression over all fields.

F fields, B batch
    logit = w0 + sum_i w_i
"""

from dataclasses import dataclass

from torch import nn

from recexp.config import ModelConfig
from recexp.dataset.batch import Batch
from recexp.dataset.schema import Schema
from recexp.layer.embedding import Linear
from recexp.model import Inputs, Needs, Output
from recexp.option import at_least
from recexp.registry import register


@register("linear")
class LogisticRegression(nn.Module):
    needs = Needs(Inputs.fields)

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        linear_std: float = at_least(0)
        embedding_l2: float = at_least(0)

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        self.linear = Linear(schema, config.linear_std)

    def forward(self, batch: Batch) -> Output:
        return Output(logits=self.linear(batch))  # (B,)
