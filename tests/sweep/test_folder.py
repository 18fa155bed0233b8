"""A sweep's folder: for one process at a time, removed if nothing has begun in it."""

import subprocess
import sys
from pathlib import Path

import pytest

from recexp.error import ConfigError, RunError
from recexp.sweep.folder import find_job, find_jobs, opened, read_command, state


@pytest.fixture(autouse=True)
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_sweeps_that_begin_at_once_get_folders_of_their_own():
    program = """
import sys
from recexp.sweep.folder import opened
print("ready", flush=True)
sys.stdin.readline()
with opened(None, False) as folder:
    (folder / "sweep.yaml").touch()
    print(folder)
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    started = [subprocess.Popen([sys.executable, "-c", program], **pipes) for _ in range(4)]
    assert [process.stdout.readline() for process in started] == ["ready\n"] * 4
    for process in started:
        process.stdin.write("\n")
        process.stdin.flush()
    made = {process.communicate(timeout=60)[0].strip() for process in started}
    assert len(made) == 4 and all(Path(path, "sweep.yaml").exists() for path in made)


def test_a_folder_in_which_nothing_began_is_gone_and_so_is_its_date():
    with opened(None, False) as dated, opened("a/b", False) as typed:
        (dated / "multirun.yaml").touch()
        assert dated.parent.parent == Path("outputs/multirun") and typed.is_dir()
    assert not dated.parent.exists() and not typed.exists()


def test_a_folder_that_was_there_stays():
    Path("a").mkdir()
    with opened("a", False):
        Path("a/multirun.yaml").touch()
    assert list(Path("a").iterdir()) == []


def test_what_a_sweep_killed_before_its_first_job_leaves_is_no_sweep():
    Path("a").mkdir()
    Path("a/multirun.yaml").write_text("hydra: {torn")
    with opened("a", False) as folder:
        assert list(folder.iterdir()) == []


def test_a_folder_is_one_process_at_a_times():
    with opened("a", False):
        Path("a/sweep.yaml").touch()
        with pytest.raises(RunError, match="another process is at work"), opened("a", True):
            pass
        assert Path("a/sweep.yaml").exists()
    with opened("a", True):
        pass
    assert Path("a/sweep.yaml").exists()


def test_going_on_without_saying_where_is_a_mistake():
    with pytest.raises(ConfigError, match=r"run\.dir"), opened(None, True):
        pass
    assert not Path("outputs").exists()


def test_jobs_are_found_by_the_number_that_their_names_begin_with():
    for name in ("0-b", "1-a", "10-c", "1x-d", "notes"):
        Path("sweep", name).mkdir(parents=True)
        Path("sweep", name, "config.yaml").touch()
    Path("sweep/2-unbegun").mkdir()
    assert [path.name for path in find_jobs(Path("sweep"))] == ["0-b", "1-a", "10-c"]
    assert find_job(Path("sweep"), 1) == Path("sweep/1-a")
    assert find_job(Path("sweep"), 2) is None
    assert state(Path("sweep/1-a")) == ("missing", None)


def test_a_damaged_record_of_what_was_typed_is_an_error_that_names_it():
    Path("sweep.yaml").write_text("overrides: [")
    with pytest.raises(RunError, match=r"sweep\.yaml: damaged"):
        read_command(Path())
