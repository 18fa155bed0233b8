"""What a run tells the terminal."""

import logging
import sys


class Terminal(logging.Handler):
    """recexp's log lines on stdout, warnings and worse on stderr, whatever these are at the time."""

    def emit(self, record: logging.LogRecord) -> None:
        warned = record.levelno >= logging.WARNING
        print(
            f"{record.levelname}: {record.getMessage()}" if warned else record.getMessage(),
            file=sys.stderr if warned else sys.stdout,
            flush=True,
        )


def log_to_terminal() -> None:
    package = logging.getLogger("recexp")
    package.setLevel(logging.INFO)
    if not any(isinstance(handler, Terminal) for handler in package.handlers):
        package.addHandler(Terminal())
