"""Every metric once: its name, direction, digits and how it is computed.

Everything that computes, shows, sorts, monitors or compares metrics reads them here. A new metric is one entry and the
function it names. Imports neither numpy nor torch, so that `recexp --help` starts fast.
"""

import math
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, TypeGuard

SCORED = ("valid", "test", "oracle")  # prefixes of prediction metrics: test.auc
DIGITS = 4


@dataclass(frozen=True)
class Metric:
    """One metric, as everything that handles it needs to know it."""

    name: str
    function: str | None = None  # "module:function" in recexp.metric; None if training measures it
    higher_is_better: bool | None = None  # None if neither direction is better
    digits: int = DIGITS  # shown after the decimal point
    at_best: bool = False  # positives are predicted at the threshold best on valid, not at a probability of 0.5
    headline: bool = False  # shown after every epoch, in curves and in leaderboards
    summary: bool = False  # shown with the headline metrics when a run ends
    cost: bool = False  # what a run took; shown in leaderboards
    cutoff: int | None = None  # K of a metric of rankings

    @property
    def sign(self) -> int:
        """What values are multiplied by so that higher is better."""
        return 1 if self.higher_is_better else -1

    def compute(self, predictions: Any) -> float | str:
        """The metric's value, or the reason why it has none. predictions: Ranks, for a metric of rankings."""
        assert self.function is not None
        module, _, name = self.function.partition(":")
        function = getattr(import_module(f"recexp.metric.{module}"), name)
        return function(predictions) if self.cutoff is None else function(predictions, self.cutoff)


PREDICTION_METRICS = {
    metric.name: metric
    for metric in (
        Metric("auc", "binary:auc", higher_is_better=True, headline=True),
        Metric("gauc", "binary:gauc", higher_is_better=True, headline=True),
        Metric("gauc_users", "binary:gauc_users"),
        Metric("logloss", "binary:logloss", higher_is_better=False, headline=True),
        Metric("accuracy", "binary:accuracy", higher_is_better=True),
        Metric("precision", "binary:precision", higher_is_better=True),
        Metric("recall", "binary:recall", higher_is_better=True),
        Metric("f1", "binary:f1", higher_is_better=True),
        Metric("accuracy@best", "binary:accuracy", higher_is_better=True, at_best=True, summary=True),
        Metric("precision@best", "binary:precision", higher_is_better=True, at_best=True),
        Metric("recall@best", "binary:recall", higher_is_better=True, at_best=True),
        Metric("f1@best", "binary:f1", higher_is_better=True, at_best=True, summary=True),
        Metric("ece", "binary:ece", higher_is_better=False, summary=True),
        Metric("predicted_observed", "binary:predicted_observed"),
    )
}
TRAINING_METRICS = {
    metric.name: metric
    for metric in (
        Metric("best_epoch", digits=0),
        Metric("epochs", digits=0),
        Metric("parameters", higher_is_better=False, digits=0, cost=True),
        Metric("seconds", higher_is_better=False, digits=1, cost=True),
        Metric("samples_per_second", higher_is_better=True, digits=0),
        Metric("peak_memory_mb", higher_is_better=False, digits=0, cost=True),
    )
}
RUN_METRICS = {**TRAINING_METRICS, "share_of_oracle": Metric("share_of_oracle", higher_is_better=True)}
# What trainer.monitor and objective may name.
MONITORED = {name: metric for name, metric in PREDICTION_METRICS.items() if metric.higher_is_better is not None}
HEADLINE = tuple(name for name, metric in PREDICTION_METRICS.items() if metric.headline)
SUMMARY = tuple(name for name, metric in PREDICTION_METRICS.items() if metric.headline or metric.summary)
MAIN = HEADLINE[0]  # the default where none is chosen
# Metrics of rankings, as in ndcg@10/all, of all known items, and ndcg@10/sampled100, of some beside the relevant ones.
RANKED = ("hr", "recall", "ndcg", "mrr", "map")
RANK_NAME = re.compile(rf"({'|'.join(RANKED)}|coverage(?=@\d+/all))@([1-9]\d{{0,4}})/(all|sampled[1-9]\d{{0,4}})")
COSTS = tuple(name for name, metric in TRAINING_METRICS.items() if metric.cost)


def rank_metric(name: str) -> Metric | None:
    """The metric of rankings of this name; None if it is no such name."""
    if not (match := RANK_NAME.fullmatch(name)):
        return None
    headline = match[1] in ("hr", "ndcg")
    return Metric(name, f"ranking:{match[1]}", higher_is_better=True, headline=headline, cutoff=int(match[2]))


def rank_names(cutoffs: Iterable[int], protocol: str | None = "all") -> list[str]:
    """The metrics of rankings at some cutoffs; none without a protocol."""
    return [f"{name}@{k}/{protocol}" for k in sorted(set(cutoffs)) for name in RANKED] if protocol else []


def coverage_name(k: int) -> str:
    """The name of coverage, which is defined for rankings of all items only."""
    return f"coverage@{k}/all"


def of_label(name: str, label: str) -> str:
    """The name of a metric of one of several labels, as auc/like; the name itself if there is one label, ""."""
    return f"{name}/{label}" if label else name


def of_labels(names: Iterable[str], labels: Iterable[str]) -> list[str]:
    """The names of metrics, of each of several labels if there are any."""
    names = list(names)
    return [of_label(name, label) for label in labels for name in names] or names


def of_first_label(name: str, labels: Sequence[str]) -> str:
    """The full name of a metric: without a label in its name, it is that of the first of several labels."""
    return of_label(name, labels[0]) if labels and name in MONITORED else name


def label_metric(name: str) -> Metric | None:
    """The metric of one of several labels, as auc/like; None if it is no such name."""
    base, _, label = name.partition("/")
    metric = PREDICTION_METRICS.get(base)
    return replace(metric, name=name) if metric and label else None


def among(names: Iterable[str], chosen: Collection[str]) -> list[str]:
    """The names that are one of the chosen metrics, of any label."""
    return [name for name in names if name.partition("/")[0] in chosen]


def prediction_metric(name: str) -> Metric | None:
    """The metric of this name that is computed on a split; None if there is none."""
    return PREDICTION_METRICS.get(name) or rank_metric(name) or label_metric(name)


def headline(names: Iterable[str]) -> list[str]:
    """The headline metrics among the names."""
    return [name for name in names if (metric := prediction_metric(name)) and metric.headline]


def find(name: str) -> Metric | None:
    """The metric of a dotted name such as test.auc, train.target (a loss) or seconds; None for any other key."""
    prefix, dot, last = name.partition(".")
    if not dot:
        return RUN_METRICS.get(name)
    if prefix == "train":
        return Metric(last, higher_is_better=False)
    return (prediction_metric(last) or Metric(last)) if prefix in SCORED else None


def higher_is_better(name: str) -> bool | None:
    """The direction of a dotted name; None if it has no better direction."""
    metric = find(name)
    return metric.higher_is_better if metric else None


def format_value(name: str, value: float | None, sign: str = "") -> str:
    """The value of a dotted name as people read it. sign: "+" for differences."""
    if value is None:
        return "-"
    metric = find(name)
    digits = metric.digits if metric else DIGITS
    thousands = "," if digits < DIGITS else ""
    return f"{value:{sign}z{thousands}.{digits}f}"


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
