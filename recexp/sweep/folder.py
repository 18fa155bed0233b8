"""A sweep's folder: sweep.yaml with its command, and one run directory per job.

A job's directory is named by its number and holds the whole configuration before the job starts. So a launcher only
needs to know directories, and an interrupted sweep can be resumed.
"""

import contextlib
import datetime
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from recexp.config import Config
from recexp.error import ConfigError, DamagedFile, RunError
from recexp.lock import locked
from recexp.run.directory import write_config
from recexp.run.folder import filled, is_filled, make, refuse_links, remove, run_name, unique_folder
from recexp.run.record import has_ended
from recexp.run.status import read_status
from recexp.secret import masked
from recexp.storage import read_yaml, remove_leftovers, write_yaml

COMMAND = "sweep.yaml"
MULTIRUN = "multirun.yaml"  # Hydra's; sweep.yaml replaces it
FOREIGN = (MULTIRUN, "study.db")  # what other packages write there
FOLDER_OVERRIDE = re.compile(r"\+*run\.(dir|resume)=")  # says where a sweep is, not what it does


class Stopped(Exception):
    """Raised when a sweep ends at its first failure, as run.fail_fast demands."""


@dataclass(frozen=True)
class Sweep:
    """overrides and flags: those of the command line, without run.dir and run.resume."""

    folder: Path
    overrides: list[str]
    flags: list[str]


@dataclass(frozen=True)
class Job:
    """number: Hydra's. path: the run directory. overrides: the command line's, with this job's values."""

    number: int
    path: Path
    config: Config
    overrides: list[str]

    @property
    def began(self) -> bool:
        return (self.path / "status.json").exists()

    @property
    def ended(self) -> bool:
        """Whether it need not run again: nothing of it is missing or damaged."""
        with contextlib.suppress(RunError):
            return has_ended(self.path)
        return False


@contextlib.contextmanager
def opened(run_dir: str | None, resume: bool) -> Iterator[Path]:
    """The folder of a sweep, locked for this process; removed at the end if it is new and nothing has begun in it.

    run_dir: the command line's, None for a new folder named by the time.
    Raises RunError if another process holds the folder or it cannot be made.
    """
    folder, made = _find_or_make(run_dir, resume)
    with locked(folder) as acquired:
        if not acquired:
            raise RunError(f"{folder}: another process is at work on this sweep.")
        if not made:
            _check_resumes(folder, resume)
        try:
            yield folder
        finally:
            (folder / MULTIRUN).unlink(missing_ok=True)
            if made and not begun(folder):
                remove(made)


def begun(folder: Path) -> bool:
    return (folder / COMMAND).exists()


def begin(sweep: Sweep, jobs: Sequence[Job]) -> None:
    """Writes the sweep's command, and a directory with its configuration for each new job."""
    command = {"overrides": sweep.overrides, "flags": sweep.flags, "directory": str(Path.cwd())}
    write_yaml(sweep.folder / COMMAND, masked(command))
    for job in jobs:
        if not (job.path / "config.yaml").exists():
            filled(job.path, partial(write_config, config=job.config, overrides=job.overrides))


def quoted(path: Path) -> str:
    """A path as Hydra's override grammar quotes it."""
    return "'" + str(path).replace("'", "\\'") + "'"


def read_command(folder: Path) -> dict[str, Any]:
    """The overrides and flags of a sweep's command, and the directory where it was typed. Raises DamagedFile."""
    command = read_yaml(folder / COMMAND)
    if not (isinstance(command, dict) and all(isinstance(command.get(key), list) for key in ("overrides", "flags"))):
        raise DamagedFile(f"{folder / COMMAND}: damaged (it does not hold what was typed).")
    return command


def state(path: Path) -> tuple[str, str | None]:
    """State and error of a job; missing if it has not begun, damaged if it cannot be read."""
    if not (path / "status.json").exists():
        return "missing", None
    try:
        status = read_status(path)
    except DamagedFile as error:
        return "damaged", str(error)
    return status["state"], status["error"]


def job_path(folder: Path, number: int, config: Config) -> Path:
    """The directory of a job: the existing one with its number, or a new one."""
    return find_job(folder, number) or folder / f"{number}-{run_name(config)}"


def find_job(folder: Path, number: int) -> Path | None:
    return next((path.parent for path in folder.glob(f"{number}-*/config.yaml")), None)


def find_jobs(folder: Path) -> list[Path]:
    """The directories of all jobs, by number."""
    paths = [path.parent for path in folder.glob("*-*/config.yaml") if path.parent.name.split("-")[0].isdecimal()]
    return sorted(paths, key=lambda path: int(path.name.split("-")[0]))


def _find_or_make(run_dir: str | None, resume: bool) -> tuple[Path, list[Path]]:
    """The folder, and the directories made for it, none if it was there."""
    if run_dir is None:
        if resume:
            raise ConfigError("run.resume = true: goes on with a sweep in run.dir, so give that too.")
        now = datetime.datetime.now()
        made = unique_folder(Path("outputs/multirun") / f"{now:%Y-%m-%d}", f"{now:%H-%M-%S}", make)
        return made[0], made
    folder = Path(run_dir)
    try:
        return folder, make(folder)
    except FileExistsError:
        if folder.is_dir():
            return folder, []
        raise RunError(f"run.dir = {folder}: is a file.") from None
    except OSError as error:
        raise RunError(f"run.dir = {folder}: cannot be made ({error.strerror}).") from error


def _check_resumes(folder: Path, resume: bool) -> None:
    remove_leftovers(folder)
    if [path.name for path in folder.iterdir()] == [MULTIRUN]:  # its process was killed before the first job
        (folder / MULTIRUN).unlink()
    if not is_filled(folder):
        return
    if not resume:
        raise RunError(f"run.dir = {folder}: exists; give another, or go on with it by run.resume=true.")
    if not begun(folder):
        raise RunError(f"run.dir = {folder}: is no sweep's folder (it has no {COMMAND}).")
    refuse_links(folder, FOREIGN)
