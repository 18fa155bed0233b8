"""The status of a run is true also of one whose process was killed."""

import os
import subprocess
import sys

import pytest

from recexp import lock, storage
from recexp.error import DamagedFile
from recexp.run import status as module
from recexp.run.status import check_results, last_status, read_status, write_status


def test_a_running_state_counts_while_its_process_holds_the_lock(tmp_path):
    write_status(tmp_path, "running")
    with lock.locked(tmp_path):
        assert read_status(tmp_path)["state"] == "running"
    assert read_status(tmp_path)["state"] == "interrupted"  # although this very process wrote it and lives


def test_without_locks_the_process_and_its_start_decide(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "is_locked", lambda path: None)
    write_status(tmp_path, "running")
    assert read_status(tmp_path)["state"] == "running"
    written = storage.read_json(tmp_path / "status.json")
    later = {**written, "started": (written["started"] or 0) + 1}  # another process that got the same id
    storage.write_json(tmp_path / "status.json", later)
    assert read_status(tmp_path)["state"] == "interrupted"
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    storage.write_json(tmp_path / "status.json", {**written, "pid": gone.pid})
    assert read_status(tmp_path)["state"] == "interrupted"


def test_a_run_on_another_machine_is_believed(tmp_path):
    write_status(tmp_path, "running")
    written = storage.read_json(tmp_path / "status.json")
    storage.write_json(tmp_path / "status.json", {**written, "host": "elsewhere"})
    assert read_status(tmp_path)["state"] == "running"


def test_an_ended_run_answers_for_its_results(tmp_path):
    for name in ("metrics.json", "curves.png"):
        (tmp_path / name).write_text(name)
    write_status(tmp_path, "running")
    assert "files" not in last_status(tmp_path)
    write_status(tmp_path, "pruned")
    status = last_status(tmp_path)
    assert list(status["files"]) == ["metrics.json", "curves.png"]
    check_results(tmp_path, status)
    (tmp_path / "curves.png").write_text("curves.pnG")
    with pytest.raises(DamagedFile, match=r"curves\.png: damaged"):
        check_results(tmp_path, status)
    (tmp_path / "curves.png").unlink()
    os.mkfifo(tmp_path / "curves.png")
    with pytest.raises(DamagedFile, match=r"curves\.png: cannot be read .*is no file"):
        check_results(tmp_path, status)
