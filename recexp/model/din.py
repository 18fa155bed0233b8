"""Deep Interest Network. Zhou et al., KDD 2018.

B batch, L history length, E item size, P profile size
eq. 3   v_U = sum_s a(h_s, t) h_s       interest in the target, weights not normalised
        logit = MLP([v_U, t, profile])
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recexp.config import ModelConfig
from recexp.dataset.batch import Batch
from recexp.dataset.schema import Schema
from recexp.layer.activation import Activation
from recexp.layer.attention import Attention, Normalise, attention, pool, weigh
from recexp.layer.embedding import SequenceEmbedding, require_items
from recexp.layer.loss import bce
from recexp.layer.mlp import MLP
from recexp.model import Output
from recexp.registry import register


@register("din")
class DIN(nn.Module):
    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        embedding_dim: int
        embedding_std: float
        embedding_l2: float
        history_labels: bool
        attention: Attention
        attention_hidden_sizes: list[int]
        attention_activation: Activation
        normalise: Normalise
        hidden_sizes: list[int]
        activation: Activation
        dropout: float

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        require_items(schema, config.name)
        self.normalise = config.normalise
        self.embed = SequenceEmbedding(schema, config.embedding_dim, config.history_labels, config.embedding_std)
        n_item = self.embed.n_item
        self.attention = attention(config.attention, n_item, config.attention_hidden_sizes, config.attention_activation)
        n_in = 2 * n_item + self.embed.n_profile
        self.mlp = MLP(n_in, config.hidden_sizes, config.activation, config.dropout, n_out=1)

    def forward(self, batch: Batch) -> Output:
        profile, target, history = self.embed(batch)  # (B, P), (B, E), (B, L, E)
        scores = self.attention(target, history, batch.mask)  # (B, L)
        weights = weigh(scores, batch.mask, self.normalise, scale=target.shape[1] ** -0.5)
        interest = pool(weights, history)  # (B, E), eq. 3
        return Output(logits=self.mlp(torch.cat([interest, target, profile], 1))[:, 0])  # (B,)

    def losses(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        return {"target": bce(output.logits, batch.label)}
