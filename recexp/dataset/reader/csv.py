"""The user's own log or table in CSV files: any separator and encoding, quoted fields, compressed or not."""

import csv
import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from recexp.dataset import frame
from recexp.dataset.reader import source
from recexp.dataset.reader.arrow import first_rows
from recexp.dataset.table_config import TableConfig
from recexp.error import DataError, first_line, override
from recexp.option import require
from recexp.registry import register

if TYPE_CHECKING:
    import pandas as pd

SEPARATORS = (",", "\t", ";", "|", "^", "::", ":", " ")  # guesses for a header of a single column
DAMAGED = (*source.FAULTS, csv.Error)
logger = logging.getLogger(__name__)


@register("csv", kind="reader")
class Csv(frame.FileReader):
    suffixes = (".csv", ".csv.gz", ".csv.bz2", ".csv.xz", ".csv.zip")

    @dataclass(kw_only=True)
    class Config(TableConfig):
        separator: str
        quoting: bool
        header: list[str] | None
        encoding: str

        def __post_init__(self) -> None:
            super().__post_init__()
            self.separator = self.separator.replace("\\t", "\t")  # as shells pass it on
            space = f" (a space is {override('dataset.separator', ' ')})" if not self.separator else ""
            allowed = f"one character or more, no quote or line end{space}"
            fit = self.separator and not set(self.separator) & set('"\r\n')
            require(fit, "dataset.separator", repr(self.separator), allowed)
            named = self.header is None or (self.header and len(set(self.header)) == len(self.header))
            require(named, "dataset.header", self.header, "the names of all columns, each once, or null")
            known = _is_encoding(self.encoding)
            require(known, "dataset.encoding", self.encoding, "an encoding, such as utf-8, latin-1, cp1252 or utf-16")

    def open(self, path: Path) -> "CsvTable":
        return CsvTable(path, self.config)


class CsvTable:
    """All columns as strings. Arrow reads the file; Python reads rows only to find the line of an error."""

    def __init__(self, path: Path, config: Csv.Config) -> None:
        self.path, self.encoding = path, config.encoding
        self.separator, self.quoting, self.header = config.separator, config.quoting, config.header
        self.mark = self.separator if len(self.separator.encode()) == 1 else source.UNIT  # in the stream

    def columns(self) -> list[str]:
        try:
            *_, header = next(self._rows(), (0, 0, []))
        except DAMAGED as error:
            raise self._damage(error) from error
        if not header:
            raise DataError(f"{self.path}: is empty.")
        if self.header is not None:
            if len(self.header) != len(header):
                raise DataError(f"{self.path}: has {len(header)} columns; dataset.header names {len(self.header)}.")
            return self.header
        if "\ufffd" in "".join(header):
            raise self._damage(ValueError("its header is no text"))
        return header

    def hint(self, columns: list[str]) -> str:
        """What to do if a column is not among these."""
        if other := [mark for mark in SEPARATORS if len(columns) == 1 and mark in columns[0]]:
            shown = other[0].replace("\t", "\\t")
            return f"The header is one column, {columns[0]!r}; set {override('dataset.separator', shown)}."
        if 2 * sum(map(_is_number, columns)) < len(columns):
            return ""
        return "The first line seems to hold values: name the columns of a file without header by dataset.header=[...]."

    def read(self, names: list[str]) -> "pd.DataFrame":
        table = self._parsed(names)
        if self.quoting:
            self._reconcile(len(table))
        return table

    def head(self, names: list[str], n_rows: int) -> "pd.DataFrame":
        """The first n_rows rows or somewhat more, without a warning about cells of several lines."""
        return self._parsed(names, n_rows)

    def _parsed(self, names: list[str], n_rows: int | None = None) -> "pd.DataFrame":
        import pyarrow as pa
        from pyarrow import csv as arrow

        quote = '"' if self.quoting else False
        read = arrow.ReadOptions(column_names=self.header)
        parse = arrow.ParseOptions(delimiter=self.mark, quote_char=quote, newlines_in_values=self.quoting)
        types = dict.fromkeys(names, pa.string())  # '007' stays, and so does 'NA'
        convert = arrow.ConvertOptions(include_columns=names, column_types=types)
        try:
            with self._bytes() as stream:
                if n_rows is None:
                    table = arrow.read_csv(stream, read, parse, convert)
                else:
                    table = first_rows(arrow.open_csv(stream, read, parse, convert), n_rows)
        except (pa.ArrowException, *DAMAGED) as error:
            raise self._damage(error) from error
        frame = table.to_pandas()
        if self.mark != self.separator and self.quoting:  # quoted cells may hold the separator
            frame = frame.apply(lambda column: column.str.replace(self.mark, self.separator, regex=False))
        return frame

    def location(self, row: int) -> str:
        rows = islice(self._rows(), row + (self.header is None), None)
        try:
            return f"{self.path}:{next(rows)[0]}"
        except (csv.Error, StopIteration):  # Arrow accepts what the csv module does not, such as huge fields
            return f"{self.path}, row {row + 1}"

    def _reconcile(self, n_rows: int) -> None:
        """Warns if cells extend over several lines. Raises DataError for a quote that is not closed."""
        if not self._holds_quotes() or n_rows + (self.header is None) == self._count_lines():
            return
        several: list[tuple[int, int]] = []
        end = 0
        try:
            for first, end, _ in self._rows(strict=True):
                if end > first:
                    several.append((first, end))
        except csv.Error as error:
            message = f"{self.path}:{end + 1}: a quote opens a cell that does not end as one ({error})"
            raise DataError(f"{message}; double quotes that are text, or set dataset.quoting=false.") from error
        if several:
            logger.warning(
                "%s: %d rows extend over several lines, the first over lines %d to %d; if the quotes there are text, "
                "set dataset.quoting=false.", self.path, len(several), *several[0],
            )  # fmt: skip

    def _holds_quotes(self) -> bool:
        with self._bytes() as stream:
            return any(b'"' in piece for piece in iter(lambda: stream.read(2**20), b""))

    def _count_lines(self) -> int:
        """The number of lines that are not blank."""
        with self._bytes() as stream:
            return sum(bool(line.strip(b"\r\n")) for line in stream)

    def _bytes(self) -> IO[bytes]:
        return source.open_utf8(self.path, self.encoding, self.separator)

    def _text(self) -> io.TextIOWrapper:
        return io.TextIOWrapper(self._bytes(), encoding="utf-8-sig", errors="replace", newline="")

    def _rows(self, strict: bool = False) -> Iterator[tuple[int, int, list[str]]]:
        """First and last line and fields of each row, header included, blank lines left out.

        strict: raise csv.Error for a quote that does not close as one.
        """
        quotes: dict[str, Any] = {} if self.quoting else {"quoting": csv.QUOTE_NONE}
        with self._text() as stream:
            reader, line = csv.reader(stream, delimiter=self.mark, strict=strict, **quotes), 1
            for fields in reader:
                if fields:
                    yield line, reader.line_num, fields
                line = reader.line_num + 1

    def _damage(self, error: Exception) -> DataError:
        """An error for the first fault found in the file, or else with the parser's message."""
        try:
            self._refuse_other_encodings()
            self._refuse_uneven_rows()
        except DataError as fault:
            return fault
        except DAMAGED as fault:
            error = fault
        return DataError(f"{self.path}: cannot be read as CSV: {first_line(error)}.")

    def _refuse_other_encodings(self) -> None:
        offset = 0
        with self._bytes() as stream:
            for number, line in enumerate(stream, start=1):
                try:
                    line.decode()
                except UnicodeDecodeError as error:
                    byte = f"byte {offset + error.start} (0x{line[error.start]:02x})"
                    advice = "set dataset.encoding, as latin-1, or save it as UTF-8"
                    raise DataError(f"{self.path}:{number}: {byte} is no UTF-8 text; {advice}.") from error
                offset += len(line)

    def _refuse_uneven_rows(self) -> None:
        rows = self._rows()
        *_, header = next(rows, (0, 0, []))
        for number, _, fields in rows:
            if len(fields) == len(header):
                continue
            advice = "a value with a separator needs quotes"
            if "\n" in "".join(fields):
                advice = "a quote opens there that does not close in its line; double it or set dataset.quoting=false"
            message = f"{len(fields)} fields, the header has {len(header)}"
            raise DataError(f"{self.path}:{number}: {message}; {advice}.")


def _is_encoding(name: str) -> bool:
    try:
        "".encode(name)
        return True
    except LookupError:
        return False


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
