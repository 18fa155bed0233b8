"""Scoring a model over a split."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from recexp.dataset.batch import Batch, Batches
from recexp.dataset.log import Dataset, Log
from recexp.metric.binary import NO_ROWS, NO_USERS, Metrics, Predictions, best_threshold, evaluate
from recexp.metric.table import PREDICTION_METRICS, rank_metric
from recexp.model import reads_history


@dataclass(frozen=True)
class Scores:
    """Logits of a split's samples, in order, and what else metrics need, as numpy arrays (n,)."""

    labels: np.ndarray
    logits: np.ndarray
    users: np.ndarray | None  # a number for each user, in a log the row of its users; None if they are not known
    items: np.ndarray | None


def score(
    model: nn.Module, batches: Batches, split: str, batch_size: int, precision: AbstractContextManager | None = None
) -> Scores:
    """The model's logits for all samples of a split, in evaluation mode. precision: autocast, if any.

    Raises FloatingPointError if some are not finite.
    """
    model.eval()
    labels, logits, users, items = [], [], [], []
    with torch.inference_mode(), precision or nullcontext():
        for batch in batches.epoch(split, batch_size, histories=reads_history(model)):
            logits.append(model(batch).logits.double())
            labels.append(batch.label)
            users.append(batch.user)
            items.append(batch.target)
    label, logit, user, item = (torch.cat(column).cpu().numpy() for column in (labels, logits, users, items))
    if broken := int((~np.isfinite(logit)).sum()):
        raise FloatingPointError(f"{broken:,} of {len(logit):,} scores of {split} are not finite")
    if not batches.max_history:  # a table
        return Scores(label, logit, batches.users_of(split), None)
    return Scores(label, logit, user, item)


def predict(model: nn.Module, batches: Iterable[Batch], precision: AbstractContextManager | None = None) -> np.ndarray:
    """The model's logits for all samples of some batches, in evaluation mode, as float64.

    Raises FloatingPointError if some are not finite.
    """
    model.eval()
    with torch.inference_mode(), precision or nullcontext():
        logits = np.concatenate([model(batch).logits.double().cpu().numpy() for batch in batches])
    if broken := int((~np.isfinite(logits)).sum()):
        raise FloatingPointError(f"{broken:,} of {len(logits):,} scores are not finite")
    return logits


def probability(logits: np.ndarray) -> np.ndarray:
    """What predictions.parquet and all later predictions hold as the score."""
    return 1 / (1 + np.exp(-logits))


def evaluate_held_out(
    model: nn.Module, batches: Batches, batch_size: int, precision: AbstractContextManager | None = None
) -> tuple[Metrics | None, Metrics, Scores]:
    """Metrics of valid and, at the threshold that is best on valid, of test; and the scores of test."""
    valid, threshold = evaluate_split(model, batches, "valid", batch_size, precision)
    scores = score(model, batches, "test", batch_size, precision)
    return valid, evaluate(scores.labels, scores.logits, scores.users, threshold), scores


def undefined(name: str, dataset: Dataset, sampled: bool) -> str | None:
    """Why a metric of the validation split cannot be computed whatever a model predicts; None if it can.

    sampled: whether sampled negatives stand beside each event.
    """
    log = dataset.log
    rows = log.rows("valid")
    if rank_metric(name):
        return (None if len(rows) else NO_ROWS) if isinstance(log, Log) else NO_USERS
    label = np.repeat(log.label[rows], 2) * np.tile([1, 0], len(rows)) if sampled else log.label[rows]
    user = None if log.user is None else np.repeat(log.user[rows], 1 + sampled)
    score = np.zeros(len(label))
    value = PREDICTION_METRICS[name].compute(Predictions(label == 1, score, user, best_threshold(label, score)))
    return value if isinstance(value, str) else None


def evaluate_split(
    model: nn.Module, batches: Batches, split: str, batch_size: int, precision: AbstractContextManager | None = None
) -> tuple[Metrics | None, float | None]:
    """Metrics of a split, and the threshold that is best on it; None for both if the split has no rows."""
    if not batches.size(split):
        return None, None
    scores = score(model, batches, split, batch_size, precision)
    threshold = best_threshold(scores.labels, scores.logits)
    return evaluate(scores.labels, scores.logits, scores.users, threshold), threshold
