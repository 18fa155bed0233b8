"""Transformer trained on two tasks: the target's label, and the history itself, event by event.

B batch, L history length, n events of one history, E item size, P profile size, BOS a learnt vector
    y = encoder(h_1 + p_n, ..., h_n + p_1, t + p_0)                      each sees all; p counts from the target
    logit = MLP([y_t, profile])
    m = encoder(h_1 + q_1, ..., h_n + q_n)                               causal: m_s sees h_1, ..., h_s
    d_s = decoder(BOS + q_0, h_1 + q_1, ..., h_s + q_s; m_1, ..., m_s)   memory=causal, c = 0
    d_s = decoder(BOS + q_c, h_{c+1} + q_{c+1}, ..., h_s + q_s; m)       memory=split: m sees h_1, ..., h_c alone
    auxiliary loss: d_s predicts the item of event s + 1, s = c, ..., n - 1                      auxiliary=next, sampled
    auxiliary loss: m_s with h_s = item_s + label_{s-1} predicts the label of event s            auxiliary=labels
Both tasks share the encoder. What predicts an event sees only earlier ones: the decoder's input is shifted, its memory
ends where its input does, the target is in neither, and q counts from the first event, as p tells how many are to come.
"""

from dataclasses import dataclass, replace
from enum import Enum

import torch
from torch import Tensor, nn

from recexp.config import ModelConfig
from recexp.dataset.batch import Batch
from recexp.dataset.schema import Schema
from recexp.layer.activation import Activation
from recexp.layer.embedding import SequenceEmbedding
from recexp.layer.lookup import Events
from recexp.layer.loss import bce, masked_bce
from recexp.layer.mlp import MLP, linear
from recexp.layer.next_item import Draw, NextItem, Vectors
from recexp.layer.position import Position, distance, position
from recexp.layer.transformer import Decoder, Encoder, Norm, causal
from recexp.model import Inputs, Needs, Output, require_divisor
from recexp.option import Labels, above, at_least, between, fraction, layer_sizes, needs_labels, read_if, size
from recexp.registry import register


class Auxiliary(Enum):
    next = "the next event's item, by softmax over all items"
    sampled = "the next event's item, by softmax over it and items drawn by popularity"
    labels = "each event's label, from its item and the events before"


class Memory(Enum):
    causal = "each event is decoded from all events before it"
    split = "the second half of the history is decoded from the first"


@register("transformer4rec")
class Transformer4Rec(nn.Module):
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
        auxiliary: Auxiliary = needs_labels(Labels.varied, when=Auxiliary.labels, loss="auxiliary")
        memory: Memory = read_if("model.auxiliary", "next", "sampled")
        n_sampled: int = read_if("model.auxiliary", "sampled", allowed=size())
        hidden_sizes: list[int] = layer_sizes()
        activation: Activation
        dropout: float = fraction()

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        self.auxiliary = config.auxiliary if config.loss_weights.get("auxiliary") else None
        self.memory = config.memory
        self.embed = SequenceEmbedding(schema, config.embedding_dim, config.history_labels, config.embedding_std)
        item_dim, std = self.embed.item_dim, config.embedding_std
        require_divisor(config.n_heads, item_dim)
        positions = config.position.name, schema.max_history + 1, item_dim, std
        self.position = position(*positions)
        # The layers' activation cannot be chosen: Dice would mix the statistics of both tasks in the shared encoder.
        sizes = config.n_layers, item_dim, config.n_heads, config.feedforward_size, Activation.leaky_relu
        self.encoder = Encoder(*sizes, config.dropout, config.norm)
        n_in = item_dim + self.embed.profile_dim
        self.mlp = MLP(n_in, config.hidden_sizes, config.activation, config.dropout, n_out=1)
        if self.auxiliary:
            self.order = position(*positions)
        if self.auxiliary is Auxiliary.labels:
            self.label_score = linear(item_dim, 1)
        elif self.auxiliary:
            self.begin = nn.Parameter(torch.randn(item_dim) * std)  # BOS
            self.decoder = Decoder(*sizes, config.dropout, config.norm)
            draw = Draw(config.n_sampled) if self.auxiliary is Auxiliary.sampled else None
            self.next = NextItem(Vectors.tied, item_dim, config.embedding_dim, schema.n_items, draw)

    def forward(self, batch: Batch) -> Output:
        # Profile (B, P); the target comes after the padding.
        profile, events = self.embed.profile(batch), self.embed.events_and_target(batch)
        mask = nn.functional.pad(batch.mask, (0, 1), value=True)  # (B, L + 1)
        inputs = [events] if self.position is None else [events, Events(self.position.vectors, distance(mask))]
        encoded = self.encoder.last(inputs, mask)  # (B, E), y_t
        logits = self.mlp(torch.cat([encoded, profile], 1))[:, 0]  # (B,)
        if self.auxiliary is None:
            return Output(logits)
        if self.auxiliary is Auxiliary.labels:
            return Output(logits, {"states": self.before_labels(batch)})
        decoded = self.decode(Events(events.vectors, events.index[:, :-1]).expanded(), batch.mask)  # (B, 1 + L, E)
        return Output(logits, {"decoded": decoded, "states": decoded[:, 1:]})

    def before_labels(self, batch: Batch) -> Tensor:
        """m_s of items up to s and labels up to s - 1: (B, L, E)."""
        label, labelled = (nn.functional.pad(x, (1, 0))[:, :-1] for x in (batch.history_label, batch.mask))
        events = self.embed.labelled(self.embed.items(batch, batch.history), label, labelled)
        return self.encoder(add_positions(events, self.order, batch.mask.cumsum(1)), batch.mask, causal(batch.mask))

    def decode(self, history: Tensor, mask: Tensor) -> Tensor:
        """d_0, ..., d_L of histories (B, L, E), mask (B, L): (B, 1 + L, E), 0 before d_c. BOS replaces event c."""
        steps = nn.functional.pad(mask, (1, 0), value=True)  # (B, 1 + L), of BOS and of each event
        count = steps.cumsum(1) - 1
        number, start = torch.arange(steps.shape[1], device=mask.device), self.start(mask)  # (1 + L,), (B, 1)
        if self.memory is Memory.causal:
            given, self_mask, memory_mask = mask, causal(mask), causal(steps)[:, :, 1:]  # d_s sees m_1, ..., m_s
        else:
            given = self_mask = memory_mask = mask & (number[1:] <= start)
        memory = self.encoder(add_positions(history, self.order, count[:, 1:]), given, self_mask)  # (B, L, E)
        inputs = torch.where((number == start)[:, :, None], self.begin, nn.functional.pad(history, (0, 0, 1, 0)))
        return self.decoder(add_positions(inputs, self.order, count), steps & (number >= start), memory, memory_mask)

    def start(self, mask: Tensor) -> Tensor:
        """c, the number of events that are given, not predicted: mask (B, L) -> (B, 1)."""
        n_events = mask.sum(1, keepdim=True)
        return torch.zeros_like(n_events) if self.memory is Memory.causal else (n_events // 2).clamp(min=1)

    def losses(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        losses = {"target": bce(output.logits, batch.label)}
        if self.auxiliary is Auxiliary.labels:
            scores = self.label_score(output.parts["states"])[:, :, 0]  # (B, L)
            losses["auxiliary"] = masked_bce(scores, batch.history_label, batch.mask)
        elif self.auxiliary:
            losses["auxiliary"] = self.next(output.parts["decoded"], self.predicted(batch), self.embed.item)
        return losses

    def predicted(self, batch: Batch) -> Batch:
        """The batch with BOS before its events, for `next`. Its mask is true at the events that are predicted."""
        history, mask = (nn.functional.pad(x, (1, 0)) for x in (batch.history, batch.mask))  # (B, 1 + L)
        number = torch.arange(mask.shape[1], device=mask.device)
        return replace(batch, history=history, mask=mask & (number > self.start(batch.mask)))


def add_positions(events: Tensor, position: nn.Module | None, number: Tensor) -> Tensor:
    """Events (B, L, E) plus the vectors of their position numbers (B, L)."""
    return events if position is None else events + position(number)
