"""Popularity: the baseline that looks only at the item.

    logit = log(p / (1 - p)),  p = (positives_i + s r) / (events_i + s)

with r the share of positives and s the `smoothing`: an item without events gets r. With implicit labels every event is
a positive, and the score is the logarithm of the item's share of events. Of the training split the latest share
`recent` of all events is counted, and what has the same time as the first of them: what is popular changes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recexp.config import ModelConfig
from recexp.dataset.batch import Batch
from recexp.dataset.schema import Schema
from recexp.model import Fit, Inputs, Needs, Output, Stage
from recexp.option import above, option
from recexp.registry import register


@register("popularity")
class Popularity(nn.Module):
    needs = Needs(Inputs.ids, features=False)

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        smoothing: float = above(0)
        recent: float = option(lambda share: 0 < share <= 1, "above 0, at most 1")
        trained = False

    score: Tensor

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        self.smoothing, self.recent = config.smoothing, config.recent
        self.register_buffer("score", torch.zeros(schema.n_items))  # by item id; padding and unknown have no events

    def forward(self, batch: Batch) -> Output:
        return Output(logits=self.score[batch.catalogue.items.ids[batch.target, 0]])

    def query(self, batch: Batch) -> Tensor:
        """The same query for every user: (B, 1)."""
        return self.score.new_ones(batch.user.shape[0], 1)

    def item_vectors(self, ids: Tensor | None = None) -> Tensor:
        """(n, 1)."""
        return (self.score if ids is None else self.score[ids])[:, None]

    def stages(self) -> list[Stage]:
        return [Fit(name="count", model=self, fit=self.count)]

    def count(self, training: Batch) -> None:
        """Sets the scores."""
        assert training.timestamp is not None
        counted = latest(training.timestamp, self.recent)
        item, label = training.catalogue.items.ids[training.target[counted], 0], training.label[counted]
        n_items = len(self.score)
        events = torch.bincount(item, minlength=n_items).double()
        positives = torch.bincount(item[label == 1], minlength=n_items).double()
        positive_rate = label.double().mean()
        if positive_rate == 1:
            self.score.copy_(torch.log((events + self.smoothing) / (events.sum() + self.smoothing * n_items)))
            return
        smooth = (positives + self.smoothing * positive_rate) / (events + self.smoothing)
        self.score.copy_(torch.logit(smooth.clamp(1e-6, 1 - 1e-6)))


def latest(timestamp: Tensor, share: float) -> Tensor:
    """(N,) bool: the latest share of the times (N,), with all that are equal to the first of it."""
    n = max(1, round(share * len(timestamp)))
    return timestamp >= timestamp.sort(descending=True).values[n - 1]
