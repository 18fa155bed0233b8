"""Runs as a table, a row each."""

from typing import Any

from recexp.metric.figure import is_figure, is_number, shown
from recexp.report import select
from recexp.report.format import Table
from recexp.report.setting import text
from recexp.run.record import Record


def to_table(records: list[Record], columns: list[str]) -> Table:
    """A row a run: its state, the columns, its directory."""
    head = list(dict.fromkeys(["state", *columns, "directory"]))
    values = [{name: _value(record, name) for name in head} for record in records]
    cells = [[_cell(name, value) for name, value in row.items()] for row in values]
    return Table(head=head, cells=cells, values=values, notes=[])


def _value(record: Record, name: str) -> Any:
    """Of a run that is not finished, the epochs so far and the best of their valid figures."""
    if (value := select.value(record, name)) is not None or record.metrics:
        return value
    if name == "epochs":
        return len(record.epochs())
    part, _, metric = name.partition(".")
    found = [line["valid"].get(metric) for line in record.epochs()] if part == "valid" else []
    return min(filter(is_number, found), key=lambda value: select.rank(name, value), default=None)


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    return shown(name, value) if is_number(value) and is_figure(name) else text(value)
