"""Files of named columns, as readers open them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from recexp.error import DataError, choices

if TYPE_CHECKING:
    import pandas as pd


class TableFile(Protocol):
    """A file of named columns."""

    path: Path

    def columns(self) -> list[str]:
        """Raises DataError if it is not such a file."""

    def hint(self, columns: list[str]) -> str:
        """Advice about a column that is not among these; "" if there is none."""

    def read(self, names: list[str]) -> "pd.DataFrame": ...

    def location(self, row: int) -> str:
        """Where the user finds a row (from 0): file and line."""


@dataclass(kw_only=True)
class LoadedTable:
    """Columns that are in memory already; a subclass says where the user finds a row."""

    path: Path
    frame: "pd.DataFrame"

    def columns(self) -> list[str]:
        return self.frame.columns.tolist()

    def hint(self, columns: list[str]) -> str:
        return ""

    def read(self, names: list[str]) -> "pd.DataFrame":
        return self.frame[names]


def load(table: TableFile, wanted: dict[str, str]) -> "pd.DataFrame":
    """The wanted columns of a file. wanted: column -> the config key that asks for it.

    Raises DataError for one that is not there, or there twice, and for a file without rows.
    """
    columns = table.columns()
    for column, key in wanted.items():
        if column not in columns:
            hint = table.hint(columns) or choices(column, columns)
            if key == "dataset.columns.timestamp":
                hint += " If there are no times, dataset.columns.timestamp=null takes the order of the rows."
            raise DataError(f"{table.path}: no column '{column}' ({key}). {hint}")
        if columns.count(column) > 1:
            raise DataError(f"{table.path}: two columns are named '{column}' ({key}).")
    frame = table.read(list(wanted))
    if frame.empty:
        raise DataError(f"{table.path}: holds a header and no rows.")
    return frame


def joined(frames: "list[pd.DataFrame]") -> "pd.DataFrame":
    """The rows of several files, one after another."""
    import pandas as pd

    return pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0]
