"""Paired bootstrap by user: how the difference of two models' metrics varies with the users in the test split.

N rows of U units (users, or the rows themselves); a draw is U units drawn with replacement, each with all its rows, the
same for both models. Rows are sorted only once, so a draw costs no more than sums over N weights.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from recexp.metric.binary import auc_by_group

MIN_UNITS = 10  # resampling fewer does not tell how other units would vary
SMALLEST = 1e-15  # the probability that logloss uses for a score of 0


@dataclass(frozen=True)
class Sample:
    """One model's predictions, prepared for weighting."""

    unit: np.ndarray  # (N,) int, 0 to U - 1
    positive_unit: np.ndarray  # (P,) unit of each positive, from the lowest score to the highest
    negative_unit: np.ndarray  # (N - P,) unit of each negative, likewise
    below: np.ndarray  # (P,) number of negatives with a lower score
    up_to: np.ndarray  # (P,) number of negatives with a lower or the same score
    loss: np.ndarray  # (U,) sum of log losses
    rows: np.ndarray  # (U,) number of rows
    own_auc: np.ndarray  # (U,) AUC within the unit, 0 if it lacks a class
    own_rows: np.ndarray  # (U,) number of rows if the unit has both classes, else 0


@dataclass(frozen=True)
class Change:
    """Second model's metric minus the first's: over all rows, and its 95 % interval and p over draws."""

    difference: float
    low: float
    high: float
    p: float


def compare(
    label: np.ndarray, first: np.ndarray, second: np.ndarray, unit: np.ndarray | None, n_draws: int, seed: int = 0
) -> dict[str, Change]:
    """The change in each metric from the first to the second model's scores, probabilities (N,).

    unit: (N,) ids; None: each row is a unit, and there is no gauc. A metric is left out if it cannot be computed on the
    rows or in more than a tenth of the draws, or if it rests on fewer than MIN_UNITS units.
    """
    _, index = np.unique(unit, return_inverse=True) if unit is not None else (None, np.arange(len(label)))
    samples = [prepare(label, score, index) for score in (first, second)]
    n_units = len(samples[0].rows)
    n_covered = {"gauc": int(np.count_nonzero(samples[0].own_rows))}  # other metrics rest on all units
    all_rows = _changes(samples, np.ones(n_units))
    draws = [_changes(samples, weight) for weight in weights(n_units, n_draws, seed)]
    changes = {}
    for name, difference in all_rows.items():
        drawn = np.array([draw[name] for draw in draws])
        drawn = drawn[np.isfinite(drawn)]
        enough = n_covered.get(name, n_units) >= MIN_UNITS and len(drawn) >= 0.9 * n_draws
        if enough and np.isfinite(difference):
            changes[name] = _change(difference, drawn)
    return changes


def of_means(differences: dict[str, np.ndarray], n_draws: int, seed: int = 0) -> dict[str, Change]:
    """The change in metrics that are means over units, from the difference (U,) of each unit, by name."""
    if not differences or len(next(iter(differences.values()))) < MIN_UNITS:
        return {}
    of_units = np.stack(list(differences.values()), 1)  # (U, metrics)
    n_units = len(of_units)
    drawn = np.stack([weight @ of_units / n_units for weight in weights(n_units, n_draws, seed)])
    return {name: _change(float(values.mean()), drawn[:, n]) for n, (name, values) in enumerate(differences.items())}


def _changes(samples: list[Sample], weight: np.ndarray) -> dict[str, float]:
    first, second = (metrics(sample, weight) for sample in samples)
    return {name: second[name] - first[name] for name in first}


def prepare(label: np.ndarray, score: np.ndarray, unit: np.ndarray) -> Sample:
    """unit: (N,) int from 0."""
    positive = label == 1
    order = np.argsort(score, kind="stable")
    positives, negatives = order[positive[order]], order[~positive[order]]
    n_units = int(unit.max()) + 1
    p = np.clip(np.where(positive, score, 1 - score), SMALLEST, None)
    own_auc, own_rows = auc_by_group(positive, score, unit)
    return Sample(
        unit=unit,
        positive_unit=unit[positives],
        negative_unit=unit[negatives],
        below=np.searchsorted(score[negatives], score[positives], side="left"),
        up_to=np.searchsorted(score[negatives], score[positives], side="right"),
        loss=np.bincount(unit, -np.log(p), n_units),
        rows=np.bincount(unit, minlength=n_units),
        own_auc=np.nan_to_num(own_auc),
        own_rows=np.where(np.isnan(own_auc), 0, own_rows),
    )


def metrics(sample: Sample, weight: np.ndarray) -> dict[str, float]:
    """The headline metrics, each row weighted as its unit. weight: (U,) float. NaN if a metric cannot be computed."""
    positive = weight[sample.positive_unit]
    negative = np.append(0.0, np.cumsum(weight[sample.negative_unit]))  # total weight of the 0, 1, ... lowest negatives
    won = positive @ (negative[sample.below] + negative[sample.up_to]) / 2  # a tie is half won
    covered = weight * sample.own_rows
    return {
        "auc": _ratio(won, positive.sum() * negative[-1]),
        "gauc": _ratio(covered @ sample.own_auc, covered.sum()),
        "logloss": _ratio(weight @ sample.loss, weight @ sample.rows),
    }


def weights(n_units: int, n_draws: int, seed: int) -> Iterator[np.ndarray]:
    """How often each unit is drawn, (U,) float per draw."""
    random = np.random.default_rng(seed)
    for _ in range(n_draws):
        yield np.bincount(random.integers(n_units, size=n_units), minlength=n_units).astype(np.float64)


def _ratio(value: float, by: float) -> float:
    return float(value / by) if by else float("nan")


def _change(difference: float, drawn: np.ndarray) -> Change:
    """Percentile interval, and the p at which one of its ends would be 0; 1 is added so that p is never 0."""
    low, high = np.quantile(drawn, [0.025, 0.975])
    fewer = min((drawn <= 0).sum(), (drawn >= 0).sum())
    return Change(difference, float(low), float(high), float(min(1.0, 2 * (1 + fewer) / (1 + len(drawn)))))
