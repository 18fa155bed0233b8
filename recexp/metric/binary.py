"""Metrics of binary prediction, from labels and logits. Only numpy, float64 throughout.

N rows; score is the logit, p = sigmoid(score) the probability; score >= threshold predicts a positive.
A metric is a function from Predictions to a value, or to the reason why there is none (one class, no rows, no users):
never 0 or NaN instead.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from recexp.metric.table import PREDICTION_METRICS

N_BINS = 10  # of ece, equally wide
NO_ROWS, NO_USERS = "no rows", "no users"


@dataclass(frozen=True)
class Metrics:
    """Metrics by name, and the reason for each that is None."""

    values: dict[str, float | None]
    reasons: dict[str, str]

    def merged(self, others: "Metrics") -> "Metrics":
        """These metrics, then others of the same split."""
        return Metrics(self.values | others.values, self.reasons | others.reasons)


@dataclass(frozen=True)
class Predictions:
    """Labels and scores of N rows, with what several metrics share computed once."""

    positive: np.ndarray  # (N,) bool, the labels
    score: np.ndarray  # (N,) float64, logits
    user: np.ndarray | None  # (N,) ids
    threshold: float | None  # of the score; None if the validation split gave none

    @cached_property
    def probability(self) -> np.ndarray:
        """(N,)"""
        return np.exp(-np.logaddexp(0, -self.score))

    @cached_property
    def auc_by_user(self) -> tuple[np.ndarray, np.ndarray]:
        """AUC and number of rows of each user."""
        assert self.user is not None
        return auc_by_group(self.positive, self.score, self.user)

    @cached_property
    def predicted(self) -> np.ndarray:
        """(N,) bool: the rows predicted to be positive."""
        assert self.threshold is not None
        return self.score >= self.threshold

    @cached_property
    def counts(self) -> tuple[int, int, int]:
        """Numbers of true positives, of positive labels and of rows predicted positive."""
        true_positive = self.positive & self.predicted
        return int(np.sum(true_positive)), int(np.sum(self.positive)), int(np.sum(self.predicted))


def evaluate(
    label: ArrayLike, score: ArrayLike, user: ArrayLike | None = None, threshold: float | None = None
) -> Metrics:
    """All prediction metrics of (N,) labels 0 or 1 and (N,) logits.

    user: (N,) ids, for gauc. threshold: the logit at which the `@best` metrics predict a positive, which is
    `best_threshold` of the validation split, whichever split is evaluated here.
    Raises ValueError for scores that are not finite, labels other than 0 and 1, or lengths that differ.
    """
    positive, score = _checked(label, score)
    user = None if user is None else np.asarray(user)
    if user is not None and user.shape != score.shape:
        raise ValueError(f"user must be (N,) as score is; got {user.shape} and {score.shape}.")
    at_half = Predictions(positive, score, user, threshold=0.0)  # a probability of 0.5 is a logit of 0
    at_best = replace(at_half, threshold=threshold)
    results = {
        name: metric.compute(at_best if metric.at_best else at_half) for name, metric in PREDICTION_METRICS.items()
    }
    return Metrics(
        values={name: None if isinstance(value, str) else float(value) for name, value in results.items()},
        reasons={name: value for name, value in results.items() if isinstance(value, str)},
    )


def best_threshold(label: ArrayLike, score: ArrayLike) -> float | None:
    """The threshold with the highest F1, the highest such score in a tie; None without positives.

    Raises ValueError as `evaluate` does.
    """
    positive, score = _checked(label, score)
    if not positive.any():
        return None
    order = np.argsort(-score, kind="stable")
    ranked = score[order]
    last_of_tie = np.append(ranked[1:] != ranked[:-1], True)  # a threshold divides no tie
    true_positive = np.cumsum(positive[order])[last_of_tie]
    predicted = np.flatnonzero(last_of_tie) + 1
    f1 = 2 * true_positive / (predicted + positive.sum())
    return float(ranked[last_of_tie][np.argmax(f1)])


def _checked(label: ArrayLike, score: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Labels as (N,) bool, scores as (N,) float64."""
    label, score = np.asarray(label), np.asarray(score, dtype=np.float64)
    if label.ndim != 1 or label.shape != score.shape:
        raise ValueError(f"label and score must be (N,) both; got {label.shape} and {score.shape}.")
    if wrong := int(np.sum(~np.isfinite(score))):
        raise ValueError(f"{wrong} of {len(score)} scores are not finite.")
    positive = label == 1
    if wrong := int(np.sum(~positive & (label != 0))):
        raise ValueError(f"{wrong} of {len(label)} labels are neither 0 nor 1.")
    return positive, score


def auc_by_group(positive: np.ndarray, score: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUC and number of rows of each group, in the groups' order; NaN for a group that lacks a class.

    AUC = P(s+ > s-) + P(s+ = s-) / 2, counted in integers: exact under ties and in any order of rows.
    """
    order = np.lexsort((score, group))
    positive, score, group = positive[order].astype(np.int64), score[order], group[order]
    starts_group = np.append(True, group[1:] != group[:-1])
    starts_tie = starts_group | np.append(True, score[1:] != score[:-1])
    ties, groups = np.flatnonzero(starts_tie), np.flatnonzero(starts_group)
    tie_positive = np.add.reduceat(positive, ties)
    tie_negative = np.add.reduceat(1 - positive, ties)
    first_tie = np.flatnonzero(starts_group[ties])  # of each group
    below = np.cumsum(tie_negative) - tie_negative  # negatives of a lower score, including those of earlier groups
    below -= np.repeat(below[first_tie], np.diff(np.append(first_tie, len(ties))))
    twice_won = np.add.reduceat(tie_positive * (2 * below + tie_negative), first_tie)
    n_positive, n_rows = np.add.reduceat(positive, groups), np.diff(np.append(groups, len(score)))
    pairs = n_positive * (n_rows - n_positive)
    return np.where(pairs > 0, twice_won / np.maximum(2 * pairs, 1), np.nan), n_rows


def auc(predictions: Predictions) -> float | str:
    positive, score = predictions.positive, predictions.score
    if not len(positive):
        return NO_ROWS
    if positive.all() or not positive.any():
        return f"one class only: every label is {int(positive[0])}"
    return auc_by_group(positive, score, np.zeros(len(score), np.int8))[0][0]


def gauc(predictions: Predictions) -> float | str:
    """AUC within users with both classes, weighted by their rows (Zhu et al., KDD 2017)."""
    if reason := _no_users(predictions):
        return reason
    auc, n_rows = predictions.auc_by_user
    covered = ~np.isnan(auc)
    return np.average(auc[covered], weights=n_rows[covered]) if covered.any() else "no user has both classes"


def gauc_users(predictions: Predictions) -> float | str:
    """The share of users with both classes, whom gauc covers."""
    return _no_users(predictions) or (~np.isnan(predictions.auc_by_user[0])).mean()


def logloss(predictions: Predictions) -> float | str:
    """Mean of log(1 + exp(-s)) for positives and of log(1 + exp(s)) for negatives: no log of a rounded 0."""
    positive, score = predictions.positive, predictions.score
    return np.logaddexp(0, np.where(positive, -score, score)).mean() if len(score) else NO_ROWS


def accuracy(predictions: Predictions) -> float | str:
    return _no_threshold(predictions) or np.mean(predictions.positive == predictions.predicted)


def precision(predictions: Predictions) -> float | str:
    if reason := _no_threshold(predictions):
        return reason
    n_true, _, n_predicted = predictions.counts
    return n_true / n_predicted if n_predicted else "no row is predicted positive"


def recall(predictions: Predictions) -> float | str:
    if reason := _no_threshold(predictions):
        return reason
    n_true, n_positive, _ = predictions.counts
    return n_true / n_positive if n_positive else "no label is 1"


def f1(predictions: Predictions) -> float | str:
    if reason := _no_threshold(predictions):
        return reason
    n_true, n_positive, n_predicted = predictions.counts
    return 2 * n_true / (n_positive + n_predicted) if n_positive else "no label is 1"


def ece(predictions: Predictions) -> float | str:
    """Expected calibration error over bins of probability [0, .1), ... [.9, 1]."""
    p = predictions.probability
    if not len(p):
        return NO_ROWS
    bins = np.minimum((p * N_BINS).astype(np.int64), N_BINS - 1)
    gap = np.bincount(bins, predictions.positive, N_BINS) - np.bincount(bins, p, N_BINS)
    return np.abs(gap).sum() / len(p)


def predicted_observed(predictions: Predictions) -> float | str:
    """Mean predicted probability over the rate of label 1."""
    positive = predictions.positive
    if not len(positive):
        return NO_ROWS
    return predictions.probability.mean() / positive.mean() if positive.any() else "no label is 1"


def _no_users(predictions: Predictions) -> str | None:
    """Why there is no AUC by user."""
    if predictions.user is None:
        return NO_USERS
    return None if len(predictions.score) else NO_ROWS


def _no_threshold(predictions: Predictions) -> str | None:
    """Why no row is predicted to be positive or negative."""
    if predictions.threshold is None:
        return "no threshold from the validation split"
    return None if len(predictions.score) else NO_ROWS
