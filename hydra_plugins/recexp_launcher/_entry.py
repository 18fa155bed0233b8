"""What `recexp -m` does: it makes a folder, runs Hydra's sweeper and launcher behind the gate, and sums up the jobs."""

import contextlib
import logging
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException

from recexp.compose import one_line
from recexp.compose.program import OWN, call_hydra
from recexp.error import ConfigError, RunError, UserError
from recexp.process import terminable
from recexp.report import sweep as summary
from recexp.run.status import ENDED
from recexp.sweep.folder import FOLDER_OVERRIDE, Stopped, Sweep, begun, opened, quoted, read_command
from recexp.sweep.outcome import outcomes
from recexp.sweep.pool import Task
from recexp.terminal import log_to_terminal

logger = logging.getLogger("recexp.sweep")


def sweep(overrides: list[str], flags: list[str]) -> int:
    """Runs all jobs; returns 1 if one did not finish. Raises UserError before the first starts."""
    run_dir, resume = _run_dir(overrides)
    log_to_terminal()
    with terminable(), opened(run_dir, resume) as folder:
        task = Task(Sweep(folder, [word for word in overrides if not FOLDER_OVERRIDE.match(word)], flags))
        try:
            call_hydra(task, [*OWN, f"hydra.sweep.dir={quoted(folder)}", "hydra.sweep.subdir=."], overrides, flags)
        except Stopped:
            logger.info("stopped at the first failure (run.fail_fast)")
        except BaseException as error:
            if begun(folder):
                _sum_up(folder, silent=isinstance(error, UserError))
            raise
        if not begun(folder):
            raise ConfigError(f"-m {' '.join(overrides)}: a sweep of no jobs; glob() and choices name nothing.")
        return _sum_up(folder)


def resume_sweep(folder: Path) -> int:
    """Repeats the command of a sweep in the directory where it was typed. Raises UserError."""
    command, folder = read_command(folder), folder.absolute()
    if not Path(command["directory"]).is_dir():
        raise RunError(f"{folder}: was typed in {command['directory']}, which is no more.")
    with contextlib.chdir(command["directory"]):
        return sweep([*command["overrides"], f"run.dir={quoted(folder)}", "run.resume=true"], command["flags"])


def _run_dir(overrides: list[str]) -> tuple[str | None, bool]:
    """The values of run.dir and run.resume on the command line. Raises ConfigError."""
    if other := next(
        (word for word in overrides if word.startswith(("hydra.sweep.dir=", "hydra.sweep.subdir="))), None
    ):
        raise ConfigError(f"{other}: recexp names the directories of jobs; the sweep's folder is run.dir=...")
    words = [word for word in overrides if FOLDER_OVERRIDE.match(word)]
    try:
        parsed = OverridesParser.create().parse_overrides(words)
    except OverrideParseException as error:
        raise one_line(error, overrides) from error
    if several := [word for word, override in zip(words, parsed, strict=True) if override.is_sweep_override()]:
        raise ConfigError(f"{several[0]}: a sweep has one folder.")
    values: dict[str, Any] = {override.get_key_element().lstrip("+"): override.value() for override in parsed}
    folder, resume = values.get("run.dir"), values.get("run.resume", False)
    if not isinstance(resume, bool):
        raise ConfigError(f"run.resume = {resume}: must be true or false.")
    return None if folder is None else str(folder), resume


def _sum_up(folder: Path, silent: bool = False) -> int:
    """Writes and prints the summary of the jobs; returns 1 if one did not finish."""
    jobs = outcomes(folder)
    summary.write(folder, jobs)
    for line in [] if silent else summary.closing_lines(folder, jobs):
        logger.info(line)
    return 0 if all(job.record.state in ENDED for job in jobs) else 1
