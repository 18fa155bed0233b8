"""DeepFM. Guo et al., IJCAI 2017.

B batch, F fields, D embedding size
eq. 1   logit = y_FM + y_DNN
eq. 2   y_FM = w0 + sum_i w_i + sum_{i<j} <e_i, e_j>
eq. 4   y_DNN = MLP([e_1, ..., e_F]), of the same embeddings
"""

from dataclasses import dataclass

from torch import Tensor, nn

from recexp.config import ModelConfig
from recexp.dataset.batch import Batch
from recexp.dataset.schema import Schema
from recexp.layer.activation import Activation
from recexp.layer.embedding import FeatureEmbedding, Linear
from recexp.layer.interaction import fm
from recexp.layer.loss import bce
from recexp.layer.mlp import MLP
from recexp.model import Output
from recexp.registry import register


@register("deepfm")
class DeepFM(nn.Module):
    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        embedding_dim: int
        embedding_std: float
        embedding_l2: float
        hidden_sizes: list[int]
        activation: Activation
        dropout: float

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        self.linear = Linear(schema)
        self.embed = FeatureEmbedding(schema, config.embedding_dim, config.embedding_std)
        n_in = self.embed.n_fields * config.embedding_dim
        self.deep = MLP(n_in, config.hidden_sizes, config.activation, config.dropout, n_out=1)

    def forward(self, batch: Batch) -> Output:
        e = self.embed.fields(batch)  # (B, F, D)
        wide = self.linear(batch) + fm(e)  # (B,), eq. 2
        deep = self.deep(e.flatten(1))[:, 0]  # (B,), eq. 4
        return Output(logits=wide + deep)

    def losses(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        return {"target": bce(output.logits, batch.label)}
