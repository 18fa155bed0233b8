"""What `recexp -m` does: a folder, Hydra's sweeper over the launcher behind the gate, and what came of it."""

import contextlib
import logging
from pathlib import Path
from typing import Any

from hydra.conf import HydraConf
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException

from recexp.cli import OWN, call_hydra, log_to_terminal, one_line
from recexp.error import ConfigError, RunError, UserError
from recexp.process import terminable
from recexp.sweep import summary
from recexp.sweep.folder import ENDED, PLACE, Stopped, Sweep, begun, opened, quoted, read_typed
from recexp.sweep.pool import Task

logger = logging.getLogger("recexp.sweep")


def sweep(overrides: list[str], flags: list[str]) -> int:
    """Runs all jobs; 1 if one did not come to its end. Raises UserError before the first starts."""
    place = _place(overrides)
    _set_defaults()
    log_to_terminal()
    with terminable(), opened(place.get("dir"), place.get("resume", False)) as folder:
        typed = [word for word in overrides if not PLACE.match(word)]
        task = Task(Sweep(folder, typed, flags, place.get("resume", False)))
        try:
            call_hydra(task, [*OWN, f"hydra.sweep.dir={quoted(folder)}", "hydra.sweep.subdir=."], overrides, flags)
        except Stopped:
            logger.info("stopped at the first failure (run.fail_fast)")
        except BaseException as error:
            if begun(folder):
                _conclude(folder, silent=isinstance(error, UserError))
            raise
        if not begun(folder):
            raise ConfigError(f"-m {' '.join(overrides)}: a sweep of no jobs; glob() and choices name nothing.")
        return _conclude(folder)


def resume_sweep(folder: Path) -> int:
    """Does again what was typed, where it was typed. Raises UserError."""
    typed, folder = read_typed(folder), folder.absolute()
    if not Path(typed["directory"]).is_dir():
        raise RunError(f"{folder}: was typed in {typed['directory']}, which is no more.")
    with contextlib.chdir(typed["directory"]):
        return sweep([*typed["overrides"], f"run.dir={quoted(folder)}", "run.resume=true"], typed["flags"])


def _place(overrides: list[str]) -> dict[str, Any]:
    """What was typed for run.dir and run.resume."""
    words = [word for word in overrides if PLACE.match(word)]
    try:
        parsed = OverridesParser.create().parse_overrides(words)
    except OverrideParseException as error:
        raise one_line(error, overrides) from error
    if several := [word for word, each in zip(words, parsed, strict=True) if each.is_sweep_override()]:
        raise ConfigError(f"{several[0]}: a sweep has one folder.")
    return {each.get_key_element().lstrip("+").removeprefix("run."): each.value() for each in parsed}


def _set_defaults() -> None:
    """Our launcher unless a file or a word names another, and the gate before any; so under --config-name, too."""
    node = HydraConf(callbacks={"recexp": {"_target_": "hydra_plugins.recexp_launcher.gate.Gated"}})
    node.defaults = [{"launcher": "processes"} if "launcher" in each else each for each in node.defaults]
    ConfigStore.instance().store(group="hydra", name="config", node=node, provider="hydra")


def _conclude(folder: Path, silent: bool = False) -> int:
    """Writes and tells what came of the jobs; 1 if one did not come to its end."""
    jobs = summary.outcomes(folder)
    summary.write(folder, jobs)
    for line in [] if silent else summary.closing_lines(folder, jobs):
        logger.info(line)
    return 0 if all(job.state in ENDED for job in jobs) else 1
