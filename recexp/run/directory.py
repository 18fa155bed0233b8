"""The run directory as it is written: step by step, always with its true status."""

import contextlib
import json
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
from typing import Any

from recexp.config import Config
from recexp.error import RunError, Terminated, UserError
from recexp.logger import guarded
from recexp.run.folder import make_run_folder, remove
from recexp.run.lines import epoch_line
from recexp.run.read import read_config, read_epochs, read_json
from recexp.run.status import read_status, write_status
from recexp.run.write import dump, write_json, write_text
from recexp.tree import flat, to_dict

logger = logging.getLogger(__name__)
NO_IDENTITY = ("run", "logger", "device")  # keys that say where and on what a configuration runs, not what it is
PACKAGES = ("recexp", "torch", "numpy", "pandas", "hydra-core", "omegaconf")


class Run:
    """A run directory that is being written."""

    def __init__(self, path: Path, config: Config, made: Sequence[Path]) -> None:
        """made: the directories that `make` returned; empty if the run is resumed, so that no mistake removes it."""
        self.path, self.monitor, self.logger = path, config.trainer.monitor, guarded(config, path)
        self.made, self.began = made, not made  # began: from now on the directory stays, whatever happens
        self.checkpoints = path / "checkpoints"
        self.outcome = "interrupted"  # the state the run ends in unless metrics.json says otherwise
        self._handler = logging.FileHandler(path / "log.txt", encoding="utf-8")
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        package = logging.getLogger("recexp")
        package.addHandler(self._handler)
        if package.level == logging.NOTSET:
            package.setLevel(logging.INFO)
        write_status(path, "running")

    @classmethod
    @contextlib.contextmanager
    def open(cls, config: Config, overrides: list[str]) -> Iterator["Run"]:
        """A new directory, or that of a run to resume. However the block ends, the status says so.

        A user's mistake before the first epoch leaves no new directory behind.
        Raises RunError if run.dir is taken, or if a run cannot be resumed.
        """
        run = cls._resume(config, overrides) if config.run.resume and config.run.dir else cls._create(config, overrides)
        state, message = "failed", None
        try:
            yield run
            state = run.outcome
        except UserError as error:
            state, message = "failed" if run.began else "discarded", str(error)
            raise
        except (KeyboardInterrupt, Terminated):
            state, message = "interrupted", f"stopped by a signal; go on with: recexp resume {run.path}"
            raise
        except BaseException as error:
            run.log(traceback.format_exc())
            message = f"{type(error).__name__}: {error}"
            raise
        finally:
            run._close(state, message)

    @classmethod
    def _create(cls, config: Config, overrides: list[str]) -> "Run":
        """A directory with its configuration. No two runs ever get the same one."""
        made = make_run_folder(config)
        try:
            write_config(made[0], config, overrides)
        except FileExistsError:
            raise RunError(f"run.dir = {made[0]}: another process has just begun in it.") from None
        return cls(made[0], config, made)

    @classmethod
    def _resume(cls, config: Config, overrides: list[str]) -> "Run":
        path = Path(config.run.dir or "")
        if not path.is_dir() or not any(path.iterdir()):
            return cls._create(config, overrides)
        check_reopens(path, config)
        return cls(path, config, made=[])

    def finished(self) -> dict[str, Any] | None:
        """The content of metrics.json, if the run had already ended."""
        if metrics := read_json(self.path / "metrics.json"):
            self.outcome = metrics["status"]
        return metrics

    def environment(self, fingerprint: str, facts: dict[str, Any], hardware: dict[str, Any]) -> None:
        write_json(
            self.path / "environment.json",
            {
                "command": sys.argv,
                "directory": str(Path.cwd()),
                "python": platform.python_version(),
                "packages": {name: version(name) for name in PACKAGES},
                "git": _git(),
                "hardware": {"system": platform.platform(), "cores": os.cpu_count(), **hardware},
                "data": {"fingerprint": fingerprint, **facts},
            },
        )

    def epoch(self, line: dict[str, Any]) -> None:
        """Appends a line to metrics.jsonl and shows it."""
        self.began = True
        logger.info(epoch_line(line, self.monitor))
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.logger.epoch(line)

    def rewind(self, lines: int) -> None:
        """Keeps the first lines of metrics.jsonl, those that the checkpoint includes; called once, before any epoch."""
        path = self.path / "metrics.jsonl"
        if path.is_file():
            write_text(path, "".join(path.read_text("utf-8").splitlines(keepends=True)[:lines]))
        self.logger.begin(read_epochs(self.path))

    def stopped(self) -> bool:
        """Whether there is a file `stop`, left by a search that has seen enough of the run, or by its user."""
        return (self.path / "stop").exists()

    def log(self, text: str) -> None:
        """Text for log.txt alone."""
        self._handler.emit(logging.makeLogRecord({"levelname": "ERROR", "msg": text}))

    def metrics(self, metrics: dict[str, Any]) -> None:
        """Writes metrics.json, with which the run is finished or pruned."""
        write_json(self.path / "metrics.json", metrics)
        self.outcome = metrics["status"]
        self.logger.metrics(metrics)

    def _close(self, state: str, message: str | None) -> None:
        """state: finished, pruned, failed, interrupted, or discarded: then the directory is removed."""
        discarded = state == "discarded"
        try:
            if not discarded:
                write_status(self.path, state, message)
            self.logger.close("failed" if discarded else state)
        finally:
            logging.getLogger("recexp").removeHandler(self._handler)
            self._handler.close()
        if discarded:
            remove(self.made)


def write_config(path: Path, config: Config, overrides: list[str]) -> None:
    """The first files of a run directory. Raises FileExistsError if another process has begun in it."""
    with (path / "config.yaml").open("x", encoding="utf-8") as file:
        file.write(dump(to_dict(config)))
    (path / "overrides.yaml").write_text(dump(overrides), "utf-8")


def check_reopens(path: Path, config: Config) -> None:
    """Raises RunError if a run's configuration differs from this one, or another process is writing the run."""
    old, new = _identity(read_config(path)), _identity(to_dict(config))
    if different := [key for key in old.keys() | new.keys() if old.get(key) != new.get(key)]:
        key = sorted(different)[0]
        raise RunError(
            f"{path}: {key} is {new.get(key)} here and {old.get(key)} in the run; a run goes on as it began."
        )
    status = read_status(path)
    if status["state"] == "running" and status["pid"] != os.getpid():
        away = status["host"] != socket.gethostname()
        elsewhere = f" on {status['host']}; was it killed, remove status.json" if away else ""
        raise RunError(f"{path}: process {status['pid']} is still writing this run{elsewhere}.")


def _identity(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flat(config) if key.split(".")[0] not in NO_IDENTITY}


def _git() -> dict[str, Any] | None:
    """Commit and cleanliness of the checkout the command was started in, if it is one."""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain"], capture_output=True, text=True, timeout=5, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "clean": not changed.strip()}
