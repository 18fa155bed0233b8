"""Metrics of binary prediction, from labels and logits. numpy alone, float64 throughout.

N rows; score is the logit, p = sigmoid(score) the probability; score >= threshold predicts a positive.
Whatever cannot be computed (one class, no rows, no users) is None beside its reason, never 0 or NaN.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

# All that trainer.monitor and objective may name. gauc_users and predicted_observed, reported beside these,
# have no better direction.
HIGHER_IS_BETTER: dict[str, bool] = {
    "auc": True,
    "gauc": True,
    "logloss": False,
    "accuracy": True,
    "precision": True,
    "recall": True,
    "f1": True,
    "accuracy@best": True,
    "precision@best": True,
    "recall@best": True,
    "f1@best": True,
    "ece": False,
}
N_BINS = 10  # of ece, equally wide
RATES = ("accuracy", "precision", "recall", "f1")


@dataclass(frozen=True)
class Metrics:
    """Every metric by name, and for each None among them why it could not be computed."""

    values: dict[str, float | None]
    reasons: dict[str, str]


def evaluate(
    label: ArrayLike, score: ArrayLike, user: ArrayLike | None = None, threshold: float | None = None
) -> Metrics:
    """All metrics of (N,) labels 0 or 1 and (N,) logits.

    user: (N,) ids, for gauc. threshold: the logit at which the `@best` metrics cut, which is `best_threshold`
    of the validation part, whichever part is evaluated here.
    Raises ValueError for scores that are not finite, labels other than 0 and 1, or lengths that differ.
    """
    positive, score = _checked(label, score)
    found: dict[str, float | str] = {"auc": _auc(positive, score)}
    found["gauc"], found["gauc_users"] = _gauc(positive, score, user)
    found["logloss"] = _logloss(positive, score)
    found |= _confusion(positive, score >= 0)  # a probability of 0.5 is a logit of 0
    if threshold is None:
        found |= {f"{name}@best": "no threshold from the validation part" for name in RATES}
    else:
        found |= {f"{name}@best": rate for name, rate in _confusion(positive, score >= threshold).items()}
    found["ece"], found["predicted_observed"] = _calibration(positive, score)
    return Metrics(
        values={name: None if isinstance(value, str) else float(value) for name, value in found.items()},
        reasons={name: value for name, value in found.items() if isinstance(value, str)},
    )


def best_threshold(label: ArrayLike, score: ArrayLike) -> float | None:
    """The score that as threshold gives the highest F1 of all cuts; the highest such; None without positives.

    Raises ValueError as `evaluate` does.
    """
    positive, score = _checked(label, score)
    if not positive.any():
        return None
    order = np.argsort(-score, kind="stable")
    ranked = score[order]
    last = np.append(ranked[1:] != ranked[:-1], True)  # a cut goes through no tie
    true_positive = np.cumsum(positive[order])[last]
    predicted = np.flatnonzero(last) + 1
    f1 = 2 * true_positive / (predicted + positive.sum())
    return float(ranked[last][np.argmax(f1)])


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
    """AUC and number of rows of each group, in the groups' order; NaN where a group lacks a class.

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
    below = np.cumsum(tie_negative) - tie_negative  # negatives of lower score, earlier groups' included
    below -= np.repeat(below[first_tie], np.diff(np.append(first_tie, len(ties))))
    twice_won = np.add.reduceat(tie_positive * (2 * below + tie_negative), first_tie)
    n_positive, n_rows = np.add.reduceat(positive, groups), np.diff(np.append(groups, len(score)))
    pairs = n_positive * (n_rows - n_positive)
    return np.where(pairs > 0, twice_won / np.maximum(2 * pairs, 1), np.nan), n_rows


def _one_class(positive: np.ndarray) -> str | None:
    """Why these labels allow no AUC, if they don't."""
    if not len(positive):
        return "no rows"
    return f"one class only: every label is {int(positive[0])}" if positive.all() or not positive.any() else None


def _auc(positive: np.ndarray, score: np.ndarray) -> float | str:
    if reason := _one_class(positive):
        return reason
    return auc_by_group(positive, score, np.zeros(len(score), np.int8))[0][0]


def _gauc(positive: np.ndarray, score: np.ndarray, user: ArrayLike | None) -> tuple[float | str, float | str]:
    """AUC within users with both classes, weighted by their rows, and such users' share (Zhu, KDD 2017)."""
    if user is None:
        return "no users", "no users"
    user = np.asarray(user)
    if user.shape != score.shape:
        raise ValueError(f"user must be (N,) as score is; got {user.shape} and {score.shape}.")
    if not len(score):
        return "no rows", "no rows"
    auc, n_rows = auc_by_group(positive, score, user)
    covered = ~np.isnan(auc)
    if not covered.any():
        return "no user has both classes", 0.0
    return np.average(auc[covered], weights=n_rows[covered]), covered.mean()


def _logloss(positive: np.ndarray, score: np.ndarray) -> float | str:
    """Mean of log(1 + exp(-s)) for positives and of log(1 + exp(s)) for negatives: no log of a rounded 0."""
    return np.logaddexp(0, np.where(positive, -score, score)).mean() if len(score) else "no rows"


def _confusion(positive: np.ndarray, predicted: np.ndarray) -> dict[str, float | str]:
    n_hit, n_positive, n_predicted = (int(np.sum(part)) for part in (positive & predicted, positive, predicted))
    if not len(positive):
        return dict.fromkeys(RATES, "no rows")
    return {
        "accuracy": np.mean(positive == predicted),
        "precision": n_hit / n_predicted if n_predicted else "no row is predicted positive",
        "recall": n_hit / n_positive if n_positive else "no label is 1",
        "f1": 2 * n_hit / (n_positive + n_predicted) if n_positive else "no label is 1",
    }


def _calibration(positive: np.ndarray, score: np.ndarray) -> tuple[float | str, float | str]:
    """Expected calibration error over bins [0, .1), ... [.9, 1], and mean prediction over label rate."""
    if not len(score):
        return "no rows", "no rows"
    p = np.exp(-np.logaddexp(0, -score))
    bins = np.minimum((p * N_BINS).astype(np.int64), N_BINS - 1)
    gap = np.bincount(bins, positive, N_BINS) - np.bincount(bins, p, N_BINS)
    ece = np.abs(gap).sum() / len(score)
    return ece, p.mean() / positive.mean() if positive.any() else "no label is 1"
