"""Attentional Factorization Machine. Xiao et al., IJCAI 2017.

B batch, F fields, P pairs of fields, D embedding size, A attention size
eq. 2   p_ij = e_i * e_j,  i < j
eq. 5   a_ij = softmax_ij(h^T relu(W p_ij + b))                  over the pairs of a sample
eq. 6   logit = w0 + sum_i w_i + q^T sum_{i<j} a_ij p_ij
        attention_l2 = 1/2 |W|^2, an auxiliary loss
"""

from dataclasses import dataclass
from enum import Enum
from itertools import combinations

from torch import Tensor, nn

from recexp.config import ModelConfig
from recexp.dataset.batch import Batch
from recexp.dataset.schema import Schema
from recexp.kernel.pair_attention import attend_pairs
from recexp.layer.embedding import FeatureEmbedding, Linear
from recexp.layer.loss import bce
from recexp.layer.mlp import WeightInit, linear
from recexp.model import Inputs, Needs, Output
from recexp.option import above, at_least, fraction, size
from recexp.registry import register


class Start(Enum):
    fm = "q starts at the number of pairs: the mean over pairs is then the sum of an FM"
    drawn = "q is drawn by weight_init, and the pairs take long to count"


@register("afm")
class AFM(nn.Module):
    needs = Needs(Inputs.fields, n_fields=2)

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        embedding_dim: int = size()
        embedding_std: float = above(0)
        linear_std: float = at_least(0)
        embedding_l2: float = at_least(0)
        attention_size: int = size()
        attention_dropout: float = fraction()
        dropout: float = fraction()
        start: Start
        weight_init: WeightInit

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        self.attention_l2 = bool(config.loss_weights.get("attention_l2"))
        self.linear = Linear(schema, config.linear_std)
        self.embed = FeatureEmbedding(schema, config.embedding_dim, config.embedding_std)
        self.pairs = list(combinations(field_names(self.embed), 2))  # in the order of the products
        init = config.weight_init
        self.hidden = linear(config.embedding_dim, config.attention_size, init=init)  # W, b
        self.attention_score = linear(config.attention_size, 1, bias=False, init=init)  # h
        self.attention_dropout = config.attention_dropout
        self.dropout = nn.Dropout(config.dropout)
        self.predict = linear(config.embedding_dim, 1, bias=False, init=init)  # q
        if config.start is Start.fm:
            nn.init.constant_(self.predict.weight, len(self.pairs))

    def forward(self, batch: Batch) -> Output:
        """Logits (B,), and in parts["attention"] the weights (B, P) of the pairs in `self.pairs`."""
        e, p = self.embed.fields(batch), self.attention_dropout if self.training else 0.0
        score = self.attention_score.weight[0]
        pooled, weights = attend_pairs(e, self.hidden.weight, self.hidden.bias, score, p)  # (B, D), eq. 2, 5 and 6
        logits = self.linear(batch) + self.predict(self.dropout(pooled))[:, 0]  # (B,)
        return Output(logits, {"attention": weights})

    def losses(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        losses = {"target": bce(output.logits, batch.label)}
        if self.attention_l2:
            losses["attention_l2"] = self.hidden.weight.square().sum() / 2
        return losses


def field_names(embed: FeatureEmbedding) -> list[str]:
    """The names of all fields in their order: `side.name`, and `user` and `item` for the ids."""
    return [
        side if field.name == side else f"{side}.{field.name}"
        for side, embedding in embed.sides.items()
        for field in embedding.side.fields
    ]
