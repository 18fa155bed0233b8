"""A leaderboard as a table: cells for people, which the page uses too, and values for programs."""

from dataclasses import asdict
from typing import Any

from recexp.metric.table import format_value, higher_is_better
from recexp.report.format import Table
from recexp.report.leaderboard import Leaderboard
from recexp.report.protocol import protocol
from recexp.report.row import Row
from recexp.report.setting import text
from recexp.report.statistics import EXACT, Difference, Estimate


def to_table(board: Leaderboard) -> Table:
    """The rows of a leaderboard as cells and as values."""
    before, others = around(board)
    compared = ["difference", "p"] if board.baseline else []
    head = [*(board.keys or ["setting"]), "n", *before, board.metric, "95 %", *compared, *others]
    one_question = len({protocol(record) for row in board.rows for record in row.records}) == 1
    columns = {name: head.index(name, len(board.keys)) for name in board.columns if one_question}
    return Table(
        title=board.order,
        head=head,
        cells=[_cells(row, board) for row in board.rows],
        values=[_values(row, board) for row in board.rows],
        notes=board.notes,
        about={
            "metric": board.metric,
            "ranked_by": board.ranked_by,
            "baseline": board.baseline.name if board.baseline else None,
        },
        best=frozenset((row, column) for name, column in columns.items() for row in _best(name, board.rows)),
    )


def around(board: Leaderboard) -> tuple[list[str], list[str]]:
    """The columns that stand before the metric, and those after it."""
    index = board.columns.index(board.metric)
    return board.columns[:index], board.columns[index + 1 :]


def mean_cell(name: str, estimate: Estimate | None) -> str:
    """Mean and deviation over seeds."""
    return format_value(name, estimate.mean) + deviation_cell(name, estimate) if estimate else "-"


def deviation_cell(name: str, estimate: Estimate) -> str:
    """The deviation that follows the mean; empty if it rounds to 0."""
    deviation = format_value(name, estimate.deviation)
    return f" ± {deviation}" if deviation.strip("-0.,") else ""


def interval_cell(name: str, interval: Estimate | Difference, sign: str = "") -> str:
    if interval.low is None:
        return "-"
    return f"[{format_value(name, interval.low, sign)}, {format_value(name, interval.high, sign)}]"


def p_cell(difference: Difference) -> str:
    """p, corrected for the number of comparisons."""
    if difference.p_corrected is None:
        return "exact" if difference.pairing == EXACT else "-"
    return "<0.001" if difference.p_corrected < 0.001 else f"{difference.p_corrected:.3f}"


def _cells(row: Row, board: Leaderboard) -> list[str]:
    metric, (before, others) = board.metric, around(board)
    setting = [text(row.setting[key]) if key in row.setting else "-" for key in board.keys] or [row.name]
    estimate = row.metrics.get(metric)
    n, interval = (str(estimate.n), interval_cell(metric, estimate)) if estimate else ("0", "-")
    compared = _compared(row, board) if board.baseline else []
    first, last = ([mean_cell(name, row.metrics.get(name)) for name in names] for names in (before, others))
    return [*setting, n, *first, mean_cell(metric, estimate), interval, *compared, *last]


def _compared(row: Row, board: Leaderboard) -> list[str]:
    if row is board.baseline:
        return ["baseline", "-"]
    if not (difference := row.difference):
        return ["-", "-"]
    mean = format_value(board.metric, difference.mean, "+")
    interval = "" if difference.p is None else f" {interval_cell(board.metric, difference)}"
    return [mean + interval, p_cell(difference)]


def _best(name: str, rows: list[Row]) -> list[int]:
    """The rows whose mean is not beaten; none if no value is better than another."""
    means = {index: row.metrics[name].mean for index, row in enumerate(rows) if name in row.metrics}
    direction = higher_is_better(name)
    if direction is None or len(set(means.values())) < 2:
        return []
    best = max(means.values()) if direction else min(means.values())
    return [index for index, mean in means.items() if mean == best]


def _values(row: Row, board: Leaderboard) -> dict[str, Any]:
    """Every number in full; a metric's mean stands under its plain name."""
    values: dict[str, Any] = {key: row.setting.get(key) for key in board.keys} or {"setting": row.name}
    for name in board.columns:
        values |= _expanded(name, row.metrics.get(name), Estimate)
    if board.baseline:
        values |= _expanded("difference", row.difference, Difference)
    return values | {"directories": [str(record.path) for record in row.records]}


def _expanded(name: str, estimate: Estimate | Difference | None, kind: type[Estimate | Difference]) -> dict[str, Any]:
    """The fields of an estimate or a difference, the mean under the plain name; all None if there is none."""
    fields = asdict(estimate) if estimate else dict.fromkeys(kind.__dataclass_fields__)
    return {name: fields.pop("mean"), **{f"{name}.{field}": value for field, value in fields.items()}}
