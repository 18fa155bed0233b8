"""The terminal: log lines, and text in columns."""

import contextlib
import io
import logging
import os
import sys
from collections.abc import Container
from typing import TextIO

from recexp.error import printable


class Terminal(logging.Handler):
    """Prints log lines to stdout, and warnings and errors to stderr, looking the stream up anew for each line."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            say(f"{record.levelname}: {record.getMessage()}", sys.stderr)
        else:
            say(record.getMessage(), sys.stdout)


def say(line: str, stream: TextIO) -> None:
    """Prints a line. Where nobody reads any more, as after `| head -1`, it is dropped, and the program goes on."""
    try:
        print(line, file=stream, flush=True)
    except OSError:
        silence(stream)


def silence(stream: TextIO) -> None:
    """Drops what a stream still holds and what is printed to it from now on."""
    with contextlib.suppress(OSError, ValueError):  # it has no descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class Harmless(io.TextIOWrapper):
    """A stream to a terminal: what comes from files and names cannot steer it, and what it cannot show is escaped."""

    def write(self, text: str) -> int:
        return super().write("\n".join(printable(line) for line in text.split("\n")))


def harmless(stream: TextIO) -> TextIO:
    """A Harmless stream to the same place; progress bars, which steer the terminal, go on writing to the first."""
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    encoding, buffered = stream.encoding, stream.line_buffering
    return Harmless(stream.buffer, encoding=encoding, errors="backslashreplace", line_buffering=buffered)


def log_to_terminal() -> None:
    package = logging.getLogger("recexp")
    package.setLevel(logging.INFO)
    if not any(isinstance(handler, Terminal) for handler in package.handlers):
        package.addHandler(Terminal())


def columns(rows: list[list[str]], right: Container[int] = ()) -> list[str]:
    """Rows of cells as lines, each column as wide as its widest cell. right: numbers of columns aligned there."""
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = zip(row, widths, strict=True)
        padded = [cell.rjust(width) if n in right else cell.ljust(width) for n, (cell, width) in enumerate(cells)]
        lines.append("  ".join(padded).rstrip())
    return lines


def size(n_bytes: float) -> str:
    """A number of bytes as people read it."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:,.3g} TB"
