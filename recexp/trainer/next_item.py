"""The next-item trainer: a sample is a window of a user's events, and each event predicts the item of the next.

It trains models that return a query after each event and a vector of each known item, or that choose their own pairs of
query and item (`pairs` in recexp/model). It validates by ranking all items. The rest is as in the default trainer.
"""

import logging
from dataclasses import replace
from functools import partial
from typing import cast

from torch import Tensor, nn

from recexp.config import Config, NextItemConfig, NextItemLoss
from recexp.dataset.batch import Batches
from recexp.dataset.window import WindowBatch, Windows
from recexp.error import DataError
from recexp.layer.ranking import Negatives, SampledLoss, bce, bpr, bpr_max, gbce, next_item_loss, sampled_softmax
from recexp.metric.binary import Metrics
from recexp.metric.full_ranking import Ranking
from recexp.model import Fit, Ranker, Stage, Train, pairs, stages
from recexp.registry import register
from recexp.trainer.default import Result, Task, Trainer
from recexp.trainer.divergence import Diverged
from recexp.trainer.optimizer import of_items, rowwise_tables
from recexp.trainer.state import Progress

logger = logging.getLogger(__name__)


class NextItem(nn.Module):
    """Wraps a ranking model: its loss is the next-item loss instead of the model's own."""

    def __init__(self, model: nn.Module, config: NextItemConfig) -> None:
        super().__init__()
        self.model, self.name, self.sampled_loss = model, config.loss.name, sampled_loss(config)
        negatives = config.negatives
        self.negatives = Negatives(negatives.n, negatives.shared, negatives.popular, negatives.logq)
        self.tables = [table for table in rowwise_tables(model) if of_items(table)]

    def forward(self, batch: WindowBatch) -> tuple[Tensor, Tensor]:
        """The query (P, D) of each pair, and the row of its item (P,)."""
        return pairs(self.model, batch)

    def losses(self, output: tuple[Tensor, Tensor], batch: WindowBatch) -> dict[str, Tensor]:
        (query, target), catalogue = output, batch.catalogue
        target = catalogue.items.ids[target, 0]
        vectors, by_row = cast("Ranker", self.model).item_vectors, any(table.sparse for table in self.tables)
        loss = next_item_loss(query, vectors, target, catalogue, self.negatives, self.sampled_loss, by_row)
        return {self.name: loss}


def sampled_loss(config: NextItemConfig) -> SampledLoss | None:
    """The configured loss over sampled negatives; None if the loss is over all items."""
    match config.loss:
        case NextItemLoss.cross_entropy:
            return None
        case NextItemLoss.sampled_softmax:
            return sampled_softmax
        case NextItemLoss.bce:
            return bce
        case NextItemLoss.gbce:
            return partial(gbce, calibration=config.calibration)
        case NextItemLoss.bpr:
            return bpr
        case NextItemLoss.bpr_max:
            return partial(bpr_max, score_l2=config.score_l2)


@register("next_item", kind="trainer")
class NextItemTrainer(Trainer):
    batch_type = WindowBatch
    predicts_labels = False
    config: NextItemConfig

    def training_batches(self, batches: Batches) -> Batches:
        """Windows of events. Raises DataError if no user has two events to learn from."""
        windows = Windows(batches)
        if not windows.n_targets:
            raise DataError("no user has training events of two timestamps, so there is no next item to learn.")
        tied = f", {windows.n_tied:,} of them not told apart from the event before by time" if windows.n_tied else ""
        logger.info("next   %s windows, %s next items%s", f"{len(windows.begin):,}", f"{windows.n_targets:,}", tied)
        return cast("Batches", windows)  # to the loop they are batches

    def stages(self, model: nn.Module) -> list[Stage]:
        """The model's stages; those trained by gradient get the next-item loss."""
        return [stage if isinstance(stage, Fit) else self._with_next_item_loss(stage) for stage in stages(model)]

    def _with_next_item_loss(self, stage: Train) -> Train:
        trained = tuple(f"model.{prefix}" for prefix in stage.trained)
        return replace(stage, model=NextItem(stage.model, self.config), trained=trained)

    def weights(self, config: Config) -> dict[str, float]:
        return {self.config.loss.name: 1.0}

    def _validate(self, model: nn.Module, batches: Batches) -> Metrics | None:
        return self.rank(model, batches, "valid").metrics if batches.size("valid") else None

    def _result(self, task: Task, progress: Progress) -> Result:
        with self._divergence_explained(task, progress):
            valid = self._validate(task.model, task.batches)
            ranking = self.rank(task.model, task.batches, "test")
        return Result(progress, valid, ranking.metrics, None, ranking)

    def rank(self, model: nn.Module, batches: Batches, split: str) -> Ranking:
        eval_batches = cast("Windows", batches).batches
        try:
            return super().rank(model.model if isinstance(model, NextItem) else model, eval_batches, split)
        except FloatingPointError as error:
            raise Diverged(str(error)) from error

    @property
    def _on_graph(self) -> bool:
        return False
