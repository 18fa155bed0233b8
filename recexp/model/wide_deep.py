"""Wide & Deep. Cheng et al., DLRS 2016.

B batch, F fields of the deep part, D embedding size
eq. 1       wide = w0 + sum_i w_i x_i     x with cross-products of fields: 1 if two fields hold two given values
sec. 3.2    deep = MLP([e_1, ..., e_F])
eq. 3       logit = wide + deep           trained jointly; in the paper wide by FTRL, deep by AdaGrad
"""

from dataclasses import dataclass
from enum import Enum

from torch import nn

from recexp.config import ModelConfig, Optimizer
from recexp.dataset.batch import Batch
from recexp.dataset.schema import WIDE, Schema
from recexp.error import ConfigError
from recexp.layer.activation import Activation
from recexp.layer.embedding import EmbeddingInit, Linear
from recexp.layer.mlp import WeightInit
from recexp.layer.poly2 import Poly2
from recexp.model import Inputs, Needs, Output, part_config
from recexp.model.feature_mlp import FeatureMLP
from recexp.option import above, at_least, between, fraction, layer_sizes, option, read_if, size
from recexp.registry import register

FIELDS = "a list of fields, or null for all"


class Wide(Enum):
    linear = "a weight for each value of a field"
    poly2 = "linear, and a hashed weight for each pair of values of two fields"


@register("wide_deep")
class WideDeep(nn.Module):
    """Its parts for optimizers are `wide` and `deep`; the embeddings belong to `deep`."""

    needs = Needs(Inputs.fields)

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        embedding_dim: int = size()
        embedding_std: float = above(0)
        embedding_init: EmbeddingInit
        embedding_l2: float = at_least(0)
        wide: Wide
        wide_fields: list[str] | None = option(lambda names: names, FIELDS)
        n_buckets: int = read_if("model.wide", "poly2", allowed=between(1, 2**28, "each is a weight"))
        deep_fields: list[str] | None = option(lambda names: names, FIELDS)
        hidden_sizes: list[int] = layer_sizes()
        activation: Activation
        batch_norm: bool
        dropout: float = fraction()
        weight_init: WeightInit
        optimizers: dict[str, Optimizer]

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        wide = schema.select(config.wide_fields, "model.wide_fields")
        deep = schema.select(config.deep_fields, "model.deep_fields")
        if config.wide is Wide.poly2:
            _check_width(wide)
        self.wide = Linear(wide) if config.wide is Wide.linear else Poly2(wide, config.n_buckets)
        self.deep = FeatureMLP(part_config(FeatureMLP.Config, config), deep)
        for parameter in self.wide.parameters():
            nn.init.zeros_(parameter)  # FTRL's L1 term keeps weights at 0 but pulls none there

    def forward(self, batch: Batch) -> Output:
        return Output(logits=self.wide(batch) + self.deep(batch).logits)  # (B,), eq. 3


def _check_width(schema: Schema) -> None:
    """Raises ConfigError for a field whose cells hold too many values to pair each with all others."""
    for field in (*schema.user.fields, *schema.item.fields, *schema.context.fields):
        if field.width >= WIDE:
            raise ConfigError(
                f"model.wide = poly2: takes fields of fewer than {WIDE} values a cell, and {field.name} has "
                f"up to {field.width:,}; leave it out of model.wide_fields."
            )
