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

from recexp.config import Config
from recexp.error import RunError
from recexp.logger import guarded
from recexp.run.table import epoch_line
from recexp.tree import flat, to_dict

logger = logging.getLogger(__name__)
NO_IDENTITY = ("run", "logger", "device")  # keys that say where and on what a configuration runs, not what it is
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, where there is one, is seven times as fast
PACKAGES = ("recexp", "torch", "numpy", "pandas", "hydra-core", "omegaconf")


class Run:
    """A directory being written."""

    def __init__(self, path: Path, config: Config, began: bool) -> None:
        """began: before this process; no mistake removes the directory."""
        self.path, self.monitor, self.logger = path, config.trainer.monitor, guarded(config, path)
        self.began = began
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
        path = _typed_folder(config.run.dir) if config.run.dir else _dated_folder(config)
        try:
            write_config(path, config, overrides)
        except FileExistsError:
            raise RunError(f"run.dir = {path}: another process has just begun in it.") from None
        run = cls(path, config, began=False)
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
        check_reopens(path, config)
        run = cls(path, config, began=True)
        run.status("running")
        return run

    def status(self, state: str, error: str | None = None) -> None:
        """state: running, finished, failed, interrupted or pruned."""
        self.state = state
        write_status(self.path, state, error)

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
        """Appends a line to metrics.jsonl, and tells it."""
        self.began = True
        logger.info(epoch_line(line, self.monitor))
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.logger.epoch(line)

    def rewind(self, lines: int) -> None:
        """Keeps the first lines of metrics.jsonl: those that the checkpoint knows of."""
        path = self.path / "metrics.jsonl"
        if path.is_file():
            write_text(path, "".join(path.read_text("utf-8").splitlines(keepends=True)[:lines]))
        self.logger.begin(read_epochs(self.path))  # all training begins or goes on with a call of this

    def stopped(self) -> bool:
        """Whether somebody has left a file `stop` here: a search that has seen enough of the run, or its user."""
        return (self.path / "stop").exists()

    def log(self, text: str) -> None:
        """Text for log.txt alone."""
        self._handler.emit(logging.makeLogRecord({"levelname": "ERROR", "msg": text}))

    def metrics(self, metrics: dict[str, Any]) -> None:
        write_json(self.path / "metrics.json", metrics)
        self.logger.metrics(metrics)

    def close(self) -> None:
        self.logger.close(self.state)
        logging.getLogger("recexp").removeHandler(self._handler)
        self._handler.close()

    def discard(self) -> None:
        """Removes the directory: a mistake leaves nothing behind."""
        self.close()
        remove(self.path)


def write_config(path: Path, config: Config, overrides: list[str]) -> None:
    """What a run directory begins with. Raises FileExistsError where another process has begun in it."""
    with (path / "config.yaml").open("x", encoding="utf-8") as file:
        file.write(dump(to_dict(config)))
    (path / "overrides.yaml").write_text(dump(overrides), "utf-8")


def check_reopens(path: Path, config: Config) -> None:
    """Raises RunError where a run's configuration differs from this one, or another process is writing it."""
    old, new = _identity(read_config(path)), _identity(to_dict(config))
    if different := [key for key in old.keys() | new.keys() if old.get(key) != new.get(key)]:
        key = sorted(different)[0]
        raise RunError(
            f"{path}: {key} is {new.get(key)} here and {old.get(key)} in the run; a run goes on as it began."
        )
    if (state := read_status(path))["state"] == "running" and state["pid"] != os.getpid():
        elsewhere = f" on {state['host']}; was it killed, remove status.json" * (state["host"] != socket.gethostname())
        raise RunError(f"{path}: process {state['pid']} is still writing this run{elsewhere}.")


def write_status(path: Path, state: str, error: str | None = None) -> None:
    """status.json, in the name of this process; states as in Run.status."""
    time = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    status = {"state": state, "error": error, "pid": os.getpid(), "host": socket.gethostname(), "time": time}
    write_json(path / "status.json", status)


def remove(path: Path) -> None:
    """Removes a directory, and the folder of its date if that is now empty."""
    shutil.rmtree(path, ignore_errors=True)
    if re.fullmatch(r"\d{4}-\d\d-\d\d", path.parent.name) and not any(path.parent.iterdir()):
        path.parent.rmdir()


def read_config(path: Path) -> dict[str, Any]:
    """The configuration of a run directory. Raises RunError where there is none."""
    try:
        config = yaml.load((path / "config.yaml").read_text("utf-8"), Loader=LOADER)
    except FileNotFoundError:
        raise RunError(f"{path}: no run directory (it has no config.yaml).") from None
    except yaml.YAMLError as error:
        raise RunError(f"{path / 'config.yaml'}: damaged ({str(error).splitlines()[0]}).") from error
    if not isinstance(config, dict):
        raise RunError(f"{path / 'config.yaml'}: damaged (holds no keys).")
    return config


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
    """All run directories in or below the folders, by name and number. Raises RunError for one that is not there."""
    for folder in folders:
        if not folder.is_dir():
            raise RunError(f"{folder}: no such directory.")
    return sorted({path.parent for folder in folders for path in folder.rglob("status.json")}, key=_by_number)


def _by_number(path: Path) -> list[int | str]:
    """Job 10 comes after job 9. Text and numbers alternate, so like is compared with like."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"([0-9]+)", str(path))]


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


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.writing")
    temporary.write_text(text, "utf-8")
    os.replace(temporary, path)
