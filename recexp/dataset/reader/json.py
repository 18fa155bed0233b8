"""The user's own log or table in JSON lines: one object a line, compressed or not, or as Python writes dictionaries."""

import ast
import io
from collections.abc import Iterator
from itertools import islice
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recexp.dataset import frame
from recexp.dataset.reader import source
from recexp.dataset.reader.arrow import to_frame
from recexp.dataset.table_config import TableConfig
from recexp.error import DataError, first_line
from recexp.registry import register

if TYPE_CHECKING:
    import pandas as pd

BLOCK = 2**25  # bytes parsed at a time, as the parser keeps all keys of an object, also unused ones


@register("json", kind="reader")
class Json(frame.FileReader):
    Config = TableConfig
    suffixes = (".jsonl", ".json", ".jsonl.gz", ".json.gz")

    def open(self, path: Path) -> "JsonTable":
        return JsonTable(path, self.config.multi_separator)


class JsonTable:
    """Columns by the keys of the objects; a key that an object lacks is a gap."""

    def __init__(self, path: Path, multi_separator: str) -> None:
        self.path = path
        self.multi_separator = multi_separator

    def columns(self) -> list[str]:
        """The keys in the first block."""
        _, first = next(self._blocks(), (0, None))
        if first is None:
            raise DataError(f"{self.path}: is empty.")
        return first.column_names

    def hint(self, columns: list[str]) -> str:
        return ""

    def read(self, names: list[str]) -> "pd.DataFrame":
        return self._frame([_selected(block, names) for _, block in self._blocks()])

    def head(self, names: list[str], n_rows: int) -> "pd.DataFrame":
        """The rows of the first block."""
        return self._frame([_selected(block, names) for _, block in islice(self._blocks(), 1)])

    def _frame(self, blocks: list[Any]) -> "pd.DataFrame":
        import pyarrow as pa

        try:
            table = pa.concat_tables(blocks, promote_options="permissive")
        except pa.ArrowException as error:
            raise DataError(f"{self.path}: a key holds values of several kinds: {error}.") from error
        return to_frame(self.path, table, self.multi_separator)

    def location(self, row: int) -> str:
        with source.open_bytes(self.path, ("text", "JSON")) as stream:
            rows = (number for number, line in enumerate(stream, 1) if line.strip())
            return f"{self.path}:{next(islice(rows, row, None))}"

    def _blocks(self) -> Iterator[tuple[int, Any]]:
        """The number of lines before each block of lines, and the block as a table. Raises DataError."""
        import pyarrow as pa
        from pyarrow import json

        before = 0
        try:
            with source.open_bytes(self.path, ("text", "JSON")) as stream:
                while lines := stream.readlines(BLOCK):
                    if any(map(bytes.strip, lines)):
                        yield before, json.read_json(io.BytesIO(b"".join(_as_json(self.path, before, lines))))
                    before += len(lines)
        except pa.ArrowException as error:
            place = f"{self.path}: after line {before}" if before else str(self.path)
            reason = first_line(error)
            raise DataError(f"{place}: is not one JSON object a line: {reason}.") from error
        except source.FAULTS as error:
            raise DataError(f"{self.path}: cannot be read: {first_line(error)}.") from error


def _as_json(path: Path, before: int, lines: list[bytes]) -> list[bytes]:
    """Lines such as {u'user': u'a'} as JSON. before: how many lines come before. Raises DataError."""
    if not lines[0].startswith((b"{'", b"{u'")):
        return lines
    return [_line_as_json(path, number, line) for number, line in enumerate(lines, before + 1) if line.strip()]


def _line_as_json(path: Path, number: int, line: bytes) -> bytes:
    try:
        return dumps(ast.literal_eval(line.decode())).encode() + b"\n"
    except (SyntaxError, ValueError) as error:
        raise DataError(f"{path}:{number}: cannot be read: {first_line(error)}.") from error
    except TypeError as error:
        raise DataError(f"{path}:{number}: holds a value that JSON cannot hold: {error}.") from error


def _selected(block: Any, names: list[str]) -> Any:
    """The named columns of a table; one that it lacks is all gaps."""
    import pyarrow as pa

    missing = pa.nulls(block.num_rows)
    return pa.table({name: block[name] if name in block.column_names else missing for name in names})
