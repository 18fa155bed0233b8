"""status.json: the state of a run, the process that wrote it, and once the run has ended the digests of its results."""

import datetime
import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from recexp.error import DamagedFile
from recexp.lock import is_locked
from recexp.run.read import read_json
from recexp.storage import file_digest, write_json

ENDED = ("finished", "pruned")  # states of runs that have their results
RESULTS = ("metrics.json", "predictions.parquet", "recommendations.parquet", "curves.png")


def write_status(path: Path, state: str, error: str | None = None) -> None:
    """state: running, finished, pruned, failed or interrupted. The writing process is this one."""
    pid, time = os.getpid(), datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    status = {"state": state, "error": error, "pid": pid, "started": _started(pid), "host": socket.gethostname()}
    results = [name for name in RESULTS if (path / name).is_file()] if state in ENDED else []
    files = {name: file_digest(path / name) for name in results}
    write_json(path / "status.json", {**status, "time": time, **({"files": files} if files else {})})


def last_status(path: Path) -> dict[str, Any]:
    """The status as it was written last. Raises DamagedFile."""
    if (status := read_json(path / "status.json")) is None:
        status = {"state": "interrupted", "error": "no status.json"}
    if not isinstance(status.get("state"), str) or not isinstance(status.get("files", {}), dict):
        raise DamagedFile(f"{path / 'status.json'}: damaged (it tells no state).")
    return {"error": None, "pid": None, "host": None, **status}


def read_status(path: Path) -> dict[str, Any]:
    """The status of a run. One whose process was killed is interrupted, whatever it last wrote. Raises DamagedFile."""
    status = last_status(path)
    if status["state"] == "running" and status["host"] == socket.gethostname() and not _at_work(path, status):
        status |= {"state": "interrupted", "error": "the process was killed"}
    return status


def check_results(path: Path, status: dict[str, Any], names: Iterable[str] = RESULTS) -> None:
    """Raises DamagedFile if a result of a run that has ended is missing or not what was written."""
    for name in names:
        file, expected = path / name, status.get("files", {}).get(name)
        if expected is None:  # not made, or by an earlier version
            continue
        try:
            is_whole = file_digest(file) == expected
        except OSError as error:
            raise DamagedFile(f"{file}: cannot be read ({error.strerror or error}).") from error
        if not is_whole:
            raise DamagedFile(f"{file}: damaged (its content is not that of its checksum in status.json).")


def _at_work(path: Path, status: dict[str, Any]) -> bool:
    """True if the process that wrote the status lives: it holds the lock. Without locks its id and start must agree."""
    locked = is_locked(path)
    if locked is not None:
        return locked
    return _alive(status["pid"]) and _started(status["pid"]) == status.get("started")


def _alive(pid: Any) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, TypeError, OverflowError):
        return False
    return True


def _started(pid: int) -> int | None:
    """When a process started, in ticks since the machine did; None where there is no /proc to tell."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None
