"""Wide & Deep. Cheng et al., DLRS 2016.

B batch, F fields of the deep part, D embedding size
eq. 1       wide = w0 + sum_i w_i x_i, x with cross-product transformations: 1 where two fields hold two given values
sec. 3.2    deep = MLP([e_1, ..., e_F])
eq. 3       logit = wide + deep           trained together, in the paper the wide part by FTRL, the deep by AdaGrad
"""

from dataclasses import dataclass
from enum import Enum

from torch import Tensor, nn

from recexp.config import ModelConfig, Optimizer, above, at_least, fraction, layer_sizes, require
from recexp.dataset.batch import Batch
from recexp.dataset.schema import Schema
from recexp.layer.activation import Activation
from recexp.layer.embedding import FeatureEmbedding, Linear
from recexp.layer.loss import bce
from recexp.layer.mlp import MLP
from recexp.layer.poly2 import Poly2
from recexp.model import Output
from recexp.registry import register


class Wide(Enum):
    linear = "a weight for each value of a field"
    poly2 = "linear, and a hashed weight for each pair of values of two fields"


@register("wide_deep")
class WideDeep(nn.Module):
    """Its parts for optimizers are `wide` and `deep`; the embeddings are of the deep part."""

    reads_history = False

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        embedding_dim: int = at_least(1)
        embedding_std: float = above(0)
        embedding_l2: float = at_least(0)
        wide: Wide
        wide_fields: list[str] | None
        n_buckets: int
        deep_fields: list[str] | None
        hidden_sizes: list[int] = layer_sizes()
        activation: Activation
        dropout: float = fraction()
        optimizers: dict[str, Optimizer]

        def __post_init__(self) -> None:
            super().__post_init__()
            require(self.n_buckets >= 1, "model.n_buckets", self.n_buckets, "1 or more")
            for option in ("wide_fields", "deep_fields"):
                require(getattr(self, option) != [], f"model.{option}", [], "a list of fields, or null for all")

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        wide = schema.select(config.wide_fields, "model.wide_fields")
        deep = schema.select(config.deep_fields, "model.deep_fields")
        self.wide = Linear(wide) if config.wide is Wide.linear else Poly2(wide, config.n_buckets)
        self.deep = Deep(config, deep)
        for parameter in self.wide.parameters():
            nn.init.zeros_(parameter)  # where FTRL starts: its L1 term holds weights at 0, it pulls none there

    def forward(self, batch: Batch) -> Output:
        return Output(logits=self.wide(batch) + self.deep(batch))  # (B,), eq. 3

    def losses(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        return {"target": bce(output.logits, batch.label)}


class Deep(nn.Module):
    """MLP([e_1, ..., e_F])."""

    def __init__(self, config: WideDeep.Config, schema: Schema) -> None:
        super().__init__()
        self.embed = FeatureEmbedding(schema, config.embedding_dim, config.embedding_std)
        n_in = self.embed.n_fields * config.embedding_dim
        self.mlp = MLP(n_in, config.hidden_sizes, config.activation, config.dropout, n_out=1)

    def forward(self, batch: Batch) -> Tensor:
        """(B,)."""
        e = self.embed.fields(batch)  # (B, F, D)
        return self.mlp(e.flatten(1))[:, 0]
