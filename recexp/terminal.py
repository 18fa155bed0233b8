"""The terminal: log lines, and text in columns."""

import contextlib
import logging
import os
import sys
from typing import TextIO


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


def log_to_terminal() -> None:
    package = logging.getLogger("recexp")
    package.setLevel(logging.INFO)
    if not any(isinstance(handler, Terminal) for handler in package.handlers):
        package.addHandler(Terminal())


def columns(rows: list[list[str]]) -> list[str]:
    """Rows of cells as lines, each column as wide as its widest cell."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))] if rows else []
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
