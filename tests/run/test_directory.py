"""The run directory: never shared, never half-written, always telling its state."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from recexp.error import RunError
from recexp.run.folder import remove, unique_folder
from recexp.run.read import find_runs, read_config, read_epochs, read_json
from recexp.run.status import read_status


def test_folders_asked_for_at_once_are_all_different(tmp_path):
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(lambda _: unique_folder(tmp_path, "run"), range(64)))
    assert len(set(made)) == 64 and all(path.is_dir() for path in made)


def test_an_unwritable_place_is_an_error_that_names_it(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"file.*run\.dir"):
        unique_folder(tmp_path / "file" / "below", "run")


def test_a_last_line_cut_short_by_a_kill_is_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}\n{"epoch": 2}\n{"epo')
    assert [line["epoch"] for line in read_epochs(tmp_path)] == [1, 2]


def test_damaged_and_missing_files_are_errors_that_name_them(tmp_path):
    with pytest.raises(RunError, match=r"no config\.yaml"):
        read_config(tmp_path)
    assert read_json(tmp_path / "metrics.json") is None
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(RunError, match=r"metrics\.json: damaged"):
        read_json(tmp_path / "metrics.json")


@pytest.mark.parametrize(("pid", "state"), [(os.getpid(), "running"), (None, "interrupted")])
def test_a_running_state_counts_while_its_process_lives(tmp_path, pid, state):
    if pid is None:
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        pid = gone.pid
    import socket

    (tmp_path / "status.json").write_text(
        json.dumps({"state": "running", "error": None, "pid": pid, "host": socket.gethostname()})
    )
    assert read_status(tmp_path)["state"] == state


def test_removing_a_run_takes_an_empty_folder_of_its_date_along(tmp_path):
    day = tmp_path / "outputs" / "2026-01-31"
    for name in ("a", "b"):
        (day / name).mkdir(parents=True)
    remove(day / "a")
    assert day.is_dir()
    remove(day / "b")
    assert not day.exists() and (tmp_path / "outputs").is_dir()


def test_runs_are_found_at_any_depth(tmp_path):
    for name in ("x/10-a", "x/2-b", "y"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "status.json").write_text("{}")
    assert [str(path.relative_to(tmp_path)) for path in find_runs([tmp_path])] == ["x/2-b", "x/10-a", "y"]
    with pytest.raises(RunError, match="no such directory"):
        find_runs([Path("nowhere")])
