"""Sequence pooling: the history as one vector, the same for every target.

B batch, L history length, E item size, P profile size
    logit = MLP([pool_s h_s, t, profile]),  pool the sum or the mean
"""

from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor, nn

from recexp.config import ModelConfig
from recexp.dataset.batch import Batch
from recexp.dataset.schema import Schema
from recexp.layer.activation import Activation
from recexp.layer.embedding import SequenceEmbedding
from recexp.layer.mlp import MLP
from recexp.model import Inputs, Needs, Output
from recexp.option import Labels, above, at_least, fraction, layer_sizes, needs_labels, size
from recexp.registry import register


class Pooling(Enum):
    sum = "the sum over events: a long history is a large vector"
    mean = "the mean over events; 0 if there are none"


def pool(history: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """history (B, L, E), mask (B, L) -> (B, E)."""
    pooled = torch.where(mask[:, :, None], history, 0).sum(1)
    return pooled if pooling is Pooling.sum else pooled / mask.sum(1, keepdim=True).clamp(min=1)


@register("seq_pooling")
class SequencePooling(nn.Module):
    needs = Needs(Inputs.history)

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        embedding_dim: int = size()
        embedding_std: float = above(0)
        embedding_l2: float = at_least(0)
        history_labels: bool = needs_labels(Labels.varied, when=True)
        pooling: Pooling
        hidden_sizes: list[int] = layer_sizes()
        activation: Activation
        dropout: float = fraction()

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        self.pooling = config.pooling
        self.embed = SequenceEmbedding(schema, config.embedding_dim, config.history_labels, config.embedding_std)
        n_in = 2 * self.embed.item_dim + self.embed.profile_dim
        self.mlp = MLP(n_in, config.hidden_sizes, config.activation, config.dropout, n_out=1)

    def forward(self, batch: Batch) -> Output:
        profile, target, history = self.embed(batch)  # (B, P), (B, E), (B, L, E)
        interest = pool(history, batch.mask, self.pooling)  # (B, E)
        return Output(logits=self.mlp(torch.cat([interest, target, profile], 1))[:, 0])  # (B,)
