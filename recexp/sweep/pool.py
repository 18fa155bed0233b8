"""Jobs in separate processes, several at once, forked from a server that has imported torch and touched no device."""

import contextlib
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from recexp.error import Terminated
from recexp.process import own_process
from recexp.run.read import read_config
from recexp.run.status import ENDED, write_status
from recexp.storage import open_own
from recexp.sweep.folder import Sweep, state
from recexp.sweep.job import objective, run, settle
from recexp.sweep.progress import Progress

if TYPE_CHECKING:
    from omegaconf import DictConfig

# What every job imports, imported once in the server.
PRELOADED = [
    "recexp.experiment",
    "torch._dynamo",
    "pandas",
    "pyarrow.parquet",
    "matplotlib.figure",
    "recexp.sweep.pool",
]
PATIENCE = 30  # seconds a job may take to end after a signal before it is killed
INTERRUPTING = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGKILL)


def start_server() -> None:
    """Starts the server, which imports in the background; later calls do nothing. Otherwise the first job starts it."""
    from multiprocessing import forkserver

    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
    forkserver.ensure_running()


@dataclass
class Running:
    """The process of a running job. deadline: when its time is over, by time.monotonic."""

    process: BaseProcess
    path: Path
    slot: int
    deadline: float
    timed_out: bool = False

    def terminate(self) -> None:
        """Asks the job to end; it then has PATIENCE seconds before it is killed."""
        self.process.terminate()
        self.deadline = time.monotonic() + PATIENCE

    def kill(self) -> None:
        """Ends the job, if it still runs, with whatever it has started."""
        if self.process.is_alive():
            with contextlib.suppress(ProcessLookupError):  # it is young and leads no group yet
                os.killpg(self.process.pid or 0, signal.SIGKILL)
            self.process.kill()
        self.deadline = math.inf


@dataclass(frozen=True)
class Task:
    """What Hydra's launchers call. apart: run the job in its own process, so that the launcher survives its death."""

    sweep: Sweep
    apart: bool = False

    def __call__(self, raw: "DictConfig") -> float:
        """Trains the configuration in run.dir; returns the objective, NaN if training failed."""
        path = Path(raw.run.dir)
        if not self.apart:
            return run(path)
        multiprocessing.set_start_method("forkserver", force=True)  # a job could not start under joblib's own method
        Pool(1).run([path])
        return objective(path)


class Pool:
    """n_jobs: how many run at once. gpus: CUDA_VISIBLE_DEVICES for them in turn; empty if all see the same devices.

    timeout: seconds that a job may take; it is then interrupted, and has failed.
    """

    def __init__(
        self,
        n_jobs: int,
        gpus: Sequence[str] = (),
        environment: dict[str, str] | None = None,
        timeout: float | None = None,
    ) -> None:
        self.gpus, self.environment, self.timeout = gpus, {**os.environ, **(environment or {})}, timeout
        self.free = deque(range(n_jobs))
        self.running: dict[int, Running] = {}  # by sentinel

    def run(self, paths: Sequence[Path], progress: Progress | None = None, fail_fast: bool = False) -> None:
        """Trains all jobs. A signal or, with fail_fast, a failure ends this early and interrupts the running jobs."""
        start_server()
        waiting = deque(paths)
        try:
            while waiting or self.running:
                while waiting and self.free:
                    self._start(waiting.popleft())
                if progress:
                    progress.running(len(self.running))
                for sentinel in self._wait():
                    path = self._end(sentinel)
                    if progress:
                        progress.tell(path)
                    if fail_fast and state(path)[0] not in ENDED:
                        return
        finally:
            self._stop()

    def _start(self, path: Path) -> None:
        slot = self.free.popleft()
        gpu = self.gpus[slot % len(self.gpus)] if self.gpus else None
        context = multiprocessing.get_context("forkserver")
        process = context.Process(target=main, args=(path, self.environment, gpu), name=path.name)
        process.start()
        deadline = math.inf if self.timeout is None else time.monotonic() + self.timeout
        self.running[process.sentinel] = Running(process, path, slot, deadline)

    def _wait(self) -> list[int]:
        """Waits until jobs have ended, and returns their sentinels; ends those past their deadline."""
        first = min(job.deadline for job in self.running.values())
        ended = wait(list(self.running), None if first == math.inf else max(0.0, first - time.monotonic()))
        now = time.monotonic()
        for sentinel, job in self.running.items():
            if job.deadline > now or sentinel in ended:
                continue
            if job.timed_out:
                job.kill()
            else:
                job.timed_out = True
                job.terminate()
        return [sentinel for sentinel in ended if isinstance(sentinel, int)]

    def _end(self, sentinel: int) -> Path:
        job = self.running.pop(sentinel)
        job.process.join()
        self.free.append(job.slot)
        settle(job.path, job.process.pid or 0, *ending(job.process.exitcode or 0))
        if job.timed_out and state(job.path)[0] not in ENDED:
            write_status(job.path, "failed", f"job_timeout = {self.timeout:g} seconds: it took longer")
        job.process.close()
        return job.path

    def _stop(self) -> None:
        """Ends the running jobs, and waits for them."""
        for job in self.running.values():
            job.terminate()
        for job in self.running.values():
            job.process.join(max(0.0, job.deadline - time.monotonic()))
            job.kill()
        for sentinel in list(self.running):
            self._end(sentinel)


def ending(code: int) -> tuple[str, str]:
    """State and error of a job whose process ended before its run did. code: its exit code, negative for a signal."""
    if code >= 0:
        return "failed", f"the process ended by itself, with exit code {code}, before the run did"
    ended = "interrupted" if -code in INTERRUPTING else "failed"
    return ended, f"the process was killed by signal {-code} ({signal.strsignal(-code)})"


def main(path: Path, environment: dict[str, str], gpu: str | None) -> None:
    """The process of a job. What it prints goes to log.txt in its directory."""
    os.setpgrp()  # Ctrl-C on the terminal reaches only the sweep, which ends its jobs once
    os.environ.update(environment)
    own_process()
    tqdm.set_lock(threading.RLock())  # tqdm's own is shared between processes and stays locked if one is killed
    _print_to(path / "log.txt")
    _watch()
    if gpu is not None and read_config(path)["device"] in ("auto", "cuda"):
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    try:
        run(path)
    except KeyboardInterrupt:
        sys.exit(130)
    except Terminated:
        sys.exit(143)


def _print_to(path: Path) -> None:
    file = open_own(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(file, stream.fileno())
    os.close(file)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # keeps what a killed job has printed


def _watch() -> None:
    """Starts a process that ends this job once its sweep has been killed.

    A thread would not do: native code that hangs may hold the interpreter's lock.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    job = os.getpid()
    ended, held = os.pipe()  # the job holds the writing end, so the reading end tells when the job has ended
    if os.fork():
        os.close(ended)
        return
    try:
        os.close(held)
        if parent.sentinel in wait([parent.sentinel, ended]):
            os.kill(job, signal.SIGTERM)
            if not wait([ended], PATIENCE):
                os.killpg(0, signal.SIGKILL)  # with all that the job has started
    finally:
        os._exit(0)
