"""What the launcher hands out to jobs that run at once: cores, GPUs, processes."""

import ctypes
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from hydra_plugins.recexp_launcher import gate, processes
from recexp import storage
from recexp.sweep import pool
from recexp.sweep.folder import quoted


@pytest.mark.parametrize(
    ("launcher", "jobs", "cores"),
    [
        ({"n_jobs": 1}, 5, 16),
        ({"n_jobs": 4}, 5, 4),
        ({"n_jobs": 4}, 2, 8),  # two jobs are at most two at once
        ({"n_jobs": 5}, 9, 3),
        ({"n_jobs": 40}, 99, 1),
        ({"n_jobs": -1}, 99, 1),  # joblib's: as many as there are cores
        ({}, 9, 16),  # Hydra's own: one after the other
        ({"cpus_per_task": 6}, 9, 6),
        ({"cpus_per_task": None}, 9, 1),
    ],
)
def test_cores_are_divided_among_the_jobs_that_run_at_once(launcher, jobs, cores, monkeypatch):
    monkeypatch.setattr(gate, "cores", lambda: 16)
    assert gate.threads_per_job(OmegaConf.create(launcher), jobs) == cores


@pytest.mark.parametrize(
    ("count", "named", "expected"),
    [
        (0, None, []),
        (1, None, []),
        (2, None, ["0", "1"]),
        (2, "5,7", ["5", "7"]),
        (2, "GPU-a,GPU-b", ["GPU-a", "GPU-b"]),
    ],
)
def test_gpus_are_those_that_the_process_sees_where_there_are_several(count, named, expected, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert processes.gpus() == expected


@pytest.mark.parametrize("name", ["a/0-fm", "with space", "it's", "a=b,c", "{x}[y]", "ünï"])
def test_a_directory_comes_through_hydras_grammar_as_it_is(name):
    assert processes.directory(["model=fm", f"++run.dir={quoted(Path(name))}"]) == Path(name)


@pytest.mark.parametrize(
    ("code", "state", "told"),
    [(-9, "interrupted", "signal 9 (Killed)"), (-11, "failed", "signal 11 (Segmentation fault)"),
     (-15, "interrupted", "signal 15"), (-63, "failed", "signal 63"), (0, "failed", "code 0"), (3, "failed", "code 3")],
)  # fmt: skip
def test_a_process_that_is_gone_was_killed_from_outside_or_has_failed(code, state, told):
    assert pool.ending(code)[0] == state and told in pool.ending(code)[1]


def test_jobs_at_once_see_a_gpu_each_and_a_job_with_a_device_of_its_own_sees_all(tmp_path, monkeypatch):
    """Jobs that note what they see, in place of training."""
    devices = ["auto", "cuda", "cpu", "cuda:1"]
    paths = [tmp_path / device for device in devices]
    for path in paths:
        path.mkdir()
        (path / "config.yaml").write_text(f"device: {path.name}")
        (path / "status.json").write_text('{"state": "finished", "error": null, "pid": 0, "host": ""}')
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.setattr(pool, "main", seen)
    pool.Pool(4, ["3", "5"]).run(paths)
    assert [(path / "seen").read_text() for path in paths] == ["3", "5", "3,5", "3,5"]


def seen(path: Path, environment: dict[str, str], gpu: str | None) -> None:
    pool.run = lambda path: (path / "seen").write_text(pool.os.environ["CUDA_VISIBLE_DEVICES"])
    pool.main(path, environment, gpu)


@pytest.mark.parametrize(("hangs", "sent"), [(False, signal.SIGTERM), (True, signal.SIGKILL)])
def test_a_job_whose_sweep_is_killed_is_interrupted_and_killed_if_that_does_not_end_it(hangs, sent, monkeypatch):
    monkeypatch.setattr(pool, "PATIENCE", 0.1)
    sweep_alive, sweep = os.pipe()
    monkeypatch.setattr(pool.multiprocessing, "parent_process", lambda: SimpleNamespace(sentinel=sweep_alive))
    if not (job := os.fork()):
        os.close(sweep)
        os.setpgrp()
        signal.signal(signal.SIGTERM, signal.SIG_IGN if hangs else signal.SIG_DFL)
        pool._watch()
        ctypes.PyDLL(None).sleep(60)  # holds the interpreter's lock
        os._exit(0)
    os.close(sweep)
    assert os.waitstatus_to_exitcode(os.waitpid(job, 0)[1]) == -sent
    os.close(sweep_alive)


def test_a_job_that_heeds_no_signal_is_killed_with_what_it_has_started(tmp_path, monkeypatch):
    (tmp_path / "config.yaml").write_text("device: cpu")
    monkeypatch.setattr(pool, "main", deaf)
    monkeypatch.setattr(pool, "PATIENCE", 0.2)
    pool.Pool(1, timeout=1).run([tmp_path])
    status = storage.read_json(tmp_path / "status.json")
    assert (status["state"], status["error"]) == ("failed", "job_timeout = 1 seconds: it took longer")


def deaf(path: Path, environment: dict[str, str], gpu: str | None) -> None:
    """A job that hangs for ever in a system call, as native code may, and has signals ignored."""
    os.setpgrp()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.read(os.pipe()[0], 1)


def test_a_job_that_ends_in_its_time_is_left_alone(tmp_path, monkeypatch):
    (tmp_path / "status.json").write_text('{"state": "finished", "error": null, "pid": 0, "host": ""}')
    monkeypatch.setattr(pool, "main", idle)
    pool.Pool(1, timeout=600).run([tmp_path])
    assert storage.read_json(tmp_path / "status.json")["state"] == "finished"


def idle(path: Path, environment: dict[str, str], gpu: str | None) -> None: ...
