"""A trained model loaded back from its run directory, which is all it takes to predict and evaluate on raw ids."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from recexp.config import Config, NextItemConfig
from recexp.dataset import artifact
from recexp.dataset.batch import Batch, Batches, Samples
from recexp.dataset.config import LabelKind
from recexp.dataset.given import FrameTable, Rows, read_rows
from recexp.dataset.log import Dataset, Log
from recexp.dataset.merge import MergedRows, history_of, log_unknown, merge, refuse_own_events, warn_of_other_times
from recexp.dataset.prepare import load
from recexp.dataset.schema import Side
from recexp.dataset.table_file import TableFile
from recexp.error import ConfigError, Failure, choices
from recexp.metric.binary import Metrics
from recexp.metric.full_ranking import evaluate_ranking
from recexp.metric.item_scores import ItemScores
from recexp.metric.scoring import Scores, evaluate_split, measured, predict, probability, score, scores_of
from recexp.metric.table import of_label
from recexp.model import create, reads_context, reads_history, search_of
from recexp.run.calibration import calibrated, require_calibration
from recexp.run.directory import check_data
from recexp.run.recommend import NOTHING_SEEN, Request, best_items, read_request, seen_items, table_of
from recexp.run.record import read
from recexp.run.status import ENDED
from recexp.trainer.checkpoint import load_trained
from recexp.trainer.loop import numerics, progress_bar
from recexp.trainer.step import autocast

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)
HELD_OUT = ("valid", "test")


class Trained:
    """The model of a run, with the weights of its best epoch."""

    def __init__(self, path: Path, config: Config, device: torch.device) -> None:
        """Raises RunError if the run has no trained model, or a file of it is damaged."""
        self.path, self.config, self.device = path, config, device
        self.record = read(path)
        self.dataset: Dataset = artifact.load(path / "encoder")
        self.model: nn.Module = create(config.model, self.dataset.schema).to(device)
        progress = load_trained(path / "checkpoints", self.model, device)
        if self.record.state not in ENDED:
            logger.warning("%s is %s: its best epoch so far is %d.", path, self.record.state, progress.best_epoch)

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """Of metrics.json, by dotted name as test.auc."""
        return self.record.metrics

    @cached_property
    def epochs(self) -> "pd.DataFrame":
        """One row per epoch: its stage, losses, validation metrics and time."""
        import pandas as pd

        return pd.json_normalize(self.record.epochs())

    @cached_property
    def predictions(self) -> "pd.DataFrame | None":
        """The scores of the test rows; None if the run wrote none."""
        return self.record.predictions()

    def predict(
        self, frame: "pd.DataFrame", history: str = "both", calibrate: bool = False
    ) -> "pd.Series | pd.DataFrame":
        """The probability of label 1 for each row of a frame, whose columns are named as in the run's own data.

        With several labels it is a frame with a column for each, as score/like.

        history: `saved`, a row's history is of the events kept with the run; `given`, of the frame's own rows that have
        a label; or `both`. A history holds only what is strictly before the row. calibrate: with the map that `recexp
        calibrate` has fitted. Raises ConfigError, DataError or RunError.
        """
        import pandas as pd

        if frame.empty:
            scores = {name: np.zeros(0) for name in self._score_names}
        else:
            scores = self.scores(self.read(FrameTable(frame)), history, calibrate)
        predictions = pd.DataFrame(scores, frame.index)
        return predictions if self.dataset.schema.tasks else predictions["score"]

    def read(self, table: TableFile, labelled: bool = False) -> Rows:
        """The rows of a file, which needs the features of the context if the model reads them. Raises DataError.

        labelled: each row must have a label.
        """
        needed = ("context",) if reads_context(self.model) else ()  # the run does not keep it
        return read_rows(table, self.dataset, self.config.dataset, labelled=labelled, needed=needed)

    def scores(self, rows: Rows, history: str = "both", calibrate: bool = False) -> dict[str, np.ndarray]:
        """The probability of label 1 of each row, by column name: score, or score/like for each of several labels.

        calibrate: with the map that `recexp calibrate` has fitted; raises RunError if there is none.
        """
        maps = require_calibration(self.path, self.dataset.schema.tasks) if calibrate else []
        given = merge(self.dataset, rows, self.config.dataset, history_of(history))
        self._log_unknown(given)
        logits = self._logits(given)
        columns = logits.reshape(len(logits), -1).T
        if calibrate:
            columns = np.stack([calibrated(column, fitted) for column, fitted in zip(columns, maps, strict=True)])
        return dict(zip(self._score_names, probability(columns), strict=True))

    @property
    def _score_names(self) -> list[str]:
        return [of_label("score", task) for task in self.dataset.schema.tasks or [""]]

    @cached_property
    def held_out(self) -> Batches:
        """The validation and test rows as the run had them.

        The run keeps no rows of a table and no sampled negatives, so these are read from their source again.
        """
        dataset, config = self.dataset, self.config.dataset
        if not isinstance(dataset.log, Log) or config.label is LabelKind.implicit:
            dataset = load(config)
            check_data(self.path, dataset.fingerprint)
        return Batches(dataset, config, self.device, search=search_of(self.model))

    def split_scores(self, split: str) -> Scores:
        """The logits of valid or test, as in evaluation after training. Raises ConfigError for any other split."""
        require_held_out(split)
        with self._inference():
            return score(self.model, self.held_out, split, self.config.trainer.eval_batch_size, self._precision())

    def evaluate(
        self, frame: "pd.DataFrame | None" = None, split: str = "test", history: str = "both"
    ) -> dict[str, float | None]:
        """All metrics: of a split as the run had it, or of a frame of rows that have labels.

        A table keeps no rows with the run, nor are sampled negatives kept: their splits are read from the source again.
        Raises ConfigError, DataError or RunError.
        """
        if frame is None:
            return self._evaluate_split(split)
        return self.evaluate_rows(self.read(FrameTable(frame), labelled=True), history)

    def evaluate_rows(self, rows: Rows, history: str = "both") -> dict[str, float | None]:
        """All metrics of rows that have labels; `@best` ones at the threshold best on the run's validation split.

        Raises DataError if rows without times may be events of their own histories.
        """
        if reads_history(self.model) or self.config.dataset.features.derived.names:
            refuse_own_events(self.dataset, rows, self.config.dataset, history_of(history))
        given = merge(self.dataset, rows, self.config.dataset, history_of(history))
        assert rows.label is not None
        self._log_unknown(given)
        logits, log = self._logits(given), given.dataset.log
        users = None if log.user is None else log.user[given.row]
        scores = scores_of(rows.label, logits, users, None, self.dataset.schema.tasks, rows.tasks)
        return measured(scores, self._validation()[1]).values

    def recommend(
        self,
        users: "pd.DataFrame | Sequence[Any] | None" = None,
        k: int = 10,
        items: "pd.DataFrame | Sequence[Any] | None" = None,
        keep_seen: bool = False,
        label: str | None = None,
    ) -> "pd.DataFrame":
        """The k best items of each user: user, item, rank from 1, and score, the probability of label 1.

        users: ids, or a frame with a column of them and, if the model reads any, one for each feature of the context; a
        column of times says for when to recommend, by default after all known events; the result then has it, named
        timestamp. All users by default. items: the ones to choose from, ids or a frame of new ones with features; by
        default all, or those of the training split after trainer=next_item. keep_seen: recommend what a user has
        already had too. label: of several labels the one that ranks, by default the first. Raises ConfigError or
        DataError.
        """
        import pandas as pd

        if not isinstance(k, int | np.integer) or k < 1:
            raise ConfigError(f"k = {k}: must be a whole number, 1 or more.")
        user_table = None if users is None else table_of(users, "user", self.config)
        item_table = None if items is None else table_of(items, "item", self.config)
        pieces = self.recommendations(user_table, k, item_table, keep_seen, label)
        return pd.concat(list(pieces), ignore_index=True)

    def recommendations(
        self,
        users: TableFile | None,
        k: int,
        items: TableFile | None = None,
        keep_seen: bool = False,
        label: str | None = None,
    ) -> "Iterator[pd.DataFrame]":
        """As `recommend`, a block of users at a time."""
        if not isinstance(self.dataset.log, Log):
            raise ConfigError(f"{self.path}: was trained on a table, which has no users to recommend to.")
        task = self._task(label)
        request = read_request(self.dataset, self.config, reads_context(self.model), users, items)
        self._log_unknown(request.given)
        return self.best_of(request, k, keep_seen, task)

    def _task(self, label: str | None) -> int:
        """The number of one of several labels, 0 if none is named. Raises ConfigError."""
        labels = self.dataset.schema.tasks
        if label is not None and label not in labels:
            why = choices(label, labels) if labels else "The run has one label; name none."
            raise ConfigError(f"label = {label}: no label of {self.path}. {why}")
        return 0 if label is None else labels.index(label)

    def best_of(self, request: Request, k: int, keep_seen: bool = False, task: int = 0) -> "Iterator[pd.DataFrame]":
        """The k best candidates for each user of a request, a block of users at a time. task: the label that ranks."""
        import pandas as pd

        given, log = request.given, request.given.dataset.log
        assert isinstance(log, Log)
        chosen = torch.from_numpy(request.candidates).to(self.device)
        size = self.config.trainer.eval_batch_size
        with self._inference():
            scores = ItemScores(self.model, self._batches(given), "test", chosen, size, self._precision(), task)
        with progress_bar(0, len(given.row), "recommend") as bar:
            for start in range(0, len(given.row), scores.block):
                rows = given.row[start : start + scores.block]
                seen = NOTHING_SEEN if keep_seen else seen_items(log, self.dataset.earlier, rows)
                with self._inference():
                    user, item, rank, logit = best_items(scores, self._on_device(rows), k, seen).listed()
                moment = {} if request.times is None else {"timestamp": request.times[start + user]}
                yield pd.DataFrame({
                    "user": log.users.raw[log.user[rows[user]]], **moment, "item": log.items.raw[item],
                    "rank": rank, "score": probability(logit),
                })  # fmt: skip
                bar.update(len(rows))

    def _evaluate_split(self, split: str) -> dict[str, float | None]:
        require_held_out(split)
        config, ranks_only = self.config.trainer, isinstance(self.config.trainer, NextItemConfig)
        values = {} if ranks_only else self._evaluate_labels(split)
        if config.ranking.protocol is None:
            return values
        size, precision = config.eval_batch_size, self._precision()
        with self._inference():
            ranking = evaluate_ranking(
                self.model, self.held_out, split, config.ranking, size, precision, best=split == "test"
            )
        return values | ranking.metrics.values

    def _evaluate_labels(self, split: str) -> dict[str, float | None]:
        valid, thresholds = self._validation()
        if split == "valid":
            return valid.values if valid else {}
        return measured(self.split_scores(split), thresholds).values

    def _validation(self) -> tuple[Metrics | None, dict[str, float | None]]:
        """Metrics of the validation split, and the best thresholds on it; none if it has no rows."""
        size = self.config.trainer.eval_batch_size
        with self._inference():
            return evaluate_split(self.model, self.held_out, "valid", size, self._precision())

    def probabilities(self, given: MergedRows) -> np.ndarray:
        """The probability of label 1 of rows that are merged with the run's events already."""
        return probability(self._logits(given))

    def _logits(self, given: MergedRows) -> np.ndarray:
        """The logits (n,) of the rows given; of T labels (n, T)."""
        batches, rows = self._batches(given), self._on_device(given.row)
        longest = None if reads_history(self.model) else 0

        def gathered() -> Iterator[Batch]:
            for part in rows.split(self.config.trainer.eval_batch_size):
                yield batches.gather(Samples(part), "test", longest)
                bar.update(len(part))

        with self._inference(), progress_bar(0, len(rows), "predict") as bar:
            return predict(self.model, gathered(), self._precision())

    def _batches(self, given: MergedRows) -> Batches:
        return Batches(given.dataset, self.config.dataset, self.device, given.known, search_of(self.model))

    def _on_device(self, rows: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(rows.astype(np.int32)).to(self.device)

    @contextmanager
    def _inference(self) -> Iterator[None]:
        """The numerics of the run. A score that is not finite is a Failure."""
        try:
            with numerics(self.config.trainer):
                yield
        except FloatingPointError as error:
            raise Failure(str(error)) from error

    def _precision(self) -> AbstractContextManager:
        return autocast(self.config.trainer, self.device)

    def _log_unknown(self, given: MergedRows) -> None:
        warn_of_other_times(self.dataset, given)
        schema = self.dataset.schema
        context = schema.context if reads_context(self.model) else Side()
        log_unknown(given, {"user": schema.user, "item": schema.item, "context": context})


def require_held_out(split: str) -> None:
    """Raises ConfigError for another split than valid and test."""
    if split not in HELD_OUT:
        raise ConfigError(f"split = {split}: no split with metrics. {choices(split, HELD_OUT)}")
