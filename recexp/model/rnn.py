"""Recurrent network over the history: vanilla, LSTM or GRU.

B batch, L history length, E item size, H state size, P profile size
    state_s = cell(h_s, state_{s-1})
    logit = MLP([state_last, t, profile])         target=concat
    logit = MLP([state after t, profile])         target=last_step: the target is the sequence's last step
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
from recexp.layer.recurrent import Cell, Recurrent, last
from recexp.model import Inputs, Needs, Output
from recexp.option import Labels, above, at_least, fraction, layer_sizes, needs_labels, size
from recexp.registry import register


class Target(Enum):
    concat = "beside the last state, as input of the MLP"
    last_step = "the last step of the sequence"


@register("rnn")
class RNN(nn.Module):
    needs = Needs(Inputs.sequence)

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        embedding_dim: int = size()
        embedding_std: float = above(0)
        embedding_l2: float = at_least(0)
        history_labels: bool = needs_labels(Labels.varied, when=True)
        cell: Cell
        state_size: int = size()
        target: Target
        hidden_sizes: list[int] = layer_sizes()
        activation: Activation
        dropout: float = fraction()

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        self.target = config.target
        self.embed = SequenceEmbedding(schema, config.embedding_dim, config.history_labels, config.embedding_std)
        self.recurrent = Recurrent(config.cell, self.embed.item_dim, config.state_size)
        n_target = self.embed.item_dim if config.target is Target.concat else 0
        n_in = config.state_size + n_target + self.embed.profile_dim
        self.mlp = MLP(n_in, config.hidden_sizes, config.activation, config.dropout, n_out=1)

    def forward(self, batch: Batch) -> Output:
        profile, (target, events) = self.embed.profile(batch), self.embed.events(batch)  # (B, P), (B, E)
        if self.target is Target.last_step:
            steps, mask = append(events.expanded(), target, batch.mask)  # (B, L + 1, E), (B, L + 1)
            inputs = [last(self.recurrent(steps), mask), profile]
        else:
            inputs = [last(self.recurrent.over(events, batch.mask), batch.mask), target, profile]
        return Output(logits=self.mlp(torch.cat(inputs, 1))[:, 0])  # (B,)

    def score(self, batch: Batch, targets: Tensor) -> Tensor:
        """Logits (B, N) of N targets for each user, rows of items (B, N)."""
        n_targets = targets.shape[1]
        profile, (_, events) = self.embed.profile(batch), self.embed.events(batch)
        target = self.embed.items(batch, targets).flatten(0, 1)  # (B N, E)
        if self.target is Target.last_step:
            history, mask = (rows.repeat_interleave(n_targets, 0) for rows in (events.expanded(), batch.mask))
            steps, mask = append(history, target, mask)
            inputs = [last(self.recurrent(steps), mask)]
        else:  # the state is the user's, whatever the target
            state = last(self.recurrent.over(events, batch.mask), batch.mask)
            inputs = [state.repeat_interleave(n_targets, 0), target]
        inputs.append(profile.repeat_interleave(n_targets, 0))
        return self.mlp(torch.cat(inputs, 1))[:, 0].view_as(targets)


def append(history: Tensor, target: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The target (B, E) right after the last event of each history (B, L, E); padding stays on the right."""
    length = mask.sum(1)
    longer = torch.cat([history, torch.zeros_like(target)[:, None]], 1)
    step = torch.arange(longer.shape[1], device=length.device)
    longer = torch.where((step == length[:, None])[:, :, None], target[:, None], longer)
    return longer, step <= length[:, None]
