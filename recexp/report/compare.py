"""How two runs differ in configuration and metrics, and whether the difference is significant."""

from typing import TYPE_CHECKING, Any

from recexp.error import RunError
from recexp.metric.table import RANK_NAME, RANKED, TRAINING_METRICS, format_value, is_number, of_label
from recexp.report.setting import short, text
from recexp.run.record import Record

if TYPE_CHECKING:
    import pandas as pd

    from recexp.report.bootstrap import Change

# The costs of training, and last its speed, for which higher is better.
TRAINING = sorted(TRAINING_METRICS, key=lambda name: TRAINING_METRICS[name].sign)


def configuration(a: Record, b: Record) -> list[list[str]]:
    """[key, in A, in B] for each key that differs, without the runs' locations."""
    keys = [key for key in dict.fromkeys([*a.config, *b.config]) if not key.startswith("run.")]
    cells = [[short(key), *(text(run.config[key]) if key in run.config else "-" for run in (a, b))] for key in keys]
    return [[key, in_a, in_b] for key, in_a, in_b in cells if in_a != in_b]


def metrics(a: Record, b: Record, changes: "dict[str, Change]") -> list[list[str]]:
    """[metric, in A, in B, difference, interval, p] for test metrics, the monitored valid metric and TRAINING."""
    monitored = f"valid.{a.config.get('trainer.monitor')}"
    known = dict.fromkeys([*a.metrics, *b.metrics])
    names = [name for name in known if name.startswith("test.")] + [monitored, *TRAINING]
    return [_line(name, a.metrics.get(name), b.metrics.get(name), changes.get(name)) for name in names if name in known]


def tested(a: Record, b: Record, n_draws: int) -> "tuple[dict[str, Change], str]":
    """Changes of test metrics by name, and how they were tested. Raises RunError for predictions of different rows."""
    ranked = [name for name in rank_names_of(a) if name in rank_names_of(b)]
    labels, of_labels = _labels_tested(a, b, n_draws)
    if not ranked:
        return labels, of_labels
    from recexp.report import ranking  # numpy and pandas

    changes, of_rankings = ranking.compared(a, b, ranked, n_draws)
    named = {f"test.{name}": change for name, change in changes.items()}
    return labels | named, f"{of_labels}\n{of_rankings}" if labels else of_rankings


def rank_names_of(record: Record) -> list[str]:
    """A run's test metrics of rankings that are means over users."""
    names = [name.removeprefix("test.") for name, value in record.metrics.items() if is_number(value)]
    return [name for name in names if RANK_NAME.fullmatch(name) and name.partition("@")[0] in RANKED]


def _labels_tested(a: Record, b: Record, n_draws: int) -> "tuple[dict[str, Change], str]":
    """As `tested`, of the metrics of labels."""
    in_a, in_b = a.by_label(), b.by_label()
    if not in_a or not in_b:
        return {}, f"no p: {(b if in_a else a).path} has no predictions.parquet to read"
    from recexp.report import bootstrap  # numpy

    if in_a.keys() != in_b.keys():
        labels_a, labels_b = (", ".join(labels) or "one label" for labels in (in_a, in_b))
        raise RunError(f"predictions of other labels: {labels_a} in {a.path}, {labels_b} in {b.path}.")
    changes: dict[str, Change] = {}
    for name, first in in_a.items():
        second = in_b[name]
        require_same_rows(a, first, b, second)
        unit = first["user"].to_numpy() if "user" in first else None
        label, score_a, score_b = (column.to_numpy() for column in (first["label"], first["score"], second["score"]))
        by_metric = bootstrap.compare(label, score_a, score_b, unit, n_draws)
        changes |= {f"test.{of_label(metric, name)}": change for metric, change in by_metric.items()}
    units = f"{len(first):,} rows" if unit is None else f"{first['user'].nunique():,} users, each with all its rows"
    remark = f"95 % and p: paired bootstrap, {n_draws:,} draws of the {units}, in test."
    return changes, remark


def require_same_rows(a: Record, first: "pd.DataFrame", b: Record, second: "pd.DataFrame") -> None:
    """Raises RunError unless both predict the same rows with the same labels, in the same order."""
    keys = [name for name in first.columns if name != "score"]
    if sorted(first.columns) != sorted(second.columns) or len(first) != len(second):
        raise RunError(f"predictions of other rows: {len(first)} in {a.path}, {len(second)} in {b.path}.")
    differs = (first[keys] != second[keys]).any(axis=1).to_numpy()
    if differs.any():
        row = int(differs.argmax())
        in_a, in_b = (" ".join(f"{key}={frame.at[row, key]!s}" for key in keys) for frame in (first, second))
        raise RunError(f"predictions of other rows: row {row} is {in_a} in {a.path} and {in_b} in {b.path}.")


def _line(name: str, a: Any, b: Any, change: "Change | None") -> list[str]:
    a, b = (value if is_number(value) else None for value in (a, b))
    difference = None if a is None or b is None else b - a
    interval = f"[{format_value(name, change.low)}, {format_value(name, change.high)}]" if change else ""
    p = f"{change.p:.3f}" if change else ""
    return [name, format_value(name, a), format_value(name, b), format_value(name, difference, "+"), interval, p]
