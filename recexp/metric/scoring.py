"""Scoring a model over a split."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from recexp.dataset.batch import Batch, Batches
from recexp.dataset.log import Dataset, Log
from recexp.metric.binary import NO_ROWS, NO_USERS, Metrics, Predictions, best_threshold, evaluate
from recexp.metric.table import PREDICTION_METRICS, of_label, rank_metric
from recexp.model import reads_history


@dataclass(frozen=True)
class Scores:
    """Logits of a split's samples, in order, and what else metrics need, as numpy arrays (n,).

    If there are several labels, `tasks` holds the labels and logits of each by name.
    """

    labels: np.ndarray
    logits: np.ndarray
    users: np.ndarray | None  # a number for each user, in a log the row of its users; None if they are not known
    items: np.ndarray | None
    tasks: dict[str, "Task"] = field(default_factory=dict)

    def by_label(self) -> "dict[str, Scores]":
        """The scores of each label by name, for the rows that have the label. A single label has the name ""."""
        return {name: self.of(task) for name, task in self.tasks.items()} or {"": self}

    def of(self, task: "Task") -> "Scores":
        users, items = (None if column is None else column[task.known] for column in (self.users, self.items))
        return Scores(task.labels[task.known], task.logits[task.known], users, items)


@dataclass(frozen=True)
class Task:
    """One of several labels: (n,) labels, -1 where missing, and logits."""

    labels: np.ndarray
    logits: np.ndarray

    @property
    def known(self) -> np.ndarray:
        """(n,) bool."""
        return self.labels >= 0


def score(
    model: nn.Module, batches: Batches, split: str, batch_size: int, precision: AbstractContextManager | None = None
) -> Scores:
    """The model's logits for all samples of a split, in evaluation mode. precision: autocast, if any.

    Raises FloatingPointError if some are not finite.
    """
    model.eval()
    with torch.inference_mode(), precision or nullcontext():
        parts = [
            (batch.label, model(batch).all_logits.double(), batch.user, batch.target, batch.tasks)
            for batch in batches.epoch(split, batch_size, histories=reads_history(model))
        ]
    label, logit, user, item, task = (torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True))
    if broken := int((~np.isfinite(logit)).sum()):
        raise FloatingPointError(f"{broken:,} of {logit.size:,} scores of {split} are not finite")
    users_of, items_of = (user, item) if batches.max_history else (batches.users_of(split), None)
    return scores_of(label, logit, users_of, items_of, batches.task_names, task)


def scores_of(
    label: np.ndarray,
    logit: np.ndarray,
    user: np.ndarray | None,
    item: np.ndarray | None,
    names: Sequence[str],
    labels: np.ndarray | None,
) -> Scores:
    """Scores from logits (n,); or from logits (n, T) of several labels, with their names and values (n, T)."""
    if not names:
        return Scores(label, logit, user, item)
    assert labels is not None
    tasks = {name: Task(labels[:, n], logit[:, n]) for n, name in enumerate(names)}
    return Scores(label, logit[:, 0], user, item, tasks)


def predict(model: nn.Module, batches: Iterable[Batch], precision: AbstractContextManager | None = None) -> np.ndarray:
    """The model's logits (n,) of all samples of some batches, in evaluation mode, as float64; of T labels (n, T).

    Raises FloatingPointError if some are not finite.
    """
    model.eval()
    with torch.inference_mode(), precision or nullcontext():
        logits = np.concatenate([model(batch).all_logits.double().cpu().numpy() for batch in batches])
    if broken := int((~np.isfinite(logits)).sum()):
        raise FloatingPointError(f"{broken:,} of {logits.size:,} scores are not finite")
    return logits


def probability(logits: np.ndarray) -> np.ndarray:
    """The probability of label 1, which is the score in predictions.parquet and in all predictions."""
    return 1 / (1 + np.exp(-logits))


def evaluate_held_out(
    model: nn.Module, batches: Batches, batch_size: int, precision: AbstractContextManager | None = None
) -> tuple[Metrics | None, Metrics, Scores]:
    """Metrics of valid and, at the threshold that is best on valid, of test; and the scores of test."""
    valid, thresholds = evaluate_split(model, batches, "valid", batch_size, precision)
    scores = score(model, batches, "test", batch_size, precision)
    return valid, measured(scores, thresholds), scores


def measured(scores: Scores, thresholds: Mapping[str, float | None]) -> Metrics:
    """All metrics; of several labels those of each, as auc/like. thresholds: as of `best_thresholds`, on valid."""
    values: dict[str, float | None] = {}
    reasons: dict[str, str] = {}
    for label, part in scores.by_label().items():
        metrics = evaluate(part.labels, part.logits, part.users, thresholds.get(label))
        values |= {of_label(name, label): value for name, value in metrics.values.items()}
        reasons |= {of_label(name, label): reason for name, reason in metrics.reasons.items()}
    return Metrics(values, reasons)


def best_thresholds(scores: Scores) -> dict[str, float | None]:
    """The best threshold of each label by name. A single label has the name ""."""
    return {label: best_threshold(part.labels, part.logits) for label, part in scores.by_label().items()}


def undefined(name: str, dataset: Dataset, sampled: bool) -> str | None:
    """Why a metric of the validation split cannot be computed whatever a model predicts; None if it can.

    sampled: whether sampled negatives stand beside each event.
    """
    log = dataset.log
    rows = log.rows("valid")
    if rank_metric(name):
        return (None if len(rows) else NO_ROWS) if isinstance(log, Log) else NO_USERS
    name, _, task = name.partition("/")
    if task:
        labels = log.tasks[:, dataset.schema.tasks.index(task)]  # type: ignore[index]  # there are tasks
        rows = rows[labels[rows] >= 0]
    else:
        labels = log.label
    label = np.repeat(labels[rows], 2) * np.tile([1, 0], len(rows)) if sampled else labels[rows]
    user = None if log.user is None else np.repeat(log.user[rows], 1 + sampled)
    score = np.zeros(len(label))
    value = PREDICTION_METRICS[name].compute(Predictions(label == 1, score, user, best_threshold(label, score)))
    return value if isinstance(value, str) else None


def evaluate_split(
    model: nn.Module, batches: Batches, split: str, batch_size: int, precision: AbstractContextManager | None = None
) -> tuple[Metrics | None, dict[str, float | None]]:
    """Metrics of a split, and `best_thresholds` on it; None and no thresholds if the split has no rows."""
    if not batches.size(split):
        return None, {}
    scores = score(model, batches, split, batch_size, precision)
    thresholds = best_thresholds(scores)
    return measured(scores, thresholds), thresholds
