"""A sweep on the command line: its folder, its jobs' directories, its closing table."""

import datetime
import logging
import statistics
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recexp.error import ConfigError, UserError
from recexp.run.directory import read_json, remove, run_name, unique_folder
from recexp.run.table import columns, number

if TYPE_CHECKING:
    from recexp.config import Config

logger = logging.getLogger(__name__)


class FirstJobMistaken(BaseException):
    """Carries a UserError out of Hydra, which would print a line of its own for an Exception."""

    def __init__(self, mistake: UserError) -> None:
        self.mistake = mistake


class Sweep:
    """One run directory a job below one folder. A job that fails leaves its status there, and the others go on."""

    def __init__(self, overrides: list[str]) -> None:
        typed = [word.partition("=")[2] for word in overrides if word.startswith("run.dir=")]
        now = datetime.datetime.now()
        self.overrides, self.typed = overrides, bool(typed)
        self.folder = (
            Path(typed[-1]) if typed else unique_folder(Path("outputs/multirun") / f"{now:%Y-%m-%d}", f"{now:%H-%M-%S}")
        )
        self.jobs: list[tuple[list[str], Path | None, str | None]] = []  # overrides, directory, error

    def hydra_overrides(self) -> list[str]:
        return [f"hydra.sweep.dir='{self.folder}'", "hydra.sweep.subdir=."]

    def job(
        self, number: int, typed: list[str], check: "Callable[[], Config]", train: "Callable[[Config], float | None]"
    ) -> float | None:
        """One job, by its overrides. Its failure is noted; a mistake in the first ends the sweep: it is likely in all.

        Returns the value of the objective, NaN for a failure. Raises FirstJobMistaken.
        """
        error, value, path = None, None, None
        try:
            config = check()
            path = self.folder / f"{number}-{run_name(config)}"
            config.run.dir = str(path)
            value = train(config)
        except UserError as mistake:
            if not self.jobs:
                raise FirstJobMistaken(mistake) from mistake
            error = str(mistake)
        except Exception as failure:
            traceback.print_exc()
            error = f"{type(failure).__name__}: {failure}"
        self.jobs.append((typed, path, error))
        return float("nan") if error else value

    def discard(self) -> None:
        """Removes the folder of a sweep that never ran."""
        if not self.typed:
            remove(self.folder)

    def finish(self) -> int:
        """Prints the closing table; 1 if any job failed. Raises ConfigError where there was none."""
        if not self.jobs:
            self.discard()
            raise ConfigError(f"-m {' '.join(self.overrides)}: a sweep of no jobs; glob() and choices name nothing.")
        failed = [(differs, path, error) for differs, path, error in self.jobs if error]
        for line in self.table():
            logger.info(line)
        for differs, path, error in failed:
            logger.info("failed: %s (%s): %s", " ".join(differs), path, error)
        logger.info(str(self.folder))
        return 1 if failed else 0

    def table(self) -> list[str]:
        """Mean and deviation over seeds of each setting, by what was typed."""
        settings: dict[str, list[dict[str, Any]]] = {}
        common = set.intersection(*(set(differs) for differs, _, _ in self.jobs)) if len(self.jobs) > 1 else set()
        for differs, path, error in self.jobs:
            metrics = read_json(path / "metrics.json") if path and not error else None
            key = " ".join(word for word in differs if word not in common and not word.startswith(("seed=", "run.")))
            settings.setdefault(key, [])
            if metrics:
                settings[key].append(metrics)
        names = ("auc", "gauc", "logloss")
        rows = [["setting", "n", *(f"test {name}" for name in names), "parameters", "seconds"]]
        for key, found in settings.items():
            tests = [_mean([metrics["test"][name] for metrics in found]) for name in names]
            cost = [_whole(found, "parameters"), _whole(found, "seconds")]
            rows.append([key or "-", str(len(found)), *tests, *cost])
        return ["", *columns(rows)]


def _mean(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    spread = f" ± {statistics.stdev(known):.4f}" if len(known) > 1 else ""
    return number(statistics.fmean(known)) + spread


def _whole(found: list[dict[str, Any]], name: str) -> str:
    """The mean of a figure that needs no decimals."""
    return f"{statistics.fmean(metrics[name] for metrics in found):,.0f}" if found else "-"
