"""Writes the run directory step by step, always with its true status."""

import contextlib
import io
import logging
import os
import platform
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from shlex import quote
from typing import Any

from recexp.config import Config
from recexp.error import DamagedFile, Failure, RunError, UserError, disk_line, signal_behind
from recexp.lock import locked
from recexp.logger import guarded
from recexp.run.folder import is_filled, make_run_folder, refuse_links, remove
from recexp.run.identity import check_same, identity
from recexp.run.lines import epoch_line
from recexp.run.read import read_epochs, read_json, read_metrics
from recexp.run.record import has_ended
from recexp.run.status import read_status, write_status
from recexp.secret import masked
from recexp.storage import append_line, open_own, remove_leftovers, write_json, write_lines, write_yaml
from recexp.tree import to_dict

logger = logging.getLogger(__name__)
PACKAGES = ("recexp", "torch", "numpy", "pandas", "hydra-core", "omegaconf")
# Files and folders that are opened by name rather than replaced as a whole.
OPENED = ("log.txt", "metrics.jsonl", "status.json", "checkpoints", "encoder", "tensorboard", "stop")


class LogFile(logging.FileHandler):
    """log.txt. A line that cannot be written ends no run."""

    def _open(self) -> io.TextIOWrapper:
        file = open_own(self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        return open(file, "a", encoding="utf-8", errors="backslashreplace")

    def handleError(self, record: logging.LogRecord) -> None: ...


class Run:
    """A run directory that is being written, locked until the process ends."""

    def __init__(
        self, path: Path, config: Config, made: Sequence[Path] = (), metrics: dict[str, Any] | None = None
    ) -> None:
        """made: the directories made for a new run; none if it is resumed, so that no mistake removes it.

        metrics: those of a run that had ended; it stays as it is.
        """
        self.path, self.config, self.monitor = path, config, config.trainer.monitor
        self.logger, self.checkpoints = guarded(config, path), path / "checkpoints"
        self.made, self.began = made, not made  # began: from now on the directory stays, whatever happens
        self.identity = ""  # of the run, for its checkpoints; known once the data are loaded
        self.ended, self._metrics = metrics is not None, metrics  # ended: the status says finished or pruned
        self._handler = LogFile(path / "log.txt")
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        package = logging.getLogger("recexp")
        package.addHandler(self._handler)
        if package.level == logging.NOTSET:
            package.setLevel(logging.INFO)

    @classmethod
    @contextlib.contextmanager
    def open(cls, config: Config, overrides: list[str]) -> Iterator["Run"]:
        """A new directory, or that of a run to resume. However the block ends, the status says so.

        A user's mistake before the first epoch leaves no new directory behind.
        Raises RunError if run.dir is taken, or if a run cannot be resumed; Failure if a file cannot be written.
        """
        resumes = config.run.resume and config.run.dir and is_filled(Path(config.run.dir))
        with contextlib.ExitStack() as stack:
            run = cls._resume(config, stack) if resumes else cls._create(config, overrides, stack)
            state, message = "interrupted", None  # unless metrics or an error say otherwise
            try:
                yield run
                run._end()
            except UserError as error:
                state, message = "failed" if run.began else "discarded", str(error)
                raise
            except BaseException as error:
                state, message, raised = run._outcome(error)
                if raised is error:
                    raise
                raise raised from error
            finally:
                run._close(state, message)

    @classmethod
    def _create(cls, config: Config, overrides: list[str], stack: contextlib.ExitStack) -> "Run":
        """A directory with its configuration. No two runs ever get the same one."""

        def fill(folder: Path) -> None:
            if not stack.enter_context(locked(folder)) or is_filled(folder):
                raise FileExistsError
            remove_leftovers(folder)
            write_config(folder, config, overrides)
            write_status(folder, "running")

        made = make_run_folder(config, fill)
        return cls(made[0], config, made)

    @classmethod
    def _resume(cls, config: Config, stack: contextlib.ExitStack) -> "Run":
        path = Path(config.run.dir or "")
        check_reopens(path, config)
        if not stack.enter_context(locked(path)):
            raise RunError(f"{path}: another process is at work on this run.")
        for folder in (path, path / "checkpoints"):
            remove_leftovers(folder)
        metrics = _results(path)
        if metrics is None:
            write_status(path, "running")
        return cls(path, config, metrics=metrics)

    def finished(self) -> dict[str, Any] | None:
        """The content of metrics.json, if the run had ended and all its results are there."""
        return self._metrics if self.ended else None

    def environment(self, fingerprint: str, facts: dict[str, Any], hardware: dict[str, Any]) -> None:
        """Writes environment.json, or adds the resuming process. Raises RunError if the run began on other data."""
        before = _environment(self.path)
        _check_data(self.path, before, fingerprint)
        process = {
            "command": masked(sys.argv),
            "directory": str(Path.cwd()),
            "python": platform.python_version(),
            "packages": {name: version(name) for name in PACKAGES},
            "git": _git(),
            "hardware": {"system": platform.platform(), "cores": os.cpu_count(), **hardware},
        }
        if before:
            content = before | {"resumed": [*before.get("resumed", []), process]}
        else:
            content = process | {"data": {"fingerprint": fingerprint, **facts}}
        write_json(self.path / "environment.json", content)
        self.identity = identity(self.config, fingerprint, self.path)

    def epoch(self, line: dict[str, Any]) -> None:
        """Appends a line to metrics.jsonl and shows it."""
        self.began = True
        logger.info(epoch_line(line, self.monitor))
        append_line(self.path / "metrics.jsonl", line)
        self.logger.epoch(line)

    def rewind(self, lines: int) -> None:
        """Keeps the first lines of metrics.jsonl, those that the checkpoint includes; called once, before any epoch."""
        file = self.path / "metrics.jsonl"
        whole, torn = read_epochs(self.path)
        kept = whole[: lines - sum(number <= lines for number in torn)]
        if whole or torn:
            write_lines(file, kept)
        if len(kept) < lines:
            logger.warning("%s: %d of its first %d lines are damaged or missing.", file, lines - len(kept), lines)
        self.logger.begin(kept)

    def stopped(self) -> bool:
        """True if there is a file `stop`, written by a search that prunes the run, or by its user."""
        return (self.path / "stop").exists()

    def log(self, text: str) -> None:
        """Text only for log.txt."""
        self._handler.emit(logging.makeLogRecord({"levelname": "ERROR", "msg": text}))

    def metrics(self, metrics: dict[str, Any]) -> None:
        """Writes metrics.json; its status is the run's, once all else is written."""
        self._metrics = metrics
        write_json(self.path / "metrics.json", metrics, checksum=False)
        self.logger.metrics(metrics)

    def _end(self) -> None:
        """The run has ended if it has metrics; this is written last."""
        if not self.ended and self._metrics:
            write_status(self.path, self._metrics["status"])
            self.ended = True

    def _outcome(self, error: BaseException) -> tuple[str, str, BaseException]:
        """State and message of a run that an error ends, and the error to raise in its place."""
        if stops := signal_behind(error):
            message = f"stopped by a signal; go on with: recexp resume {quote(str(self.path))}"
            logger.warning(message)
            return "interrupted", message, stops
        self.log("".join(traceback.format_exception(error)))
        if isinstance(error, OSError):
            message = f"{disk_line(error)}; go on with: recexp resume {quote(str(self.path))}"
            return "failed", message, Failure(message)
        return "failed", str(error) if isinstance(error, Failure) else f"{type(error).__name__}: {error}", error

    def _close(self, state: str, message: str | None) -> None:
        """state: of a run that has not ended; if it is discarded, the directory is removed."""
        try:
            if not self.ended and state != "discarded":
                with contextlib.suppress(OSError):  # it still says running then, but its process is gone
                    write_status(self.path, state, message)
            ended = self._metrics["status"] if self.ended and self._metrics else state
            self.logger.close("failed" if ended == "discarded" else ended)
        finally:
            logging.getLogger("recexp").removeHandler(self._handler)
            self._handler.close()
        if not self.ended and state == "discarded":
            remove(self.made)


def write_config(path: Path, config: Config, overrides: list[str]) -> None:
    """The first files of a run directory."""
    write_yaml(path / "config.yaml", masked(to_dict(config)))
    write_yaml(path / "overrides.yaml", masked(overrides))


def check_reopens(path: Path, config: Config) -> None:
    """Raises RunError if a run's configuration differs from this one, or another process is writing the run."""
    check_same(path, config)
    refuse_links(path, OPENED)
    try:
        status = read_status(path)
    except DamagedFile as error:
        logger.warning("%s The run goes on from its checkpoints.", error)
        return
    if status["state"] == "running":
        away = status["host"] != socket.gethostname()
        elsewhere = f" on {status['host']}; was it killed, remove status.json" if away else ""
        raise RunError(f"{path}: process {status['pid']} is still writing this run{elsewhere}.")


def check_data(path: Path, fingerprint: str) -> None:
    """Raises RunError if the data have changed since a run began."""
    _check_data(path, _environment(path), fingerprint)


def _check_data(path: Path, environment: dict[str, Any] | None, fingerprint: str) -> None:
    before = environment and environment["data"].get("fingerprint")
    if before not in (None, fingerprint):
        raise RunError(f"{path}: was run on other data ({before}) than are there now ({fingerprint}).")


def _results(path: Path) -> dict[str, Any] | None:
    """metrics.json of a run that has ended, if all its files are whole; otherwise None, and they are made anew."""
    try:
        return read_metrics(path) if has_ended(path) else None
    except DamagedFile as error:
        logger.warning("%s The results are made anew from the checkpoints.", error)
        return None


def _environment(path: Path) -> dict[str, Any] | None:
    """environment.json of a run that has begun; None if it is not there or, with a warning, if it is damaged."""
    file = path / "environment.json"
    try:
        content = read_json(file)
        if content is not None and not isinstance(content.get("data"), dict):
            raise DamagedFile(f"{file}: damaged (it tells of no data).")
        return content
    except DamagedFile as error:
        logger.warning("%s It is written anew.", error)
        return None


def _git() -> dict[str, Any] | None:
    """The commit of the checkout that the command was started in, and whether it is clean; None outside a checkout."""
    try:
        commit, changed = (
            subprocess.run(["git", *words], capture_output=True, text=True, timeout=5, check=True).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "clean": not changed}
