"""One job of a sweep: a run directory that holds its configuration, trained in a process that a launcher provides."""

import contextlib
import logging
import math
import os
import traceback
from pathlib import Path

from recexp.error import DamagedFile, Failure, UserError
from recexp.run.read import read_json
from recexp.run.status import write_status
from recexp.sweep.outcome import read_outcome

logger = logging.getLogger(__name__)


def run(path: Path) -> float:
    """Trains the directory's configuration; returns the objective, NaN if training failed.

    Errors are written to the directory; only signals are raised.
    """
    from recexp.experiment import train_checked
    from recexp.validate import read

    try:
        train_checked(read(path))
    except (Exception, SystemExit) as error:
        explained = isinstance(error, UserError | Failure)  # its message says all
        message = str(error) if explained else f"{type(error).__name__}: {error}"
        if settle(path, os.getpid(), "failed", message) and not explained:
            traceback.print_exc()  # train_checked has written other errors to log.txt
        logger.error("%s: %s", path, message)
    return objective(path)


def settle(path: Path, pid: int, state: str, error: str) -> bool:
    """Writes how a job ended if its own process did not. Returns whether that was necessary."""
    with contextlib.suppress(DamagedFile):
        status = read_json(path / "status.json")
        if status is not None and (status.get("state"), status.get("pid")) != ("running", pid):
            return False
    write_status(path, state, error)
    return True


def objective(path: Path) -> float:
    """The validation metric that the job's configuration names; NaN if there is none."""
    value = read_outcome(path).value
    return math.nan if value is None else value
