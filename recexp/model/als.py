"""Matrix factorisation by alternating least squares. Zhou et al., AAIM 2008; Hu et al., ICDM 2008.

x_u, y_i factors of user u and item i; r labels; n_u number of events of u, O their items; l regularisation
explicit   s = mu + b_u + b_i + <x_u, y_i>
           x_u = (Y_O^T Y_O + l n_u I)^-1 Y_O^T (r - mu - b_u - b_i)
implicit   s = <x_u, y_i>
           x_u = (Y^T Y + Y_O^T (C - I) Y_O + l I)^-1 Y_O^T c,  c = 1 + alpha (events of the pair with label 1)
           and y_i likewise; a pair with only label 0 counts as not observed: 0 with confidence 1
           logit = 4 (s - 1/2)
s estimates a label of 0 or 1 but may leave that range, where log(s / (1 - s)) is not defined. The logit is the tangent
of that at s = 1/2, defined for every s and in the same order.
"""

from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor, nn

from recexp.config import ModelConfig
from recexp.dataset.batch import Batch
from recexp.dataset.schema import Schema
from recexp.layer.embedding import FeatureEmbedding
from recexp.layer.factorise import Rows, confident_ridge, weighted_ridge
from recexp.model import Fit, Inputs, Needs, Output, Stage
from recexp.option import Labels, above, at_least, needs_labels, read_if, size
from recexp.registry import register


class Feedback(Enum):
    explicit = "labels of events, the ridge in proportion to their number (ALS-WR)"
    implicit = "events of label 1, with confidence, against all other pairs (Hu et al.)"


@register("als")
class ALS(nn.Module):
    needs = Needs(Inputs.ids, features=False)

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        embedding_dim: int = size()
        feedback: Feedback = needs_labels(Labels.both, when=Feedback.explicit)
        iterations: int = at_least(1)
        regularisation: float = above(0)
        smoothing: float = above(0)
        alpha: float = read_if("model.feedback", "implicit", allowed=above(0))
        trained = False

    mean: Tensor
    user_bias: Tensor
    item_bias: Tensor

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        self.config = config
        # Vectors start at length 1: near 0 is a saddle point that takes iterations to leave.
        self.embed = FeatureEmbedding(schema.ids, config.embedding_dim, std=config.embedding_dim**-0.5)
        self.register_buffer("mean", torch.zeros(()))  # mean and biases stay 0 with implicit feedback
        self.register_buffer("user_bias", torch.zeros(schema.ids.user.vocabulary))  # by id; 0 for padding and unknown
        self.register_buffer("item_bias", torch.zeros(schema.ids.item.vocabulary))

    def forward(self, batch: Batch) -> Output:
        x, y = self.embed.fields(batch).unbind(1)  # (B, D) each
        user, item = ids(batch)
        score = self.mean + self.user_bias[user] + self.item_bias[item] + (x * y).sum(1)  # (B,)
        return Output(logits=4 * (score - 0.5))

    def query(self, batch: Batch) -> Tensor:
        """(B, D + 2): the logit is its product with an item's vector."""
        user = batch.catalogue.users.ids[batch.user, 0]
        x = self.embed.sides["user"].table.weight[user]  # (B, D)
        user_score = (self.mean + self.user_bias[user] - 0.5)[:, None]
        return 4 * torch.cat([x, user_score, torch.ones_like(user_score)], 1)

    def item_vectors(self, ids: Tensor | None = None) -> Tensor:
        """(n, D + 2): factors, and what the biases are multiplied with."""
        bias = (self.item_bias if ids is None else self.item_bias[ids])[:, None]
        return torch.cat([self.embed.sides["item"].table.rows(ids), torch.ones_like(bias), bias], 1)

    def stages(self) -> list[Stage]:
        return [Fit(name="als", model=self, fit=self.fit)]

    @torch.no_grad()
    def fit(self, training: Batch) -> None:
        """Sets factors and biases, in double precision until they are stored."""
        explicit, regularisation = self.config.feedback is Feedback.explicit, self.config.regularisation
        user, item = ids(training)
        if explicit:
            value = self.centre(user, item, training.label.double())
        else:
            user, item, events = positives(user, item, training.label)
            value = 1 + self.config.alpha * events.double()
        half_step = weighted_ridge if explicit else confident_ridge
        users, items = (side.table.weight for side in self.embed.sides.values())
        by_user, by_item = Rows(user, item, len(users)), Rows(item, user, len(items))
        y = items.double()
        for _ in range(self.config.iterations):
            x = half_step(by_user, y, value, regularisation)
            y = half_step(by_item, x, value, regularisation)
        users.copy_(x)
        items.copy_(y)

    def centre(self, user: Tensor, item: Tensor, label: Tensor) -> Tensor:
        """Sets mean and biases by least squares with a ridge of `smoothing`; returns the labels' residuals (N,)."""
        mean, smoothing = label.mean(), self.config.smoothing
        item_bias = self.item_bias.new_zeros(len(self.item_bias), dtype=label.dtype)
        for _ in range(self.config.iterations):
            user_bias = smooth_mean(label - mean - item_bias[item], user, len(self.user_bias), smoothing)
            item_bias = smooth_mean(label - mean - user_bias[user], item, len(self.item_bias), smoothing)
        self.mean.copy_(mean)
        self.user_bias.copy_(user_bias)
        self.item_bias.copy_(item_bias)
        return label - mean - user_bias[user] - item_bias[item]


def ids(batch: Batch) -> tuple[Tensor, Tensor]:
    """Ids of user and target, (B,) each: rows of their tables."""
    return batch.catalogue.users.ids[batch.user, 0], batch.catalogue.items.ids[batch.target, 0]


def positives(user: Tensor, item: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The unique pairs that have events of label 1: their users, items and numbers of such events."""
    n_items = int(item.max()) + 1
    pairs, events = torch.unique((user * n_items + item)[label == 1], return_counts=True)
    return pairs // n_items, pairs % n_items, events


def smooth_mean(value: Tensor, row: Tensor, n_rows: int, smoothing: float) -> Tensor:
    """The mean of each row's values and `smoothing` zeros: (n_rows,)."""
    sums = value.new_zeros(n_rows).index_add_(0, row, value)
    return sums / (torch.bincount(row, minlength=n_rows) + smoothing)
