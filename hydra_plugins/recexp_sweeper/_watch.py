"""Pruning through any launcher: reads what running jobs write, and leaves a file `stop` in those to be pruned."""

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import optuna

from recexp.run.read import read_epochs
from recexp.storage import write_text

LOOK_SECONDS = 0.25  # between two looks at the directories


@dataclass(frozen=True)
class Job:
    """A running trial: its number among the sweep's jobs, with which its directory's name begins, and its overrides."""

    number: int
    trial: optuna.Trial
    words: list[str]
    reported: int = 0  # the last epoch that an earlier process has reported


class Watch:
    """Reports each epoch of the jobs' last stage to their trials, in its own thread, while a launcher runs them.

    Epochs are reported in order, up to the one at which the pruner first says to stop, so a study does not depend on
    how long a run goes on before it sees the file.
    """

    def __init__(self, jobs: Sequence[Job], folder: Path, objective: str) -> None:
        self.jobs, self.folder, self.objective = jobs, folder, objective
        self.reported = {job.number: job.reported for job in jobs}
        self.pruned: set[int] = set()  # numbers of jobs
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(1, "watch")
        self._watching: Future[None] | None = None

    def __enter__(self) -> "Watch":
        for job in self.jobs:
            if job.reported:
                self._prune(job)  # the earlier process may have been killed before it did
        self._watching = self._pool.submit(self._watch)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        """Takes a last look, as a run may end between two looks. Raises what broke the watching thread."""
        self._over.set()
        self._pool.shutdown()
        assert self._watching is not None
        if kind is None or issubclass(kind, Exception):
            self._watching.result()
            self.look()

    def look(self) -> None:
        """Reports what is new."""
        for job in self.jobs:
            path = directory(self.folder, job.number)
            for line in read_epochs(path)[0] if path else []:
                if (
                    line.get("last_stage")
                    and line["epoch"] > self.reported[job.number]
                    and job.number not in self.pruned
                ):
                    self._report(job, line["epoch"], line["valid"].get(self.objective))

    def _watch(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            self.look()

    def _report(self, job: Job, epoch: int, value: float | None) -> None:
        self.reported[job.number] = epoch
        if value is not None:
            job.trial.report(value, epoch)
            self._prune(job)

    def _prune(self, job: Job) -> None:
        """Leaves a file `stop` if the pruner says so and the run has not ended."""
        if not job.trial.should_prune():
            return
        self.pruned.add(job.number)
        path = directory(self.folder, job.number)
        if path and not (path / "metrics.json").exists():
            write_text(path / "stop", "")


def directory(folder: Path, number: int) -> Path | None:
    """The directory of a job by its number; None if it has not begun."""
    return next(folder.glob(f"{number}-*"), None)
