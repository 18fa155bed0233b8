"""The run directory: made once, written step by step, always telling its true state."""

import datetime
import json
import logging
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from recexp.config import Config, to_dict
from recexp.error import RunError
from recexp.run.table import epoch_line

logger = logging.getLogger(__name__)
NO_IDENTITY = ("run", "device")  # keys that say where and on what a configuration runs, not what it is
PACKAGES = ("recexp", "torch", "numpy", "pandas", "hydra-core", "omegaconf")


class Run:
    """A directory being written."""

    def __init__(self, path: Path, monitor: str) -> None:
        self.path, self.monitor = path, monitor
        self.began = (
            path / "status.json"
        ).exists()  # it was there before, or training has begun: no mistake removes it
        self.checkpoints = path / "checkpoints"
        self._handler = logging.FileHandler(path / "log.txt", encoding="utf-8")
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        package = logging.getLogger("recexp")
        package.addHandler(self._handler)
        if package.level == logging.NOTSET:
            package.setLevel(logging.INFO)

    @classmethod
    def create(cls, config: Config, overrides: list[str]) -> "Run":
        """A new directory with its configuration, in state running. No two runs ever get the same one.

        Raises RunError when run.dir is taken.
        """
        run = cls(_typed_folder(config.run.dir) if config.run.dir else _dated_folder(config), config.trainer.monitor)
        (run.path / "config.yaml").write_text(dump(to_dict(config)), "utf-8")
        (run.path / "overrides.yaml").write_text(dump(overrides), "utf-8")
        run.status("running")
        return run

    @classmethod
    def reopen(cls, config: Config, overrides: list[str]) -> "Run":
        """The directory of a run to go on with, made where there is none.

        Raises RunError when its configuration differs, or another process is writing it.
        """
        path = Path(config.run.dir or "")
        if not path.is_dir() or not any(path.iterdir()):
            return cls.create(config, overrides)
        old, new = _identity(read_config(path)), _identity(to_dict(config))
        if different := [key for key in old.keys() | new.keys() if old.get(key) != new.get(key)]:
            key = sorted(different)[0]
            raise RunError(
                f"{path}: {key} is {new.get(key)} here and {old.get(key)} in the run; a run goes on as it began."
            )
        if (state := read_status(path))["state"] == "running" and state["pid"] != os.getpid():
            raise RunError(f"{path}: process {state['pid']} is still writing this run.")
        run = cls(path, config.trainer.monitor)
        run.status("running")
        return run

    def status(self, state: str, error: str | None = None) -> None:
        """state: running, finished, failed or interrupted."""
        _write_json(
            self.path / "status.json",
            {
                "state": state,
                "error": error,
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "time": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            },
        )

    def environment(self, fingerprint: str, facts: dict[str, Any], device: str) -> None:
        _write_json(
            self.path / "environment.json",
            {
                "command": sys.argv,
                "directory": str(Path.cwd()),
                "python": platform.python_version(),
                "packages": {name: version(name) for name in PACKAGES},
                "git": _git(),
                "hardware": {"system": platform.platform(), "cores": os.cpu_count(), "device": device},
                "data": {"fingerprint": fingerprint, **facts},
            },
        )

    def epoch(self, line: dict[str, Any]) -> None:
        """Appends a line to metrics.jsonl, and tells it."""
        self.began = True
        logger.info(epoch_line(line, self.monitor))
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def rewind(self, lines: int) -> None:
        """Keeps the first lines of metrics.jsonl: those that the checkpoint knows of."""
        path = self.path / "metrics.jsonl"
        if path.is_file():
            _write_text(path, "".join(path.read_text("utf-8").splitlines(keepends=True)[:lines]))

    def log(self, text: str) -> None:
        """Text for log.txt alone."""
        self._handler.emit(logging.makeLogRecord({"levelname": "ERROR", "msg": text}))

    def metrics(self, metrics: dict[str, Any]) -> None:
        _write_json(self.path / "metrics.json", metrics)

    def close(self) -> None:
        logging.getLogger("recexp").removeHandler(self._handler)
        self._handler.close()

    def discard(self) -> None:
        """Removes the directory: a mistake leaves nothing behind."""
        self.close()
        remove(self.path)


def remove(path: Path) -> None:
    """Removes a directory, and the folder of its date if that is now empty."""
    shutil.rmtree(path, ignore_errors=True)
    if re.fullmatch(r"\d{4}-\d\d-\d\d", path.parent.name) and not any(path.parent.iterdir()):
        path.parent.rmdir()


def read_config(path: Path) -> dict[str, Any]:
    """The configuration of a run directory. Raises RunError where there is none."""
    try:
        return yaml.safe_load((path / "config.yaml").read_text("utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path}: no run directory (it has no config.yaml).") from None
    except yaml.YAMLError as error:
        raise RunError(f"{path / 'config.yaml'}: damaged ({str(error).splitlines()[0]}).") from error


def read_status(path: Path) -> dict[str, Any]:
    """The status of a run; one whose process was killed is interrupted, whatever it last wrote."""
    status = read_json(path / "status.json") or {
        "state": "interrupted",
        "error": "no status.json",
        "pid": None,
        "host": None,
    }
    if status["state"] == "running" and status["host"] == socket.gethostname() and not _alive(status["pid"]):
        status |= {"state": "interrupted", "error": "the process was killed"}
    return status


def read_json(path: Path) -> dict[str, Any] | None:
    """The file's content, None where there is none. Raises RunError where it is damaged."""
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RunError(f"{path}: damaged ({error}).") from error


def read_epochs(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a last line that a kill cut short is left out."""
    file = path / "metrics.jsonl"
    lines = file.read_text("utf-8").splitlines(keepends=True) if file.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def find_runs(folders: list[Path]) -> list[Path]:
    """All run directories in or below the folders, by name. Raises RunError for a folder that is not there."""
    for folder in folders:
        if not folder.is_dir():
            raise RunError(f"{folder}: no such directory.")
    return sorted({path.parent for folder in folders for path in folder.rglob("status.json")})


def dump(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)


def _typed_folder(typed: str) -> Path:
    path = Path(typed)
    if path.is_file():
        raise RunError(f"run.dir = {path}: is a file.")
    if path.is_dir() and any(path.iterdir()):
        raise RunError(f"run.dir = {path}: exists; give another, or go on with it by run.resume=true.")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"run.dir = {path}: cannot be made ({error.strerror}).") from error
    return path


def _dated_folder(config: Config) -> Path:
    now = datetime.datetime.now()
    return unique_folder(Path("outputs") / f"{now:%Y-%m-%d}", f"{now:%H-%M-%S}-{run_name(config)}")


def run_name(config: Config) -> str:
    """What a run is called in the names of its directories."""
    return config.run.name or f"{config.model.name}-{config.dataset.name}-s{config.seed}"


def unique_folder(parent: Path, name: str) -> Path:
    """Makes parent/name, or parent/name-2 and so on where that is taken. Raises RunError where it cannot."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for number in range(1, 10_000):
            path = parent / (name if number == 1 else f"{name}-{number}")
            try:
                path.mkdir()  # fails where another process was faster
                return path
            except FileExistsError:
                continue
    except OSError as error:
        raise RunError(f"{parent}: cannot be made ({error.strerror}); choose another place with run.dir=...") from error
    raise RunError(f"{parent / name}: taken ten thousand times.")


def _identity(config: dict[str, Any]) -> dict[str, Any]:
    from recexp.config import flat

    return {key: value for key, value in flat(config) if key.split(".")[0] not in NO_IDENTITY}


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


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


def _write_json(path: Path, value: Any) -> None:
    _write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.writing")
    temporary.write_text(text, "utf-8")
    os.replace(temporary, path)
