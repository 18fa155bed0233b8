"""The status of a run is true also of one whose process was killed."""

import json
import os
import socket
import subprocess
import sys

import pytest

from recexp.run.status import read_status


@pytest.mark.parametrize(("pid", "state"), [(os.getpid(), "running"), (None, "interrupted")])
def test_a_running_state_counts_while_its_process_lives(tmp_path, pid, state):
    if pid is None:
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        pid = gone.pid
    (tmp_path / "status.json").write_text(
        json.dumps({"state": "running", "error": None, "pid": pid, "host": socket.gethostname()})
    )
    assert read_status(tmp_path)["state"] == state
