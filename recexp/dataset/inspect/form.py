"""Guesses from its beginning how to read a file: reader, encoding, separator, quotes, header."""

import codecs
import csv
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recexp.dataset.reader import source
from recexp.error import DataError, first_line

SEPARATORS = ("\t", "::", ",", ";", "|", "^", "\x01", " ", ":")
START, LINES = 2**20, 200  # bytes and lines that the guess is based on
SCANNED = 2**28  # bytes that are checked for UTF-8
CONSISTENT = 0.9  # share of lines with the same number of cells
ID = re.compile(r"[\w.-]{1,40}")


@dataclass(frozen=True, kw_only=True)
class Form:
    """The options of a reader, and the columns; those of a file without header are column1, column2 and so on."""

    reader: str  # csv, json, parquet or sequence
    columns: tuple[str, ...] = ()
    headed: bool = True
    options: dict[str, Any] = field(default_factory=dict)  # those that differ from the reader's own

    def __str__(self) -> str:
        words = {"csv": "CSV", "json": "JSON lines", "parquet": "Parquet", "sequence": "one user a line"}[self.reader]
        shown = {name: value for name, value in self.options.items() if name not in ("quoting", "header")}
        parts = [words, *(f"{name} {value!r}" for name, value in shown.items())]
        if "quoting" in self.options:
            parts.append("quotes are text")
        if not self.headed:
            parts.append("no header")
        return ", ".join(parts)


def guess(path: Path) -> Form:
    """Raises DataError for a file that no reader reads."""
    if source.format_of(path) == "parquet":
        return Form(reader="parquet")
    try:
        with source.open_bytes(path, ("text", "JSON")) as stream:
            start = stream.read(START)
        encoding = _encoding(path)
    except source.FAULTS as error:
        raise DataError(f"{path}: cannot be read: {first_line(error)}.") from error
    if start.lstrip().startswith(b"{"):
        return Form(reader="json")
    if start.lstrip().startswith(b"[{"):
        raise DataError(f"{path}: is one JSON array; write one object a line.")
    text = codecs.getincrementaldecoder(encoding)("replace").decode(start).removeprefix("\ufeff")
    lines = [line for line in re.split(r"\r?\n|\r", text) if line.strip()]
    if not lines or "\0" in text:
        raise DataError(f"{path}: {'holds no text' if lines else 'is empty'}.")
    whole = len(start) < START
    return guess_text(lines[:LINES] if whole or len(lines) == 1 else lines[:-1][:LINES], encoding)


def guess_text(lines: list[str], encoding: str) -> Form:
    """The form of a text of these lines."""
    options: dict[str, Any] = {} if encoding == "utf-8" else {"encoding": encoding}
    separators = [separator for separator in SEPARATORS if separator != ":" or "::" not in lines[0]]
    cuts = [_cut(lines, separator, quoting) for separator in separators for quoting in (True, False)]
    best = max(cuts, key=_rank)
    if best.share < CONSISTENT and encoding == "utf-8" and (sequences := _sequences(lines)) is not None:
        return sequences
    rows = [row for row in best.rows if len(row) == best.n_columns]
    if best.separator != "," and best.n_columns > 1:
        options["separator"] = best.separator
    if not best.quoting:
        options["quoting"] = False
    headed = is_header(rows[0], rows[1:])
    names = rows[0] if headed else [f"column{n}" for n in range(1, best.n_columns + 1)]
    if not headed:
        options["header"] = names
    return Form(reader="csv", columns=tuple(names), headed=headed, options=options)


def _sequences(lines: list[str]) -> Form | None:
    """The form of lines of ids alone, each a user's items in order; None if they are not that."""
    for separator in (None, "\t", ",", ";"):
        cells = [line.strip().split(separator) for line in lines]
        if all(ID.fullmatch(cell) for line in cells for cell in line) and sum(map(len, cells)) > len(lines):
            return Form(reader="sequence", options={} if separator is None else {"separator": separator})
    return None


def is_header(first: list[str], body: list[list[str]]) -> bool:
    """True if the first row holds names: most columns of numbers begin with a word or, without any, no cell recurs."""
    columns = list(zip(*body, strict=True)) or [()] * len(first)
    numeric = [n for n, cells in enumerate(columns) if any(cells) and all(map(is_number, filter(None, cells)))]
    if numeric:
        return 2 * sum(is_number(first[n]) for n in numeric) < len(numeric)
    return not any(name in cells for name, cells in zip(first, columns, strict=True))


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text.strip().lower() not in ("nan", "inf", "-inf", "infinity")


@dataclass(frozen=True)
class _Cut:
    """Lines split at a separator."""

    separator: str
    quoting: bool
    rows: list[list[str]]
    n_columns: int  # of most rows
    share: float  # of the lines whose rows have as many


def _cut(lines: list[str], separator: str, quoting: bool) -> _Cut:
    mark = separator if len(separator) == 1 else source.UNIT
    marked = [line.replace(separator, mark) for line in lines]
    try:
        rows = list(csv.reader(marked, delimiter=mark, quoting=csv.QUOTE_MINIMAL if quoting else csv.QUOTE_NONE))
    except csv.Error:
        return _Cut(separator, quoting, [], 1, 0.0)
    (n_columns, count), *_ = Counter(map(len, rows)).most_common(1)
    return _Cut(separator, quoting, rows, n_columns, count / len(lines))


def _rank(cut: _Cut) -> tuple[bool, float, int, bool]:
    """Better cuts are greater: more than one column, the same number in each row, many, with quotes."""
    return cut.n_columns > 1, cut.share, cut.n_columns, cut.quoting


def _encoding(path: Path) -> str:
    """utf-8 if the first bytes are valid; utf-16 by its mark; else cp1252, or latin-1 where cp1252 fails."""
    decoder, size = codecs.getincrementaldecoder("utf-8")(), 0
    with source.open_bytes(path, ("text", "JSON")) as stream:
        piece = start = stream.read(START)
        if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16"
        while piece and size < SCANNED:
            try:
                decoder.decode(piece)
            except UnicodeDecodeError:
                return _single_byte(piece)
            size += len(piece)
            piece = stream.read(START)
    return "utf-8"


def _single_byte(piece: bytes) -> str:
    try:
        piece.decode("cp1252")
    except UnicodeDecodeError:
        return "latin-1"
    return "cp1252"
