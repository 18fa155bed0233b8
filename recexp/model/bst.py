"""Behavior Sequence Transformer. Chen et al., DLP-KDD 2019.

B batch, L history length, n events of one history, E item size, W width of the encoder, P profile size
sec. 2.1    x_s = [h_s, p_k],  k = bucket(time(t) - time(s))      position=age; x_t = [t, p_0]
            x_s = h_s + p_d,  d = n + 1 - s                       position=learnt, sinusoid; x_t = t + p_0
sec. 2.2    y_1, ..., y_n, y_t = encoder(x_1, ..., x_n, x_t)      each sees all; without events, the target sees itself
sec. 2.3    logit = MLP([y_t, profile])                           output=target
            logit = MLP([mean(y_1, ..., y_n, y_t), profile])      output=mean
            logit = MLP([mean(y_1, ..., y_n, y_t), t, profile])   output=mean_and_target
            logit = MLP([y_t, y_n, ..., y_1, 0, ..., profile])    output=all
"""

from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor, nn
from torch.nn import functional

from recexp.config import ModelConfig
from recexp.dataset.batch import Batch
from recexp.dataset.schema import Schema
from recexp.layer.activation import Activation
from recexp.layer.embedding import SequenceEmbedding
from recexp.layer.lookup import Events, concatenated, lookup
from recexp.layer.mlp import MLP
from recexp.layer.position import AGE_BUCKETS, AgePosition, LearntPosition, Sinusoid, distance, position
from recexp.layer.transformer import Encoder, Norm
from recexp.model import Inputs, Needs, Output, require_divisor
from recexp.option import Labels, above, at_least, between, fraction, layer_sizes, needs_labels, size
from recexp.registry import register


class Position(Enum):
    age = "a learnt vector of the bucketised time since the event, beside it (paper)"
    learnt = "a learnt vector of the distance from the target, added"
    sinusoid = "a fixed vector of the distance from the target, added"
    none = "no position: the history is a set"


class Reading(Enum):
    target = "the encoder's output at the target"
    mean = "the mean of its outputs, the target's included"
    mean_and_target = "that mean, and beside it the target as it enters the encoder"
    all = "all its outputs side by side, from the target backwards"


@register("bst")
class BST(nn.Module):
    needs = Needs(Inputs.sequence)

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        embedding_dim: int = size()
        embedding_std: float = above(0)
        embedding_l2: float = at_least(0)
        history_labels: bool = needs_labels(Labels.varied, when=True)
        position: Position
        n_heads: int = size()
        n_layers: int = between(1, 256, "each takes its own memory and time")
        feedforward_size: int = size()
        norm: Norm
        output: Reading
        hidden_sizes: list[int] = layer_sizes()
        activation: Activation
        dropout: float = fraction()

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        self.output = config.output
        self.embed = SequenceEmbedding(schema, config.embedding_dim, config.history_labels, config.embedding_std)
        self.n_positions = schema.max_history + 1
        item_dim, std = self.embed.item_dim, config.embedding_std
        width = item_dim + (config.embedding_dim if config.position is Position.age else 0)
        require_divisor(config.n_heads, width)
        self.position: AgePosition | LearntPosition | Sinusoid | None
        if config.position is Position.age:
            self.position = AgePosition(AGE_BUCKETS, config.embedding_dim, std)
        else:
            self.position = position(config.position.name, self.n_positions, item_dim, std)
        sizes = config.n_layers, width, config.n_heads, config.feedforward_size
        self.encoder = Encoder(*sizes, config.activation, config.dropout, config.norm)
        n_read = {Reading.all: width * self.n_positions, Reading.mean_and_target: width + item_dim}
        n_in = n_read.get(config.output, width) + self.embed.profile_dim
        self.mlp = MLP(n_in, config.hidden_sizes, config.activation, config.dropout, n_out=1)

    def forward(self, batch: Batch) -> Output:
        # Profile (B, P); the target comes after the padding.
        profile, events = self.embed.profile(batch), self.embed.events_and_target(batch)
        mask = functional.pad(batch.mask, (0, 1), value=True)  # (B, L + 1)
        read = [self.read(self.inputs(events, mask, batch), mask)]  # (B, W), or (B, n_positions W)
        if self.output is Reading.mean_and_target:
            read.append(lookup(events.vectors, events.index[:, -1]))  # (B, E)
        return Output(logits=self.mlp(torch.cat([*read, profile], 1))[:, 0])  # (B,)

    def inputs(self, events: Events, mask: Tensor, batch: Batch) -> list[Events]:
        """The events and their positions, whose sum is x (B, L + 1, W)."""
        if self.position is None:
            return [events]
        if not isinstance(self.position, AgePosition):
            return [events, Events(self.position.vectors, distance(mask))]
        age = functional.pad(batch.history_age, (0, 1))  # (B, L + 1), the target's is 0
        return concatenated(events, Events(self.position.vectors, self.position.bucket(age)))

    def read(self, inputs: list[Events], mask: Tensor) -> Tensor:
        """What the MLP reads of the encoder's output: (B, W), or (B, n_positions W)."""
        if self.output is Reading.target:
            return self.encoder.last(inputs, mask)
        encoded = self.encoder(inputs, mask, mask)  # (B, L + 1, W), 0 on padding
        if self.output in (Reading.mean, Reading.mean_and_target):
            return encoded.sum(1) / mask.sum(1, keepdim=True)
        return side_by_side(encoded, mask, self.n_positions)


def side_by_side(encoded: Tensor, mask: Tensor, n_positions: int) -> Tensor:
    """Outputs (B, L + 1, W) by their distance from the target, 0 where there is no event: (B, n_positions W).

    So the same distance meets the same weights in histories of any length.
    """
    index = distance(mask)[:, :, None].expand_as(encoded)
    aligned = encoded.new_zeros(encoded.shape[0], n_positions, encoded.shape[2])
    return aligned.scatter_add(1, index, encoded).flatten(1)  # padding adds 0 at the index of the last event
