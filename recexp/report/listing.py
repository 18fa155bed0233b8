"""Runs as a table, one row per run."""

from typing import Any

from recexp.metric.table import find, format_value, is_number
from recexp.report import select
from recexp.report.format import Table
from recexp.report.setting import text
from recexp.run.record import Record


def to_table(records: list[Record], columns: list[str]) -> Table:
    """State, the columns named and the directory of each run."""
    head = list(dict.fromkeys(["state", *columns, "directory"]))
    values = [{name: _value(record, name) for name in head} for record in records]
    cells = [[_cell(name, value) for name, value in row.items()] for row in values]
    return Table(head=head, cells=cells, values=values, notes=[])


def _value(record: Record, name: str) -> Any:
    """A run that has not finished shows its epochs so far and their best validation metrics."""
    if (value := select.value(record, name)) is not None or record.metrics:
        return value
    if name == "epochs":
        return len(record.epochs())
    split, _, metric = name.partition(".")
    values = [line["valid"].get(metric) for line in record.epochs()] if split == "valid" else []
    return min(filter(is_number, values), key=lambda value: select.rank(name, value), default=None)


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    return format_value(name, value) if is_number(value) and find(name) else text(value)
