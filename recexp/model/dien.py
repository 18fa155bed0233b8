"""Deep Interest Evolution Network. Zhou et al., AAAI 2019.

B batch, L history length, E item size, H state size, P profile size
sec. 4.2    g_s = GRU(h_s, g_{s-1})                                  interest extraction
eq. 6       auxiliary loss: g_s predicts the next event              its label, or its item against a sampled one
eq. 8       a_s = softmax_s(g_s W t)                                 relevance to the target
eq. 11, 12  h'_s = AUGRU(g_s, h'_{s-1}, a_s)                         interest evolution
            logit = MLP([h'_last, t, v, t * v, profile])             v = pool_s h_s, the sum or the mean
            logit = MLP([h'_last, t, profile])                       pooling=null
"""

from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor, nn

from recexp.config import ModelConfig
from recexp.dataset.batch import Batch
from recexp.dataset.schema import Schema
from recexp.layer.activation import Activation
from recexp.layer.attention import Normalise, weigh
from recexp.layer.embedding import SequenceEmbedding
from recexp.layer.lookup import Events
from recexp.layer.loss import bce, masked_bce
from recexp.layer.mlp import MLP, linear
from recexp.layer.recurrent import AttentionGRU, Cell, GRUType, Recurrent
from recexp.model import Inputs, Needs, Output
from recexp.model.seq_pooling import Pooling, pool
from recexp.option import Labels, above, at_least, fraction, layer_sizes, needs_labels, read_if, size
from recexp.registry import register


class Auxiliary(Enum):
    labels = "the next event's label"
    sampled = "the next event against an item drawn by popularity"


@register("dien")
class DIEN(nn.Module):
    needs = Needs(Inputs.sequence)

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        embedding_dim: int = size()
        embedding_std: float = above(0)
        embedding_l2: float = at_least(0)
        history_labels: bool = needs_labels(Labels.varied, when=True)
        state_size: int = size()
        gru_type: GRUType
        auxiliary: Auxiliary = read_if(
            "model.loss_weights.auxiliary",
            allowed=needs_labels(Labels.varied, when=Auxiliary.labels, loss="auxiliary"),
        )
        auxiliary_hidden_sizes: list[int] = read_if("model.loss_weights.auxiliary", allowed=layer_sizes())
        pooling: Pooling | None
        hidden_sizes: list[int] = layer_sizes()
        activation: Activation
        dropout: float = fraction()

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        self.auxiliary = config.auxiliary if config.loss_weights.get("auxiliary") else None
        self.pooling = config.pooling
        self.embed = SequenceEmbedding(schema, config.embedding_dim, config.history_labels, config.embedding_std)
        item_dim, state_size = self.embed.item_dim, config.state_size
        self.extract = Recurrent(Cell.gru, item_dim, state_size)
        self.project = linear(item_dim, state_size, bias=False)
        self.evolve = AttentionGRU(config.gru_type, state_size, state_size)
        if self.auxiliary:
            self.next = MLP(state_size + item_dim, config.auxiliary_hidden_sizes, config.activation, n_out=1)
        n_in = state_size + (3 if self.pooling else 1) * item_dim + self.embed.profile_dim
        self.mlp = MLP(n_in, config.hidden_sizes, config.activation, config.dropout, n_out=1)

    def forward(self, batch: Batch) -> Output:
        profile, (target, events) = self.embed.profile(batch), self.embed.events(batch)  # (B, P), (B, E)
        states = self.extract.over(events, batch.mask)  # (B, L, H)
        logits, weights = self.predict(profile, target, states, self.pooled(events, batch.mask), batch.mask)
        return Output(logits, {"states": states, "weights": weights})

    def pooled(self, events: Events, mask: Tensor) -> Tensor | None:
        """(B, E), if the history is pooled too."""
        return pool(events.expanded(), mask, self.pooling) if self.pooling else None

    def predict(
        self, profile: Tensor, target: Tensor, states: Tensor, history: Tensor | None, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits (B,), and how much each state weighs (B, L)."""
        scores = (states * self.project(target)[:, None]).sum(2)  # (B, L)
        weights = weigh(scores, mask, Normalise.softmax)  # (B, L), eq. 8
        interest = self.evolve(states, weights, mask)  # (B, H), eq. 11, 12
        pooled = [] if history is None else [history, target * history]
        return self.mlp(torch.cat([interest, target, *pooled, profile], 1))[:, 0], weights

    def score(self, batch: Batch, targets: Tensor) -> Tensor:
        """Logits (B, N) of N targets for each user, rows of items (B, N); states are the user's, interests are not."""
        profile, (_, events) = self.embed.profile(batch), self.embed.events(batch)
        states, history = self.extract.over(events, batch.mask), self.pooled(events, batch.mask)
        of_user = (profile, states, batch.mask)
        profile, states, mask = (rows.repeat_interleave(targets.shape[1], 0) for rows in of_user)
        history = None if history is None else history.repeat_interleave(targets.shape[1], 0)
        target = self.embed.items(batch, targets).flatten(0, 1)  # (B N, E)
        return self.predict(profile, target, states, history, mask)[0].view_as(targets)

    def losses(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        losses = {"target": bce(output.logits, batch.label)}
        if self.auxiliary:
            losses["auxiliary"] = self.auxiliary_loss(output.parts["states"], batch)
        return losses

    def auxiliary_loss(self, states: Tensor, batch: Batch) -> Tensor:
        """Eq. 6, from the states (B, L, H) before an event, over all events but the first."""
        states, items, valid = states[:, :-1], batch.history[:, 1:], batch.mask[:, 1:]  # (B, L - 1, H), (B, L - 1)
        if self.auxiliary is Auxiliary.labels:
            return masked_bce(self.score_next(states, items, batch, valid), batch.history_label[:, 1:], valid)
        drawn = batch.catalogue.draw_items(items)
        differs = valid & (drawn != items)
        real = self.score_next(states, items, batch, valid)
        fake = self.score_next(states, drawn, batch, differs)
        return masked_bce(real, torch.ones_like(real), valid) + masked_bce(fake, torch.zeros_like(fake), differs)

    def score_next(self, states: Tensor, items: Tensor, batch: Batch, valid: Tensor) -> Tensor:
        """Logits (B, L - 1) that `items` (B, L - 1) come next, or are liked next, after states (B, L - 1, H)."""
        embedded = self.embed.items(batch, items)  # (B, L - 1, E), without labels
        return self.next(torch.cat([states, embedded], 2), valid)[:, :, 0]
