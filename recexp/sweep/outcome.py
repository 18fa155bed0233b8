"""The outcomes of a sweep's jobs, read from their directories."""

import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from recexp.error import DamagedFile
from recexp.run.read import overrides_if_whole, read_config
from recexp.run.record import Record, read
from recexp.sweep.folder import find_jobs, read_command, state
from recexp.tree import flat


@dataclass(frozen=True)
class Outcome:
    """A job's run directory read back."""

    record: Record  # its state is missing if the job has not begun
    error: str | None
    words: list[str]  # its overrides, as the command line has them

    @property
    def path(self) -> Path:
        return self.record.path

    @property
    def overrides(self) -> dict[str, str]:
        """The overrides by key."""
        return {word.partition("=")[0].lstrip("+"): word.partition("=")[2] for word in self.words}

    @property
    def objective(self) -> str:
        """The metric by which the sweep chooses."""
        return self.record.config["objective"] or self.record.config["trainer.monitor"]

    @property
    def value(self) -> float | None:
        """The objective on the validation split."""
        return self.record.metrics.get(f"valid.{self.objective}")


def outcomes(folder: Path) -> list[Outcome]:
    """All jobs of a sweep's folder, by number."""
    return [read_outcome(path) for path in find_jobs(folder)]


def read_outcome(path: Path) -> Outcome:
    """The outcome of one job; its state is damaged if a file cannot be read. Raises RunError if that is config.yaml."""
    current, error = state(path)
    try:
        return Outcome(replace(read(path), state=current), error, overrides_if_whole(path))
    except DamagedFile as damage:
        config = dict(flat(read_config(path)))
        return Outcome(
            Record(path, "damaged", config, metrics={}, fingerprint=None), str(damage), overrides_if_whole(path)
        )


def command(job: Outcome) -> str:
    """The shell command that trains a job again outside its sweep."""
    words = [word for word in job.words if not word.startswith("+sweep=")]
    if len(words) < len(job.words) and not any(word.startswith("model=") for word in words):
        words.insert(0, f"model={job.record.config['model.name']}")  # chosen by the sweep's search space
    flags = [word for word in read_command(job.path.parent)["flags"] if word not in ("-m", "--multirun")]
    return shlex.join(["recexp", *words, *flags])
