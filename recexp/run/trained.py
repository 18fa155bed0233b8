"""A trained model loaded back from its run directory, which is all it takes to predict and evaluate on raw ids."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
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
from recexp.dataset.facts import unknown_rates
from recexp.dataset.given import FrameTable, Rows, column_names, read_rows
from recexp.dataset.log import Dataset, Log
from recexp.dataset.merge import History, MergedRows, extended, merge, refuse_own_events
from recexp.dataset.prepare import load
from recexp.dataset.schema import FIRST, Side
from recexp.dataset.table_file import TableFile
from recexp.error import ConfigError, DataError, Failure, choices
from recexp.metric.full_ranking import evaluate_ranking
from recexp.metric.item_scores import ItemScores
from recexp.metric.scoring import (
    Scores,
    evaluate_held_out,
    evaluate_split,
    measured,
    predict,
    probability,
    score,
    scores_of,
)
from recexp.metric.table import of_label
from recexp.metric.top import Top
from recexp.model import create, reads_context, reads_history, search_of
from recexp.run.calibration import calibrated, require_calibration
from recexp.run.directory import check_data
from recexp.run.recommend import best_items, seen_items
from recexp.run.record import read
from recexp.run.status import ENDED
from recexp.trainer.checkpoint import load_trained
from recexp.trainer.loop import numerics, progress_bar
from recexp.trainer.step import autocast

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)
NO_PAIRS = np.zeros((0, 2), np.int32)
NOTHING_SEEN = NO_PAIRS[:, 0], NO_PAIRS[:, 1]
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
        return read_rows(table, self.dataset, self.config.dataset, labelled=labelled, needed=self._needed)

    @property
    def _needed(self) -> tuple[str, ...]:
        """The sides whose features rows must have, since the run does not keep them."""
        return ("context",) if reads_context(self.model) else ()

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
        try:
            with numerics(self.config.trainer):
                size = self.config.trainer.eval_batch_size
                return score(self.model, self.held_out, split, size, self._precision())
        except FloatingPointError as error:
            raise Failure(str(error)) from error

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
        tasks = NO_PAIRS if rows.tasks is None else rows.tasks
        scores = scores_of(rows.label, logits, users, None, self.dataset.schema.tasks, tasks)
        return measured(scores, self._thresholds()).values

    def recommend(
        self,
        users: "pd.DataFrame | Sequence[Any] | None" = None,
        k: int = 10,
        items: "pd.DataFrame | Sequence[Any] | None" = None,
        keep_seen: bool = False,
    ) -> "pd.DataFrame":
        """The k best items of each user: user, item, rank from 1, and score, the probability of label 1.

        users: ids, or a frame with a column of them and, if the model reads any, one for each feature of the context; a
        column of times says for when to recommend, by default after all known events; the result then has it, named
        timestamp. All users by default. items: the ones to choose from, ids or a frame of new ones with features; by
        default all, or those of the training split after trainer=next_item. keep_seen: recommend what a user has
        already had too. Raises ConfigError or DataError.
        """
        import pandas as pd

        if not isinstance(k, int | np.integer) or k < 1:
            raise ConfigError(f"k = {k}: must be a whole number, 1 or more.")
        tables = [self._table(given, side) for given, side in ((users, "user"), (items, "item"))]
        pieces = self.recommendations(tables[0], k, tables[1], keep_seen)
        return pd.concat(list(pieces), ignore_index=True)

    def recommendations(
        self, users: TableFile | None, k: int, items: TableFile | None = None, keep_seen: bool = False
    ) -> "Iterator[pd.DataFrame]":
        """As `recommend`, a block of users at a time."""
        given, candidates, times = self._users_and_candidates(users, items)
        return self.best_of(given, candidates, k, keep_seen, times)

    def best_of(
        self,
        given: MergedRows,
        candidates: np.ndarray,
        k: int,
        keep_seen: bool = False,
        times: np.ndarray | None = None,
    ) -> "Iterator[pd.DataFrame]":
        """The k best of some rows (N,) of items for the user of each row given, a block of users at a time.

        times: of the rows given, to stand beside their users.
        """
        import pandas as pd

        log, earlier = given.dataset.log, self.dataset.earlier
        assert isinstance(log, Log)
        batches = Batches(given.dataset, self.config.dataset, self.device, given.known, search_of(self.model))
        chosen = torch.from_numpy(candidates).to(self.device)
        size = self.config.trainer.eval_batch_size
        with numerics(self.config.trainer):
            scores = ItemScores(self.model, batches, "test", chosen, size, self._precision())
        with progress_bar(0, len(given.row), "recommend") as bar:
            for start in range(0, len(given.row), scores.block):
                rows = given.row[start : start + scores.block]
                seen = NOTHING_SEEN if keep_seen else seen_items(log, NO_PAIRS if earlier is None else earlier, rows)
                user, item, rank, logit = self._best(scores, rows, k, seen).listed()
                moment = {} if times is None else {"timestamp": times[start + user]}
                yield pd.DataFrame({
                    "user": log.users.raw[log.user[rows[user]]], **moment, "item": log.items.raw[item],
                    "rank": rank, "score": probability(logit),
                })  # fmt: skip
                bar.update(len(rows))

    def _best(self, scores: ItemScores, rows: np.ndarray, k: int, seen: tuple[np.ndarray, np.ndarray]) -> Top:
        with numerics(self.config.trainer):
            try:
                return best_items(scores, torch.from_numpy(rows.astype(np.int32)).to(self.device), k, seen)
            except FloatingPointError as error:
                raise Failure(str(error)) from error

    def _users_and_candidates(
        self, users: TableFile | None, items: TableFile | None
    ) -> tuple[MergedRows, np.ndarray, np.ndarray | None]:
        """The users merged with the kept events, the rows (N,) of the items to choose from, and the users' times."""
        config, dataset = self.config.dataset, self.dataset
        log = dataset.log
        if not isinstance(log, Log):
            raise ConfigError(f"{self.path}: was trained on a table, which has no users to recommend to.")
        needed = [name for name in dataset.encoder.context.fields if name not in config.features.derived.names]
        reads_time = bool(config.features.derived.time and self._needed)
        if reads_time:
            needed.append(column_names(config)["timestamp"])
        if users is None and needed and self._needed:
            names = ", ".join(needed)
            raise ConfigError(f"users: a score depends on {names}; give a frame or FILE of users with these columns.")
        roles, optional = (("user", "timestamp"), ()) if reads_time else (("user",), ("timestamp",))
        rows = read_rows(
            users or self._all_users(), dataset, config, roles, ("user", "context"), optional, needed=self._needed
        )
        times = None if rows.timestamp is None else rows.frame[column_names(config)["timestamp"]].to_numpy()
        if rows.timestamp is None:
            rows = replace(rows, timestamp=np.repeat(int(log.timestamp.max()) + 1, len(rows.frame)))
        table, candidates = log.items, np.arange(1, len(log.items.raw))
        if items is not None:
            chosen = read_rows(items, dataset, config, ("item",), ("item",), ())
            table, index = extended(log.items, dataset.encoder.item, "item", chosen.item, chosen.features["item"])
            dataset, candidates = replace(dataset, log=replace(log, items=table)), np.unique(index)
        if isinstance(self.config.trainer, NextItemConfig):  # as in its metrics: an item without a vector has no score
            ranked = candidates[table.ids[candidates, 0] >= FIRST]
            if items is not None and len(ranked) < len(candidates):
                _warn_of_unranked(items, len(candidates), len(candidates) - len(ranked))
            candidates = ranked
        merged = merge(dataset, rows, config, History.saved)
        self._log_unknown(merged)
        return merged, candidates.astype(np.int64), times

    def _all_users(self) -> FrameTable:
        assert isinstance(self.dataset.log, Log)
        table = self._table(self.dataset.log.users.raw[1:], "user")
        assert isinstance(table, FrameTable)
        return table

    def _table(self, given: Any, side: str) -> FrameTable | None:
        """Ids, or a frame with a column of them, as a table."""
        import pandas as pd

        if given is None or isinstance(given, pd.DataFrame):
            return given if given is None else FrameTable(given, f"{side}s")
        if np.ndim(given) == 0:
            raise ConfigError(f"{side}s = {given!r}: must be a frame or a list of ids, as [{given!r}].")
        return FrameTable(pd.DataFrame({column_names(self.config.dataset)[side]: given}), f"{side}s")

    def _evaluate_split(self, split: str) -> dict[str, float | None]:
        require_held_out(split)
        config, batches, values = self.config.trainer, self.held_out, {}
        size, precision = config.eval_batch_size, self._precision()
        with numerics(config):
            if not isinstance(config, NextItemConfig):
                if split == "valid":
                    metrics = evaluate_split(self.model, batches, split, size, precision)[0]
                else:
                    metrics = evaluate_held_out(self.model, batches, size, precision)[1]
                values = metrics.values if metrics else {}
            if config.ranking.protocol:
                values |= evaluate_ranking(
                    self.model, batches, split, config.ranking, size, precision, split == "test"
                ).metrics.values
        return values

    def _thresholds(self) -> dict[str, float | None]:
        with numerics(self.config.trainer):
            size = self.config.trainer.eval_batch_size
            return evaluate_split(self.model, self.held_out, "valid", size, self._precision())[1]

    def scores_of(self, given: MergedRows) -> np.ndarray:
        """The probability of label 1 of rows that are merged with the run's events already."""
        return probability(self._logits(given))

    def _logits(self, given: MergedRows) -> np.ndarray:
        """The logits (n,) of the rows given; of T labels (n, T)."""
        batches = Batches(given.dataset, self.config.dataset, self.device, given.known, search_of(self.model))
        rows = torch.from_numpy(given.row.astype(np.int32)).to(self.device)
        longest = None if reads_history(self.model) else 0
        with numerics(self.config.trainer), progress_bar(0, len(rows), "predict") as bar:

            def gathered() -> Iterator[Batch]:
                for part in rows.split(self.config.trainer.eval_batch_size):
                    yield batches.gather(Samples(part), "test", longest)
                    bar.update(len(part))

            try:
                return predict(self.model, gathered(), self._precision())
            except FloatingPointError as error:
                raise Failure(str(error)) from error

    def _precision(self) -> AbstractContextManager:
        return autocast(self.config.trainer, self.device)

    def _log_unknown(self, given: MergedRows) -> None:
        """Logs how many values are unknown to the model; warns if times seem to be in another unit."""
        kept, log = self.dataset.log, given.dataset.log
        if isinstance(kept, Log) and isinstance(log, Log) and len(kept):
            times = (kept.timestamp, log.timestamp[given.row])
            low, high, first, last = (float(bound) for column in times for bound in (column.min(), column.max()))
            if last > 100 * abs(high) or 100 * abs(last) < low:
                logger.warning(
                    "times reach from %g to %g, those of the run from %g to %g: another unit?", first, last, low, high
                )
        schema = self.dataset.schema
        context = schema.context if reads_context(self.model) else Side()
        sides = {"user": schema.user, "item": schema.item, "context": context}
        rates = unknown_rates(given.dataset.log, given.row, sides)
        if unknown := [f"{name} in {rate * len(given.row):,.0f}" for name, rate in rates if rate]:
            logger.info("unknown to the model, of %s rows: %s", f"{len(given.row):,}", ", ".join(unknown))


def _warn_of_unranked(items: TableFile, n: int, n_unranked: int) -> None:
    """Warns that n_unranked of n items have no rank. Raises DataError if that is all of them."""
    message = f"{n_unranked:,} of {n:,} items are not in the training split, so this model ranks none"
    if n_unranked == n:
        raise DataError(f"{items.path}: {message}.")
    logger.warning("%s: %s of them.", items.path, message)


def require_held_out(split: str) -> None:
    """Raises ConfigError for another split than valid and test."""
    if split not in HELD_OUT:
        raise ConfigError(f"split = {split}: no split with metrics. {choices(split, HELD_OUT)}")


def history_of(name: str) -> History:
    """Raises ConfigError for any other name."""
    if name not in History.__members__:
        raise ConfigError(f"history = {name}: no such choice. {choices(name, History.__members__)}")
    return History[name]
