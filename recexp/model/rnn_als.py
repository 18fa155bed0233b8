"""Matrix factorisation whose user vector follows the history through a recurrent network; two stages.

B batch, L history length, D embedding size
p_u, y_i vectors of user u and item i; b, b_u, b_i biases; h state of size D, 0 without history
    h_s = cell(y_s, h_{s-1})
    logit = <h_last + p_u, y_t> + b + b_u + b_t           h = 0: matrix factorisation
With pretrain, vectors and biases start as `als` leaves them, so that h = 0 gives its logit
4 (mu + b_u + b_i + <x_u, y_i> - 1/2): both vectors are twice its factors, biases four times its own.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recexp.config import ModelConfig
from recexp.dataset.batch import Batch
from recexp.dataset.schema import Schema
from recexp.layer.embedding import Linear, SequenceEmbedding
from recexp.layer.recurrent import Cell, Recurrent, last
from recexp.model import Fit, Inputs, Needs, Output, Stage, Train, part_config
from recexp.model.als import ALS, Feedback
from recexp.option import Labels, above, at_least, needs_labels, read_if, require, size
from recexp.registry import register


@register("rnn_als")
class RNNALS(nn.Module):
    needs = Needs(Inputs.sequence, context=False, features=False)

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        embedding_dim: int = size()
        embedding_std: float = above(0)
        embedding_l2: float = at_least(0)
        history_labels: bool = needs_labels(Labels.varied, when=True)
        cell: Cell
        pretrain: bool
        freeze: bool
        feedback: Feedback = needs_labels(Labels.both, when=Feedback.explicit)
        iterations: int = at_least(1)
        regularisation: float = above(0)
        smoothing: float = above(0)
        alpha: float = read_if("model.feedback", "implicit", allowed=above(0))

        def __post_init__(self) -> None:
            super().__post_init__()
            require(self.pretrain or not self.freeze, "model.freeze", "true", "false where model.pretrain is false")

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        self.config, self.schema = config, schema
        self.factors = Factorisation(schema, config.embedding_dim, config.history_labels, config.embedding_std)
        self.recurrent = Recurrent(config.cell, config.embedding_dim, config.embedding_dim)

    def forward(self, batch: Batch) -> Output:
        p, y, history = self.factors.embed(batch)  # (B, D), (B, D), (B, L, D)
        h = last(self.recurrent(history), batch.mask)  # (B, D)
        return Output(logits=self.factors.logits(h + p, y, batch))

    def score(self, batch: Batch, targets: Tensor) -> Tensor:
        """Logits (B, N) of N targets for each user, rows of items (B, N)."""
        p, _, history = self.factors.embed(batch)
        h = last(self.recurrent(history), batch.mask)
        return self.factors.score(h + p, targets, batch)

    def stages(self) -> list[Stage]:
        if not self.config.pretrain:
            return [Train(name="train", model=self)]
        trained = ("recurrent.", "factors.linear.", "factors.embed.label.") if self.config.freeze else ("",)
        return [Fit(name="als", model=self.factors, fit=self.fit), Train(name="train", model=self, trained=trained)]

    def fit(self, training: Batch) -> None:
        als = ALS(part_config(ALS.Config, self.config), self.schema).to(training.label.device)
        als.fit(training)
        self.factors.copy_from(als)


class Factorisation(nn.Module):
    """<p_u, y_t> + b + b_u + b_t: the model without its recurrent network."""

    def __init__(self, schema: Schema, embedding_dim: int, history_labels: bool, std: float) -> None:
        super().__init__()
        self.linear = Linear(schema.ids)
        self.embed = SequenceEmbedding(schema.ids, embedding_dim, history_labels, std)

    def forward(self, batch: Batch) -> Output:
        p, y, _ = self.embed(batch)  # (B, D) each
        return Output(logits=self.logits(p, y, batch))

    def logits(self, user: Tensor, item: Tensor, batch: Batch) -> Tensor:
        """Vectors of user and target (B, D) -> (B,)."""
        return (user.float() * item).sum(1) + self.linear(batch)

    def score(self, user: Tensor, targets: Tensor, batch: Batch) -> Tensor:
        """Vectors of users (B, D), rows of items (B, N) -> (B, N)."""
        weights, catalogue = self.linear.weights, batch.catalogue
        user_bias = weights.rows("user", catalogue.users, batch.user)[:, 0]  # (B, 1)
        item_bias = weights.rows("item", catalogue.items, targets)[:, :, 0, 0]  # (B, N)
        products = self.embed.items(batch, targets) @ user.float()[:, :, None]  # (B, N, 1)
        return products[:, :, 0] + self.linear.bias + user_bias + item_bias

    @torch.no_grad()
    def copy_from(self, als: ALS) -> None:
        """Copies factors and biases of a fitted ALS, scaled so that both models give the same logit."""
        self.linear.bias.copy_(4 * (als.mean - 0.5))
        for name, bias in (("user", als.user_bias), ("item", als.item_bias)):
            self.linear.weights.sides[name].table.weight.copy_(4 * bias[:, None])
            self.embed.embed.sides[name].table.weight.copy_(2 * als.embed.sides[name].table.weight)
