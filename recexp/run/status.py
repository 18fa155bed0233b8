"""status.json: the state of a run, and the process that wrote it."""

import datetime
import os
import socket
from pathlib import Path
from typing import Any

from recexp.run.read import read_json
from recexp.run.write import write_json


def write_status(path: Path, state: str, error: str | None = None) -> None:
    """state: running, finished, pruned, failed or interrupted. The writing process is this one."""
    time = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    status = {"state": state, "error": error, "pid": os.getpid(), "host": socket.gethostname(), "time": time}
    write_json(path / "status.json", status)


def read_status(path: Path) -> dict[str, Any]:
    """The status of a run. One whose process was killed is interrupted, whatever it last wrote."""
    status = read_json(path / "status.json") or {
        "state": "interrupted",
        "error": "no status.json",
        "pid": None,
        "host": None,
    }
    if status["state"] == "running" and status["host"] == socket.gethostname() and not _alive(status["pid"]):
        status |= {"state": "interrupted", "error": "the process was killed"}
    return status


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
