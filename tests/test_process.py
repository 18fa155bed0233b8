import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from recexp.process import OthersWatch, cores
from recexp.trainer.loop import crowding_warning, with_crowding_warning


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("max 100000\n", None),
        ("200000 100000\n", 2),
        ("150000 100000\n", 1),
        ("50000 100000\n", 1),
        (f"{2**60} 1\n", None),
    ],
)
def test_a_container_may_grant_fewer_cores_than_the_machine_has(
    limit: str, expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(8), raising=False)
    monkeypatch.setattr(Path, "is_file", lambda path: path == Path("/sys/fs/cgroup/cpu.max"))
    monkeypatch.setattr(Path, "read_text", lambda path: limit)
    assert cores() == (expected or 8)


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="the system does not tell what its processes use")
def test_work_of_another_process_is_seen_and_own_work_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    work = "import time\nwhile time.process_time() < 0.5: pass"
    others, began = OthersWatch(), time.monotonic()
    subprocess.run([sys.executable, "-c", work], check=True)
    assert others.cores() * (time.monotonic() - began) > 0.45
    monkeypatch.setattr(Path, "read_text", lambda path: "cpu 1 2 3 4 5 6 7 8 9 10")
    own, until = OthersWatch(), time.process_time() + 0.2
    while time.process_time() < until:
        pass
    assert own.cores() < 0


@pytest.mark.parametrize(("threads", "used", "warns"), [(2, 1.2, True), (2, 0.2, False), (1, 2, False), (4, 1, False)])
def test_threads_that_wait_for_a_taken_core_are_told(
    threads: int, used: float, warns: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2 if threads < 4 else 8)
    warning = crowding_warning(threads, used)
    assert bool(warning) == warns
    if warns:
        assert "1.2 of 2 cores" in warning and "trainer.threads=1 " in warning


def test_other_processes_are_looked_at_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    seconds = iter([0.1, 4.0])
    monkeypatch.setattr(OthersWatch, "seconds", lambda watch: next(seconds))
    monkeypatch.setattr(OthersWatch, "cores", lambda watch: 64.0)
    losses: dict[str, torch.Tensor] = {}
    take = with_crowding_warning(lambda samples, progress: losses, 2)
    assert all(take(samples=None, progress=None) is losses for _ in range(5))  # type: ignore[call-arg]
    assert len(caplog.records) == 1
