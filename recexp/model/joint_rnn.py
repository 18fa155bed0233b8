"""Recurrent network trained on two tasks: the target's label, and which item comes next.

B batch, L history length, E item size, H state size, P profile size
    state_s = cell(h_s, state_{s-1})
    logit = MLP([state_last, t, profile])         head=mlp
    logit = <W state_last, t> + b                 head=dot
    auxiliary loss: state_s predicts the item of event s + 1 among all items; the target is never a next item
"""

from dataclasses import dataclass, replace
from enum import Enum

import torch
from torch import Tensor, nn

from recexp.config import ModelConfig
from recexp.dataset.batch import Batch
from recexp.dataset.schema import Schema, Side
from recexp.layer.activation import Activation
from recexp.layer.embedding import SequenceEmbedding
from recexp.layer.loss import bce
from recexp.layer.mlp import MLP, linear
from recexp.layer.next_item import Draw, NextItem, Vectors
from recexp.layer.recurrent import Cell, Recurrent, last
from recexp.model import Inputs, Needs, Output
from recexp.option import Labels, above, at_least, fraction, layer_sizes, needs_labels, size
from recexp.registry import register


class Head(Enum):
    mlp = "MLP([state_last, t, profile])"
    dot = "<W state_last, t> + b: the item alone"


class Auxiliary(Enum):
    next = "softmax over all items"
    sampled = "softmax over the next item and items drawn by popularity"


@register("joint_rnn")
class JointRNN(nn.Module):
    needs = Needs(Inputs.sequence)

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        embedding_dim: int = size()
        embedding_std: float = above(0)
        embedding_l2: float = at_least(0)
        history_labels: bool = needs_labels(Labels.varied, when=True)
        features: bool
        cell: Cell
        state_size: int = size()
        head: Head
        output: Vectors
        auxiliary: Auxiliary
        n_sampled: int = size()
        hidden_sizes: list[int] = layer_sizes()
        activation: Activation
        dropout: float = fraction()

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        self.reads_context = config.features and config.head is not Head.dot
        schema = schema if config.features else schema.ids
        if config.head is Head.dot:
            schema = replace(schema, user=Side(), context=Side())  # which this head does not read
        self.embed = SequenceEmbedding(schema, config.embedding_dim, config.history_labels, config.embedding_std)
        item_dim, state_size = self.embed.item_dim, config.state_size
        self.recurrent = Recurrent(config.cell, item_dim, state_size)
        if config.head is Head.dot:
            self.mlp = None
            self.project = linear(state_size, item_dim, bias=False)
            self.bias = nn.Parameter(torch.zeros(()))
        else:
            n_in = state_size + item_dim + self.embed.profile_dim
            self.mlp = MLP(n_in, config.hidden_sizes, config.activation, config.dropout, n_out=1)
        self.next = None
        if config.loss_weights.get("auxiliary"):
            draw = Draw(config.n_sampled) if config.auxiliary is Auxiliary.sampled else None
            self.next = NextItem(config.output, state_size, config.embedding_dim, schema.n_items, draw)

    def forward(self, batch: Batch) -> Output:
        target, events = self.embed.events(batch)  # (B, E)
        states = self.recurrent.over(events, batch.mask)  # (B, L, H)
        state = last(states, batch.mask)  # (B, H)
        if self.mlp is None:
            logits = (self.project(state).float() * target).sum(1) + self.bias  # (B,)
        else:
            logits = self.mlp(torch.cat([state, target, self.embed.profile(batch)], 1))[:, 0]
        return Output(logits, {"states": states})

    def score(self, batch: Batch, targets: Tensor) -> Tensor:
        """Logits (B, N) of N targets for each user, rows of items (B, N); the state is the user's."""
        _, events = self.embed.events(batch)
        state = last(self.recurrent.over(events, batch.mask), batch.mask)  # (B, H)
        target = self.embed.items(batch, targets)  # (B, N, E)
        if self.mlp is None:
            return (target @ self.project(state).float()[:, :, None])[:, :, 0] + self.bias
        of_user = (state, self.embed.profile(batch))
        state, profile = (rows.repeat_interleave(targets.shape[1], 0) for rows in of_user)
        return self.mlp(torch.cat([state, target.flatten(0, 1), profile], 1))[:, 0].view_as(targets)

    def losses(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        losses = {"target": bce(output.logits, batch.label)}
        if self.next is not None:
            losses["auxiliary"] = self.next(output.parts["states"], batch, self.embed.item)
        return losses
