"""Transformer trained on two tasks: the target's label, and the history itself, event by event.

B batch, L history length, n events of one history, E item size, P profile size, BOS a learnt vector
    y = encoder(h_1 + p_n, ..., h_n + p_1, t + p_0)                      all see all: p counts from the target
    logit = MLP([y_t, profile])
    m = encoder(h_1 + q_1, ..., h_n + q_n)                               causal: m_s sees h_1, ..., h_s
    d_s = decoder(BOS + q_0, h_1 + q_1, ..., h_s + q_s; m_1, ..., m_s)   memory=causal, c = 0
    d_s = decoder(BOS + q_c, h_{c+1} + q_{c+1}, ..., h_s + q_s; m)       memory=split: all of m sees h_1, ..., h_c alone
    auxiliary loss: the item of event s + 1 among all or drawn ones, of d_s, s = c, ..., n - 1   auxiliary=next, sampled
    auxiliary loss: the label of event s, of m_s with h_s = item_s + label_{s-1}                 auxiliary=labels
The encoder is one, so that the auxiliary loss teaches it too. What predicts an event sees strictly earlier ones: the
decoder's input is shifted, and its memory ends where its input does. The target is in neither. q counts from the first
event: counted from the target, it would tell how many events are still to come.
"""

from dataclasses import dataclass, replace
from enum import Enum

import torch
from torch import Tensor, nn
from torch.nn import functional

from recexp.config import Labels, ModelConfig, above, at_least, fraction, layer_sizes, needs_labels
from recexp.dataset.batch import Batch
from recexp.dataset.schema import Schema
from recexp.layer.activation import Activation
from recexp.layer.embedding import SequenceEmbedding
from recexp.layer.lookup import Events, total
from recexp.layer.loss import bce, masked_bce
from recexp.layer.mlp import MLP, linear
from recexp.layer.next_item import Draw, NextItem, Vectors
from recexp.layer.position import LearntPosition, Sinusoid, distance
from recexp.layer.transformer import (
    Decoder,
    Encoder,
    Norm,
    causal,
    require_divisor,
)
from recexp.model import Inputs, Needs, Output
from recexp.registry import register


class Position(Enum):
    learnt = "a learnt vector, added"
    sinusoid = "a fixed vector, added"
    none = "no position"


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
        embedding_dim: int = at_least(1)
        embedding_std: float = above(0)
        embedding_l2: float = at_least(0)
        history_labels: bool = needs_labels(Labels.varied, when=True)
        position: Position
        n_heads: int = at_least(1)
        n_layers: int = at_least(1)
        feedforward_size: int = at_least(1)
        norm: Norm
        auxiliary: Auxiliary
        memory: Memory
        n_sampled: int = at_least(1)
        hidden_sizes: list[int] = layer_sizes()
        activation: Activation
        dropout: float = fraction()

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        self.auxiliary = config.auxiliary if config.loss_weights.get("auxiliary") else None
        self.memory = config.memory
        self.embed = SequenceEmbedding(schema, config.embedding_dim, config.history_labels, config.embedding_std)
        n_item, n_positions = self.embed.item_dim, schema.max_history + 1
        require_divisor(config.n_heads, n_item)
        self.place = position(config, n_positions, n_item)
        # The layers' activation is not for choice: Dice would mix the statistics of both tasks in the one encoder.
        sizes = config.n_layers, n_item, config.n_heads, config.feedforward_size, Activation.leaky_relu
        self.encoder = Encoder(*sizes, config.dropout, config.norm)
        n_in = n_item + self.embed.profile_dim
        self.mlp = MLP(n_in, config.hidden_sizes, config.activation, config.dropout, n_out=1)
        if self.auxiliary:
            self.order = position(config, n_positions, n_item)
        if self.auxiliary is Auxiliary.labels:
            self.judge = linear(n_item, 1)
        elif self.auxiliary:
            self.begin = nn.Parameter(torch.randn(n_item) * config.embedding_std)  # BOS
            self.decoder = Decoder(*sizes, config.dropout, config.norm)
            draw = Draw(config.n_sampled) if self.auxiliary is Auxiliary.sampled else None
            self.next = NextItem(Vectors.tied, n_item, config.embedding_dim, schema.n_items, draw)

    def forward(self, batch: Batch) -> Output:
        profile, events = self.embed.profile(batch), self.embed.together(batch)  # (B, P), the target behind the padding
        mask = functional.pad(batch.mask, (0, 1), value=True)  # (B, L + 1)
        sources = [events] if self.place is None else [events, Events(self.place.vectors, distance(mask))]
        encoded = self.encoder.last(total(sources), mask, sources)  # (B, E), y_t
        logits = self.mlp(torch.cat([encoded, profile], 1))[:, 0]  # (B,)
        if self.auxiliary is None:
            return Output(logits)
        if self.auxiliary is Auxiliary.labels:
            return Output(logits, {"states": self.before_labels(batch)})
        history = Events(events.vectors, events.index[:, :-1]).expanded()  # (B, L, E)
        decoded = self.decode(history, batch.mask)  # (B, 1 + L, E)
        return Output(logits, {"decoded": decoded, "states": decoded[:, 1:]})

    def before_labels(self, batch: Batch) -> Tensor:
        """m_s of items up to s and labels up to s - 1: (B, L, E)."""
        label, known = (functional.pad(each, (1, 0))[:, :-1] for each in (batch.history_label, batch.mask))
        events = self.embed.labelled(self.embed.items(batch, batch.history), label, known)
        return self.encoder(placed(events, self.order, batch.mask.cumsum(1)), batch.mask, causal(batch.mask))

    def decode(self, history: Tensor, mask: Tensor) -> Tensor:
        """d_0, d_1, ..., d_L of histories (B, L, E), mask (B, L): (B, 1 + L, E), 0 before d_c."""
        steps = functional.pad(mask, (1, 0), value=True)  # (B, 1 + L): of BOS and of each event
        count = steps.cumsum(1) - 1
        number, start = torch.arange(steps.shape[1], device=mask.device), self.start(mask)  # (1 + L,), (B, 1)
        if self.memory is Memory.causal:
            known, own, seen = mask, causal(mask), causal(steps)[:, :, 1:]  # d_s sees m_1, ..., m_s
        else:
            known = own = seen = mask & (number[1:] <= start)
        memory = self.encoder(placed(history, self.order, count[:, 1:]), known, own)  # (B, L, E)
        begins = (number == start)[:, :, None]  # BOS stands in the place of event c
        inputs = torch.where(begins, self.begin, functional.pad(history, (0, 0, 1, 0)))  # (B, 1 + L, E)
        return self.decoder(placed(inputs, self.order, count), steps & (number >= start), memory, seen)

    def start(self, mask: Tensor) -> Tensor:
        """c, the number of events that are given and not predicted: mask (B, L) -> (B, 1)."""
        n_events = mask.sum(1, keepdim=True)
        return torch.zeros_like(n_events) if self.memory is Memory.causal else (n_events // 2).clamp(min=1)

    def losses(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        losses = {"target": bce(output.logits, batch.label)}
        if self.auxiliary is Auxiliary.labels:
            judged = self.judge(output.parts["states"])[:, :, 0]  # (B, L)
            losses["auxiliary"] = masked_bce(judged, batch.history_label, batch.mask)
        elif self.auxiliary:
            losses["auxiliary"] = self.next(
                output.parts["decoded"], self.predicted(batch), self.embed.embed.sides["item"]
            )
        return losses

    def predicted(self, batch: Batch) -> Batch:
        """The batch with BOS before its events, for `next`: its mask is true at the events that are predicted."""
        history, mask = (functional.pad(each, (1, 0)) for each in (batch.history, batch.mask))  # (B, 1 + L)
        number = torch.arange(mask.shape[1], device=mask.device)
        return replace(batch, history=history, mask=mask & (number > self.start(batch.mask)))


def position(config: Transformer4Rec.Config, n_positions: int, n_item: int) -> LearntPosition | Sinusoid | None:
    match config.position:
        case Position.learnt:
            return LearntPosition(n_positions, n_item, config.embedding_std)
        case Position.sinusoid:
            return Sinusoid(n_positions, n_item)
        case Position.none:
            return None


def placed(events: Tensor, place: nn.Module | None, number: Tensor) -> Tensor:
    """Events (B, L, E), each with the vector of its position number (B, L)."""
    return events if place is None else events + place(number)
