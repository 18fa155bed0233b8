"""What a run tells the terminal."""

import logging
import sys


class Terminal(logging.Handler):
    """Prints recexp's log lines to stdout, warnings and errors to stderr, as these are when a line is printed."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            print(f"{record.levelname}: {record.getMessage()}", file=sys.stderr, flush=True)
        else:
            print(record.getMessage(), flush=True)


def log_to_terminal() -> None:
    package = logging.getLogger("recexp")
    package.setLevel(logging.INFO)
    if not any(isinstance(handler, Terminal) for handler in package.handlers):
        package.addHandler(Terminal())
