"""A leaderboard as a table: cells for people, values for programs."""

from dataclasses import asdict
from typing import Any

from recexp.metric.figure import more_is_better, shown
from recexp.report.format import Table
from recexp.report.leaderboard import Leaderboard, Row
from recexp.report.setting import text
from recexp.report.statistics import EXACT, Difference, Estimate


def to_table(board: Leaderboard) -> Table:
    """The rows of a leaderboard as cells and as values."""
    metric, *others = board.columns
    compared = ["difference", "p"] if board.baseline else []
    head = [*(board.keys or ["setting"]), "n", metric, "95 %", *compared, *others]
    figures = {name: head.index(name, len(board.keys)) for name in board.columns}
    return Table(
        head=head,
        cells=[_cells(row, board) for row in board.rows],
        values=[_values(row, board) for row in board.rows],
        notes=board.notes,
        about={"metric": metric, "baseline": board.baseline.name if board.baseline else None},
        best=frozenset((row, at) for name, at in figures.items() for row in _best(name, board.rows)),
    )


def _cells(row: Row, board: Leaderboard) -> list[str]:
    metric, *others = board.columns
    setting = [text(row.setting[key]) if key in row.setting else "-" for key in board.keys] or [row.name]
    figure = row.figures.get(metric)
    ranked = [str(figure.n), _mean(metric, figure), _interval(metric, figure)] if figure else ["0", "-", "-"]
    compared = _compared(row, board) if board.baseline else []
    return [*setting, *ranked, *compared, *(_mean(name, row.figures.get(name)) for name in others)]


def _compared(row: Row, board: Leaderboard) -> list[str]:
    if row is board.baseline:
        return ["baseline", "-"]
    if not (found := row.difference):
        return ["-", "-"]
    mean = shown(board.metric, found.mean, "+")
    return [mean if found.p is None else f"{mean} {_interval(board.metric, found)}", _p(found)]


def _p(found: Difference) -> str:
    if found.p_corrected is None:
        return "exact" if found.pairing == EXACT else "-"
    return "<0.001" if found.p_corrected < 0.001 else f"{found.p_corrected:.3f}"


def _interval(name: str, found: Estimate | Difference) -> str:
    return "-" if found.low is None else f"[{shown(name, found.low)}, {shown(name, found.high)}]"


def _mean(name: str, figure: Estimate | None) -> str:
    """Mean and deviation; a deviation that rounds to 0 is left out."""
    if figure is None:
        return "-"
    spread = shown(name, figure.deviation)
    return shown(name, figure.mean) + (f" ± {spread}" if spread.strip("-0.,") else "")


def _best(name: str, rows: list[Row]) -> list[int]:
    """The rows whose mean nothing beats; none where no value is better than another."""
    means = {index: row.figures[name].mean for index, row in enumerate(rows) if name in row.figures}
    more = more_is_better(name)
    if more is None or len(set(means.values())) < 2:
        return []
    best = max(means.values()) if more else min(means.values())
    return [index for index, mean in means.items() if mean == best]


def _values(row: Row, board: Leaderboard) -> dict[str, Any]:
    """Every number in full: a figure by its name is the mean."""
    found: dict[str, Any] = {key: row.setting.get(key) for key in board.keys} or {"setting": row.name}
    for name in board.columns:
        figure = row.figures.get(name)
        parts = asdict(figure) if figure else dict.fromkeys(Estimate.__dataclass_fields__)
        found[name] = parts.pop("mean")
        found |= {f"{name}.{part}": value for part, value in parts.items()}
    if board.baseline:
        parts = asdict(row.difference) if row.difference else dict.fromkeys(Difference.__dataclass_fields__)
        found["difference"] = parts.pop("mean")
        found |= {f"difference.{part}": value for part, value in parts.items()}
    return found | {"directories": [str(record.path) for record in row.records]}
