"""Encoders of a sample as one vector, which all labels of a multi-task model share.

B batch, E item size, P profile size, F fields of size D
fields     x = [e_1, ..., e_F]
interest   x = [v, t, profile],  v = sum_s a(h_s, t) h_s     as in DIN, weights not normalised
"""

from collections.abc import Sequence
from enum import Enum
from typing import Protocol

import torch
from torch import Tensor, nn

from recexp.dataset.batch import Batch
from recexp.dataset.schema import Schema
from recexp.layer.activation import Activation
from recexp.layer.attention import Attention, Normalise, attention, weigh
from recexp.layer.embedding import FeatureEmbedding, SequenceEmbedding
from recexp.layer.lookup import weighted_sum


class Encoding(Enum):
    fields = "the fields of user, target and context side by side"
    interest = "the interest in the target among past events, as in DIN, the target and the profile"


class Options(Protocol):
    """The options of a model's encoder, as its Config holds them."""

    @property
    def encoder(self) -> Encoding: ...

    @property
    def embedding_dim(self) -> int: ...

    @property
    def embedding_std(self) -> float: ...

    @property
    def attention_hidden_sizes(self) -> Sequence[int]: ...


class Fields(nn.Module):
    def __init__(self, schema: Schema, embedding_dim: int, std: float) -> None:
        super().__init__()
        self.embed = FeatureEmbedding(schema, embedding_dim, std)
        self.n_out = self.embed.n_fields * embedding_dim

    def forward(self, batch: Batch) -> Tensor:
        return self.embed.fields(batch).flatten(1)  # (B, F D)


class Interest(nn.Module):
    def __init__(self, schema: Schema, embedding_dim: int, std: float, hidden_sizes: Sequence[int]) -> None:
        super().__init__()
        self.embed = SequenceEmbedding(schema, embedding_dim, schema.history_labels, std)
        item_dim = self.embed.item_dim
        self.attention = attention(Attention.interaction, item_dim, hidden_sizes, Activation.dice)
        self.n_out = 2 * item_dim + self.embed.profile_dim

    def forward(self, batch: Batch) -> Tensor:
        profile, (target, events) = self.embed.profile(batch), self.embed.events(batch)
        weights = weigh(self.attention(target, events, batch.mask), batch.mask, Normalise.none)  # (B, L)
        return torch.cat([weighted_sum(weights, events), target, profile], 1)  # (B, 2 E + P)


def encoder(options: Options, schema: Schema) -> Fields | Interest:
    """The encoder that a model's options describe. Interest needs data with past events."""
    if options.encoder is Encoding.fields:
        return Fields(schema, options.embedding_dim, options.embedding_std)
    return Interest(schema, options.embedding_dim, options.embedding_std, options.attention_hidden_sizes)
