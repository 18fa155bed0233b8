"""Making the directories of runs and sweeps, and removing them again."""

import datetime
import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path

from recexp.config import Config
from recexp.error import RunError


def run_name(config: Config) -> str:
    """What a run is called in the names of its directories."""
    return config.run.name or f"{config.model.name}-{config.dataset.name}-s{config.seed}"


def make_run_folder(config: Config) -> list[Path]:
    """As `make`: the directory that run.dir names, or a new one for the date. Raises RunError if it cannot be made."""
    if not config.run.dir:
        now = datetime.datetime.now()
        return unique_folder(Path("outputs") / f"{now:%Y-%m-%d}", f"{now:%H-%M-%S}-{run_name(config)}")
    path = Path(config.run.dir)
    if path.is_file():
        raise RunError(f"run.dir = {path}: is a file.")
    if path.is_dir() and any(path.iterdir()):
        raise RunError(f"run.dir = {path}: exists; give another, or go on with it by run.resume=true.")
    try:
        return make(path)
    except FileExistsError:
        return [path]  # empty
    except OSError as error:
        raise RunError(f"run.dir = {path}: cannot be made ({error.strerror}).") from error


def unique_folder(parent: Path, name: str) -> list[Path]:
    """As `make`: parent/name, or parent/name-2 and so on if that is taken. Raises RunError if it cannot be made."""
    try:
        for number in range(1, 10_000):
            try:
                return make(parent / (name if number == 1 else f"{name}-{number}"))
            except FileExistsError:  # or parent is a link to nowhere
                if not parent.is_dir():
                    raise
    except OSError as error:
        raise RunError(f"{parent}: cannot be made ({error.strerror}); choose another place with run.dir=...") from error
    raise RunError(f"{parent / name}: taken ten thousand times.")


def make(path: Path) -> list[Path]:
    """Makes a directory; returns what was made, itself first, then those above it. Raises OSError."""
    made = [path, *itertools.takewhile(lambda folder: not folder.exists(), path.parents)]
    path.mkdir(parents=True)
    return made


def remove(made: Sequence[Path]) -> None:
    """Removes what `make` made: the directory with its content, and those above it if nothing else is in them."""
    shutil.rmtree(made[0], ignore_errors=True)
    try:
        for folder in made[1:]:
            folder.rmdir()
    except OSError:
        pass  # another run is there
