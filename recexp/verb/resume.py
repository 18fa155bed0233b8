"""The verb `resume`: continues a run, or does a sweep again without the jobs that have ended."""

from pathlib import Path

from recexp.error import ConfigError
from recexp.verb.options import Option

USAGE = "RUN"
HELP = "goes on with an interrupted run or sweep"
OPTIONS: tuple[Option, ...] = ()


def run(arguments: list[str]) -> int:
    """Raises RunError for a directory that is neither a run nor a sweep."""
    from recexp.sweep.folder import begun

    if len(arguments) != 1:
        raise ConfigError(
            "resume: takes one directory, as in: recexp resume outputs/2026-01-31/12-00-00-dien-synthetic-s0"
        )
    path = Path(arguments[0])
    if begun(path):
        from hydra_plugins.recexp_launcher._entry import resume_sweep

        return resume_sweep(path)
    from recexp.experiment import train_checked
    from recexp.validate import read

    train_checked(read(path))
    return 0
