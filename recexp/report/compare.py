"""Two runs: how they differ in configuration and metrics, and whether their predictions really do."""

from typing import TYPE_CHECKING, Any

from recexp.error import RunError
from recexp.metric.figure import COST, is_number, shown
from recexp.report.setting import short, text
from recexp.run.record import Record

if TYPE_CHECKING:
    import pandas as pd

    from recexp.report.bootstrap import Change

FIGURES = ("best_epoch", "epochs", *COST, "samples_per_second")


def configuration(a: Record, b: Record) -> list[list[str]]:
    """[key, in A, in B] wherever they differ, the runs' own places apart."""
    keys = [key for key in dict.fromkeys([*a.config, *b.config]) if not key.startswith("run.")]
    cells = [[short(key), *(text(run.config[key]) if key in run.config else "-" for run in (a, b))] for key in keys]
    return [[key, one, other] for key, one, other in cells if one != other]


def figures(a: Record, b: Record, changes: "dict[str, Change]") -> list[list[str]]:
    """[figure, in A, in B, difference, interval, p] of all test figures, the valid figure monitored, and cost."""
    monitored = f"valid.{a.config.get('trainer.monitor')}"
    known = dict.fromkeys([*a.metrics, *b.metrics])
    names = [name for name in known if name.startswith("test.")] + [monitored, *FIGURES]
    return [_line(name, a.metrics.get(name), b.metrics.get(name), changes.get(name)) for name in names if name in known]


def tested(a: Record, b: Record, n_draws: int) -> "tuple[dict[str, Change], str]":
    """Changes of test figures by name, and what they are. Raises RunError for predictions of other rows."""
    first, second = a.predictions(), b.predictions()
    if first is None or second is None:
        return {}, f"no p: {(a if first is None else b).path} has no predictions.parquet"
    from recexp.report import bootstrap  # numpy

    require_same_rows(a, first, b, second)
    unit = first["user"].to_numpy() if "user" in first else None
    label, one, other = (column.to_numpy() for column in (first["label"], first["score"], second["score"]))
    found = bootstrap.compare(label, one, other, unit, n_draws)
    units = f"{len(first):,} rows" if unit is None else f"{first['user'].nunique():,} users, each with all its rows"
    told = f"95 % and p: paired bootstrap, {n_draws:,} draws of the {units}, in test."
    return {f"test.{name}": change for name, change in found.items()}, told


def require_same_rows(a: Record, first: "pd.DataFrame", b: Record, second: "pd.DataFrame") -> None:
    """Raises RunError unless both predict the same rows with the same labels, in the same order."""
    keys = [name for name in first.columns if name != "score"]
    if sorted(first.columns) != sorted(second.columns) or len(first) != len(second):
        raise RunError(f"predictions of other rows: {len(first)} in {a.path}, {len(second)} in {b.path}.")
    differs = (first[keys] != second[keys]).any(axis=1).to_numpy()
    if differs.any():
        row = int(differs.argmax())
        told = [" ".join(f"{key}={frame.at[row, key]!s}" for key in keys) for frame in (first, second)]
        raise RunError(f"predictions of other rows: row {row} is {told[0]} in {a.path} and {told[1]} in {b.path}.")


def _line(name: str, a: Any, b: Any, change: "Change | None") -> list[str]:
    one, other = (value if is_number(value) else None for value in (a, b))
    difference = None if one is None or other is None else other - one
    interval = f"[{shown(name, change.low)}, {shown(name, change.high)}]" if change else ""
    p = f"{change.p:.3f}" if change else ""
    return [name, shown(name, one), shown(name, other), shown(name, difference, "+"), interval, p]
