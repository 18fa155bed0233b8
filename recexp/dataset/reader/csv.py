"""The user's own log or table in CSV files: any separator, quoted fields, gzip, UTF-8 with or without BOM."""

import csv
import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recexp.config import require
from recexp.dataset import frame
from recexp.error import DataError
from recexp.registry import register

if TYPE_CHECKING:
    import pandas as pd

SEPARATORS = (",", "\t", ";", "|")  # guesses for a header of a single column
DAMAGED = (OSError, EOFError, zlib.error, csv.Error)


@register("csv", kind="reader")
class Csv(frame.FileReader):
    suffixes = (".csv", ".csv.gz")

    @dataclass(kw_only=True)
    class Config(frame.TableConfig):
        separator: str

        def __post_init__(self) -> None:
            super().__post_init__()
            self.separator = self.separator.replace("\\t", "\t")  # as shells pass it on
            single = len(self.separator) == 1 and self.separator.isascii() and self.separator not in '"\r\n'
            require(single, "dataset.separator", repr(self.separator), "one ASCII character, no quote or line end")

    def open(self, path: Path) -> "CsvTable":
        return CsvTable(path, self.config.separator)


class CsvTable:
    """All columns as strings. Arrow reads the file; rows are walked through only to find the line of an error."""

    def __init__(self, path: Path, separator: str) -> None:
        self.path = path
        self.separator = separator

    def columns(self) -> list[str]:
        try:
            _, header = next(self._rows(), (0, []))
        except DAMAGED as error:
            raise self._damage(error) from error
        if not header:
            raise DataError(f"{self.path}: is empty.")
        if "\ufffd" in "".join(header):
            raise self._damage(ValueError("its header is no text"))
        other = [mark for mark in SEPARATORS if len(header) == 1 and mark in header[0]]
        if other:
            message = f"the header is one column, {header[0]!r}; set dataset.separator={other[0]!r}"
            raise DataError(f"{self.path}: {message}.")
        return header

    def read(self, names: list[str]) -> "pd.DataFrame":
        import pyarrow as pa
        from pyarrow import csv as arrow

        parse = arrow.ParseOptions(delimiter=self.separator, newlines_in_values=True)
        types = dict.fromkeys(names, pa.string())  # '007' stays, and so does 'NA'
        convert = arrow.ConvertOptions(include_columns=names, column_types=types)
        try:
            table = arrow.read_csv(self.path, parse_options=parse, convert_options=convert)
        except (pa.ArrowException, *DAMAGED) as error:
            raise self._damage(error) from error
        return table.to_pandas()

    def location(self, row: int) -> str:
        rows = islice(self._rows(), row + 1, None)  # the header is the first
        try:
            return f"{self.path}:{next(rows)[0]}"
        except (csv.Error, StopIteration):  # Arrow accepts what the csv module does not, such as huge fields
            return f"{self.path}, row {row + 1}"

    def _open(self, mode: str, **options: Any) -> Any:
        opener: Any = gzip.open if self.path.suffix == ".gz" else open
        return opener(self.path, mode, **options)

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """First line and fields of each row, header included, blank lines left out."""
        with self._open("rt", encoding="utf-8-sig", errors="replace", newline="") as stream:
            reader, line = csv.reader(stream, delimiter=self.separator), 1
            for fields in reader:
                if fields:
                    yield line, fields
                line = reader.line_num + 1

    def _damage(self, error: Exception) -> DataError:
        """The first fault of the file, or else what the parser says."""
        try:
            self._seek_fault()
        except DataError as fault:
            return fault
        except DAMAGED as fault:
            error = fault
        return DataError(f"{self.path}: cannot be read as CSV: {str(error).splitlines()[0]}.")

    def _seek_fault(self) -> None:
        offset = 0
        with self._open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                try:
                    line.decode()
                except UnicodeDecodeError as error:
                    byte = f"byte {offset + error.start} (0x{line[error.start]:02x})"
                    message = f"{self.path}:{number}: {byte} is no UTF-8 text; save the file as UTF-8."
                    raise DataError(message) from error
                offset += len(line)
        rows = self._rows()
        _, header = next(rows)
        for number, fields in rows:
            if len(fields) != len(header):
                message = f"{len(fields)} fields, the header has {len(header)}"
                raise DataError(f"{self.path}:{number}: {message}; a value with a separator needs quotes.")
