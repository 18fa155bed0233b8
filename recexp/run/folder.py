"""Making the directories of runs and sweeps, and removing them again."""

import contextlib
import datetime
import errno
import itertools
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from recexp.config import Config
from recexp.error import RunError
from recexp.lock import is_locked
from recexp.storage import leftovers, new_folder

Fill = Callable[[Path], None]  # writes the first files into a new directory
TAKEN = (errno.EEXIST, errno.ENOTEMPTY)  # errors of renaming to a directory in use

ABANDONED_SECONDS = 60  # a new run has its lock much sooner


def run_name(config: Config) -> str:
    """The run's name in the names of its directories."""
    return config.run.name or f"{config.model.name}-{config.dataset.name}-s{config.seed}"


def make_run_folder(config: Config, fill: Fill) -> list[Path]:
    """As `filled`: the directory that run.dir names, or a new one for the date. Raises RunError if it cannot be made.

    A directory that is there must be empty, and gets its first files where it is.
    """
    if not config.run.dir:
        now = datetime.datetime.now()
        folder = Path("outputs") / f"{now:%Y-%m-%d}"
        return unique_folder(folder, f"{now:%H-%M-%S}-{run_name(config)}", lambda path: filled(path, fill))
    path = Path(config.run.dir)
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    if not there.is_dir():
        raise RunError(f"run.dir = {path}: {'' if there == path else f'{there} '}is a file.")
    if path.is_symlink() and not path.exists():
        raise RunError(f"run.dir = {path}: is a link to nowhere.")
    if is_filled(path):
        raise RunError(f"run.dir = {path}: exists; give another, or go on with it by run.resume=true.")
    try:
        if not path.is_dir():
            return filled(path, fill)
        fill(path)
        return [path]
    except FileExistsError:
        raise RunError(f"run.dir = {path}: another process has just begun in it.") from None
    except OSError as error:
        raise RunError(f"run.dir = {path}: cannot be made ({error.strerror}).") from error


def is_filled(path: Path) -> bool:
    """True if a directory exists and holds more than the leftovers of a process killed in its first moments."""
    return path.is_dir() and len(list(path.iterdir())) > len(leftovers(path))


def unique_folder(parent: Path, name: str, make: Callable[[Path], list[Path]]) -> list[Path]:
    """Makes parent/name, or parent/name-2 and so on if that is taken. Raises RunError if it cannot be made."""
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


def filled(path: Path, fill: Fill) -> list[Path]:
    """As `make`, but the directory appears with the files that `fill` writes into it, or not at all."""
    made = _missing(path)
    _remove_abandoned(path.parent)
    try:
        with new_folder(path) as temporary:
            fill(temporary)
    except BaseException as error:
        _remove_empty(made[1:])
        if isinstance(error, OSError) and error.errno in TAKEN:
            raise FileExistsError(error.errno, error.strerror, str(path)) from None
        raise
    return made


def make(path: Path) -> list[Path]:
    """Makes a directory; returns what was made, itself first, then those above it. Raises OSError."""
    made = _missing(path)
    path.mkdir(parents=True)
    return made


def remove(made: Sequence[Path]) -> None:
    """Removes what `make` made: the directory with its content, and those above it if nothing else is in them."""
    shutil.rmtree(made[0], ignore_errors=True)
    _remove_empty(made[1:])


def refuse_links(folder: Path, names: Iterable[str]) -> None:
    """Raises RunError for a link where files are written: it may lead anywhere."""
    for name in names:
        if (folder / name).is_symlink():
            raise RunError(f"{folder / name}: is a link, and nothing is written through links; remove it.")


def _missing(path: Path) -> list[Path]:
    """The directory and those above it that are not there yet. Raises FileExistsError if it is itself."""
    if path.exists() or path.is_symlink():
        raise FileExistsError(errno.EEXIST, "exists", str(path))
    return [path, *itertools.takewhile(lambda folder: not folder.exists(), path.parents)]


def _remove_abandoned(parent: Path) -> None:
    """Removes the leftovers of runs killed in their first moments; a living run would hold its lock by then."""
    for path in leftovers(parent):
        with contextlib.suppress(OSError):  # it has just got its name
            if is_locked(path) is False and time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                remove([path])


def _remove_empty(folders: Iterable[Path]) -> None:
    with contextlib.suppress(OSError):  # another run is there
        for folder in folders:
            folder.rmdir()
