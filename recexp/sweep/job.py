"""One job of a sweep: a run directory that holds its configuration, trained in whatever process a launcher gives it."""

import logging
import math
import os
import traceback
from pathlib import Path
from typing import Any

from recexp.error import UserError
from recexp.run.read import read_config, read_json
from recexp.run.status import write_status

logger = logging.getLogger(__name__)


def run(path: Path) -> float:
    """Trains what the directory says; returns the value of the objective, NaN where that failed.

    What went wrong stands in the directory; signals alone come out.
    """
    from omegaconf import OmegaConf

    from recexp.experiment import train
    from recexp.validate import check

    try:
        raw = OmegaConf.create(read_config(path))
        raw.run.dir, raw.run.resume = str(path), True
        train(check(raw))
    except (Exception, SystemExit) as error:
        told = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        if settle(path, os.getpid(), "failed", told) and not isinstance(error, UserError):
            traceback.print_exc()  # other errors of training stand in log.txt
        logger.error("%s: %s", path, told)
    return objective(path)


def settle(path: Path, pid: int, state: str, error: str) -> bool:
    """Writes how a job ended, where its process has not come to say so. Returns whether that was so."""
    status = read_json(path / "status.json")
    if status is not None and (status["state"], status["pid"]) != ("running", pid):
        return False
    write_status(path, state, error)
    return True


def objective(path: Path) -> float:
    """The valid metric that the job's configuration names; NaN where there is none."""
    metrics = read_json(path / "metrics.json")
    if metrics is None:
        return math.nan
    value = metrics["valid"].get(objective_name(read_config(path)))
    return math.nan if value is None else value


def objective_name(config: dict[str, Any]) -> str:
    """Of the content of a config.yaml."""
    return config["objective"] or config["trainer"]["monitor"]
