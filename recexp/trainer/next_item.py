"""The trainer of next items: a sample is a user's window, every event of which predicts the item of the next one.

It trains models that give a vector for each event's state and for each known item, or pairs of such queries and items
of their own choice (`pairs` of recexp/model), and validates by ranking all items.
All else is the default trainer's.
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
from recexp.layer.ranking import Negatives, Sampled, bce, bpr, bpr_max, gbce, next_item_loss, sampled_softmax
from recexp.metric.binary import Metrics
from recexp.metric.full_ranking import Ranking
from recexp.model import Fit, Ranker, Stage, pairs, stages
from recexp.registry import register
from recexp.trainer.default import Result, Task, Trainer
from recexp.trainer.divergence import Diverged
from recexp.trainer.optimizer import of_items, rowwise_tables
from recexp.trainer.state import Progress

logger = logging.getLogger(__name__)


class NextItem(nn.Module):
    """A ranking model with the loss of next items, in the place of a model and its own losses."""

    def __init__(self, model: nn.Module, config: NextItemConfig) -> None:
        super().__init__()
        self.model, self.name, self.sampled = model, config.loss.name, sampled(config)
        of = config.negatives
        self.negatives = Negatives(of.n, of.shared, of.popular, of.logq)
        self.tables = [table for table in rowwise_tables(model) if of_items(table)]

    def forward(self, batch: WindowBatch) -> tuple[Tensor, Tensor]:
        """The query (P, D) of each pair, and the row of its item (P,)."""
        return pairs(self.model, batch)

    def losses(self, output: tuple[Tensor, Tensor], batch: WindowBatch) -> dict[str, Tensor]:
        (query, target), catalogue = output, batch.catalogue
        target = catalogue.items.ids[target, 0]
        vectors, by_row = cast("Ranker", self.model).item_vectors, any(table.sparse for table in self.tables)
        loss = next_item_loss(query, vectors, target, catalogue, self.negatives, self.sampled, by_row)
        return {self.name: loss}


def sampled(config: NextItemConfig) -> Sampled | None:
    """The configured loss of sampled negatives; None if it is over all items."""
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

    def walked(self, batches: Batches) -> Batches:
        """Windows. Raises DataError if no user has two events to learn from."""
        windows = Windows(batches)
        if not windows.n_targets:
            raise DataError("no user has training events of two timestamps, so there is no next item to learn.")
        tied = f", {windows.n_tied:,} of them not told apart from the event before by time" if windows.n_tied else ""
        logger.info("next   %s windows, %s next items%s", f"{len(windows.begin):,}", f"{windows.n_targets:,}", tied)
        return cast("Batches", windows)  # to the loop they are batches

    def stages(self, model: nn.Module) -> list[Stage]:
        """The model's stages, those trained by gradient with the loss of next items."""
        return [stage if isinstance(stage, Fit) else self._next(stage) for stage in stages(model)]

    def _next(self, stage: Stage) -> Stage:
        assert not isinstance(stage, Fit)
        trained = tuple(f"model.{prefix}" for prefix in stage.trained)
        return replace(stage, model=NextItem(stage.model, self.config), trained=trained)

    def weights(self, config: Config) -> dict[str, float]:
        return {self.config.loss.name: 1.0}

    def _validate(self, model: nn.Module, batches: Batches) -> Metrics | None:
        return self.ranked(model, batches, "valid").metrics if batches.size("valid") else None

    def _result(self, task: Task, progress: Progress) -> Result:
        with self._explained(task, progress):
            valid = self._validate(task.model, task.batches)
            ranking = self.ranked(task.model, task.batches, "test")
        return Result(progress, valid, ranking.metrics, None, ranking)

    def ranked(self, model: nn.Module, batches: Batches, split: str) -> Ranking:
        of_rows = cast("Windows", batches).batches
        try:
            return super().ranked(model.model if isinstance(model, NextItem) else model, of_rows, split)
        except FloatingPointError as error:
            raise Diverged(str(error)) from error

    @property
    def _on_graph(self) -> bool:
        return False
