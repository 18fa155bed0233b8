"""Popularity: the floor that looks at the item alone.

    logit = log(p / (1 - p)),  p = (positives_i + s r) / (events_i + s)

with r the label rate of the training part and s the `smoothing`: an item without events gets r, a busy one its own.
Under implicit labels every event is a positive, and the score is the logarithm of the item's share of events.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recexp.config import ModelConfig, require
from recexp.dataset.batch import Batch
from recexp.dataset.schema import Schema
from recexp.layer.embedding import require_items
from recexp.layer.loss import bce
from recexp.model import Fit, Output, Stage
from recexp.registry import register


@register("popularity")
class Popularity(nn.Module):
    reads_history = False

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        smoothing: float

        def __post_init__(self) -> None:
            super().__post_init__()
            require(self.smoothing > 0, "model.smoothing", self.smoothing, "above 0")

    score: Tensor

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        require_items(schema, config.name)
        self.smoothing = config.smoothing
        self.register_buffer("score", torch.zeros(schema.n_items))  # by item id; padding and unknown: no events

    def forward(self, batch: Batch) -> Output:
        return Output(logits=self.score[batch.catalogue.items.ids[batch.target, 0]])

    def losses(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        return {"target": bce(output.logits, batch.label)}

    def stages(self) -> list[Stage]:
        return [Fit(name="count", model=self, fit=self.count)]

    def count(self, training: Batch) -> None:
        item = training.catalogue.items.ids[training.target, 0]
        n_items = len(self.score)
        events = torch.bincount(item, minlength=n_items).double()
        positives = torch.bincount(item[training.label == 1], minlength=n_items).double()
        rate = training.label.double().mean()
        if rate == 1:
            self.score.copy_(torch.log((events + self.smoothing) / (events.sum() + self.smoothing * n_items)))
            return
        smooth = (positives + self.smoothing * rate) / (events + self.smoothing)
        self.score.copy_(torch.logit(smooth.clamp(1e-6, 1 - 1e-6)))
