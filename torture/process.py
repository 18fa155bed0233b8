"""Commands of recexp in forked processes: torch is imported once, each command has a process of its own to die in."""

import contextlib
import importlib
import io
import multiprocessing
import os
import select
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torture import library

PATIENCE = 120  # seconds after which a command is taken to hang


class Fault(NamedTuple):
    """Operation n below the folder strikes; the log names every operation."""

    folder: Path
    mode: library.Mode = library.Mode.count
    n: int = 0
    log: Path | None = None


@dataclass(frozen=True)
class Ended:
    """code: negative for a signal. operations and faults: counted below the folder of a Fault."""

    code: int
    out: str
    err: str
    operations: int = 0
    faults: int = 0

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL

    @property
    def hung(self) -> bool:
        return self.code == -signal.SIGABRT


class Child:
    """Commands that run in a forked process."""

    def __init__(
        self,
        commands: Sequence[Sequence[str]],
        folder: Path,
        fault: Fault | None = None,
        before: Callable[[], None] | None = None,
    ) -> None:
        """commands: each is run if those before it succeed. folder: the working directory. before: called first."""
        self.output = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        library.new_counters()
        self.pid = os.fork()
        if self.pid == 0:
            code = 70
            try:
                os.setsid()
                code = _run(commands, folder, self.output, fault, before)
            finally:
                os._exit(code)
        self.handle = os.pidfd_open(self.pid)

    def kill(self, signum: int = signal.SIGKILL) -> None:
        signal.pidfd_send_signal(self.handle, signum)

    def wait(self, seconds: float = PATIENCE) -> Ended | None:
        """How the command ended, with all that it started; None if it has not in so many seconds."""
        poll = select.poll()
        poll.register(self.handle, select.POLLIN)
        if not poll.poll(seconds * 1000):
            return None
        _, status = os.waitpid(self.pid, 0)
        os.close(self.handle)
        _end_session(self.pid)
        texts = [_text(file) for file in self.output]
        return Ended(os.waitstatus_to_exitcode(status), *texts, library.operations(), library.faults())

    def end(self) -> Ended:
        """Waits for the end; a command that hangs is ended by SIGABRT."""
        if ended := self.wait():
            return ended
        self.kill(signal.SIGABRT)
        ended = self.wait()
        assert ended is not None
        return ended


def run(
    arguments: Sequence[str], folder: Path, fault: Fault | None = None, before: Callable[[], None] | None = None
) -> Ended:
    return Child([arguments], folder, fault, before).end()


def run_all(commands: Sequence[Sequence[str]], folder: Path) -> Ended:
    """The output of all commands; the exit code of the first that fails, which is the last to run."""
    return Child(commands, folder).end()


def preload() -> None:
    """Imports what commands need, and lets Hydra look for its plugins, so that forked processes need not."""
    import torch
    from tqdm import tqdm

    import hydra_plugins.recexp_launcher._entry  # noqa: F401
    import recexp.cli
    from recexp.sweep.pool import PRELOADED

    for name in PRELOADED:
        importlib.import_module(name)
    tqdm.set_lock(threading.RLock())  # tqdm's own is shared between processes and stays locked if one is killed
    torch.set_num_threads(1)
    recexp.load_config(["+experiment=tiny", "trainer.threads=1"])


def _run(
    commands: Sequence[Sequence[str]],
    folder: Path,
    output: tuple[io.BufferedRandom, ...],
    fault: Fault | None,
    before: Callable[[], None] | None,
) -> int:
    for file, stream in zip(output, (sys.stdout, sys.stderr), strict=True):
        os.dup2(file.fileno(), stream.fileno())
    os.chdir(folder)
    _fork_jobs()
    if before:
        before()
    if fault:
        library.arm(*fault)
    try:
        return next((code for command in commands if (code := _command(command))), 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _command(arguments: Sequence[str]) -> int:
    """As `recexp.cli.main`, but without ending the process."""
    from recexp.cli import run

    sys.argv = ["recexp", *arguments]
    try:
        return run(list(arguments))
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
        return 1


def _fork_jobs() -> None:
    """Lets a sweep fork its jobs from itself: a server of its own would import torch anew."""
    import recexp.sweep.pool

    get_context = multiprocessing.get_context
    recexp.sweep.pool.start_server = lambda: None
    multiprocessing.get_context = lambda method=None: get_context("fork" if method == "forkserver" else method)


def _end_session(session: int) -> None:
    """Waits for the jobs of a sweep that was killed: they end by themselves."""
    end = time.monotonic() + PATIENCE
    while left := _processes(session):
        if time.monotonic() > end:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _processes(session: int) -> list[int]:
    """The processes of a session that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, its_session = path.read_text().rpartition(")")[2].split()[:4]
            if int(its_session) == session and state != "Z":
                found.append(int(path.parent.name))
    return found


def _text(file: io.BufferedRandom) -> str:
    file.seek(0)
    text = file.read().decode(errors="replace")
    file.close()
    return text
