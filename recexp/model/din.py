"""Deep Interest Network. Zhou et al., KDD 2018.

B batch, L history length, E item size, P profile size
eq. 3   v_U = sum_s a(h_s, t) h_s       interest in the target, weights not normalised
        logit = MLP([v_U, t, profile])
        a(h_s, t, u), u = W profile     with user_vector: weights depend on the user too
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recexp.config import ModelConfig
from recexp.dataset.batch import Batch
from recexp.dataset.schema import Schema
from recexp.layer.activation import Activation
from recexp.layer.attention import Attention, Normalise, attention, condition_on_user, weigh
from recexp.layer.embedding import SequenceEmbedding
from recexp.layer.lookup import Events, weighted_sum
from recexp.layer.mlp import MLP, linear
from recexp.model import Inputs, Needs, Output
from recexp.option import Labels, above, at_least, fraction, layer_sizes, needs_labels, size
from recexp.registry import register


@register("din")
class DIN(nn.Module):
    needs = Needs(Inputs.history)

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        embedding_dim: int = size()
        embedding_std: float = above(0)
        embedding_l2: float = at_least(0)
        history_labels: bool = needs_labels(Labels.varied, when=True)
        features: bool
        attention: Attention
        attention_hidden_sizes: list[int] = layer_sizes()
        attention_activation: Activation
        normalise: Normalise
        user_vector: bool
        hidden_sizes: list[int] = layer_sizes()
        activation: Activation
        dropout: float = fraction()

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        self.kind, self.normalise = config.attention, config.normalise
        self.reads_context = config.features
        schema = schema if config.features else schema.ids
        self.embed = SequenceEmbedding(schema, config.embedding_dim, config.history_labels, config.embedding_std)
        item_dim = self.embed.item_dim
        self.attention = attention(
            config.attention, item_dim, config.attention_hidden_sizes, config.attention_activation
        )
        self.user = linear(self.embed.profile_dim, item_dim) if config.user_vector else None
        if self.user is not None:
            nn.init.ones_(self.user.bias)  # a product with small vectors would hide the target from the attention
        n_in = 2 * item_dim + self.embed.profile_dim
        self.mlp = MLP(n_in, config.hidden_sizes, config.activation, config.dropout, n_out=1)

    def forward(self, batch: Batch) -> Output:
        profile, (target, events) = self.embed.profile(batch), self.embed.events(batch)  # (B, P), (B, E)
        return self.predict(profile, target, events, batch.mask)

    def predict(self, profile: Tensor, target: Tensor, events: Events, mask: Tensor) -> Output:
        """Logits (B,), and in parts["attention"] the weights (B, L): which past events decided."""
        scores = self.attend(profile, target, events, mask)  # (B, L)
        weights = weigh(scores, mask, self.normalise, scale=target.shape[1] ** -0.5)
        interest = weighted_sum(weights, events)  # (B, E), eq. 3
        logits = self.mlp(torch.cat([interest, target, profile], 1))[:, 0]  # (B,)
        return Output(logits, {"attention": weights})

    def attend(self, profile: Tensor, target: Tensor, events: Events, mask: Tensor) -> Tensor:
        """(B, L)."""
        if self.user is not None:
            target, events = condition_on_user(self.kind, target, events, self.user(profile))
        return self.attention(target, events, mask)

    def score(self, batch: Batch, targets: Tensor) -> Tensor:
        """Logits (B, N) of N targets for each user, rows of items (B, N); events are embedded once."""
        profile, (_, events) = self.embed.profile(batch), self.embed.events(batch)
        n_targets = targets.shape[1]
        profile, index, mask = (rows.repeat_interleave(n_targets, 0) for rows in (profile, events.index, batch.mask))
        target = self.embed.items(batch, targets).flatten(0, 1)  # (B N, E)
        return self.predict(profile, target, Events(events.vectors, index), mask).logits.view_as(targets)
