"""The process that trains: its memory, its cores, and what SIGTERM and Ctrl-C do to it."""

import contextlib
import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from recexp.error import Terminated

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
KEPT_BYTES, KEPT_BYTES_AT_MOST = 2**28, 2**25  # blocks up to this size are kept; the second is for older versions


def own_process() -> None:
    """Settings for a process that does nothing but train: it keeps freed memory for the next step."""
    # glibc returns freed blocks of some 100 KB to the system and faults new ones in page by page in the next step,
    # which costs DIN much of its time (docs/performance.md). Other C libraries lack mallopt, or it does nothing there.
    if mallopt := getattr(ctypes.CDLL(None) if os.name == "posix" else None, "mallopt", None):
        for parameter in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            mallopt(parameter, KEPT_BYTES) or mallopt(parameter, KEPT_BYTES_AT_MOST)


def cores() -> int:
    """The number of cores that this process may use, or of those whose time a container grants it."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = Path("/sys/fs/cgroup/cpu.max")
    quota, _, period = limit.read_text().strip().partition(" ") if limit.is_file() else ("max", "", "")
    return usable if quota == "max" else max(1, min(usable, int(quota) // int(period)))


class OthersWatch:
    """Watches how much of this machine other processes use, from its creation on."""

    def __init__(self) -> None:
        self._began, self._used = time.monotonic(), self._used_seconds()

    def seconds(self) -> float:
        """How long it has watched."""
        return time.monotonic() - self._began

    def cores(self) -> float:
        """The cores that they used on average; 0 where the system does not tell."""
        return (self._used_seconds() - self._used) / self.seconds()

    def _used_seconds(self) -> float:
        """Seconds that all cores have worked since the machine started, without this process."""
        file = Path("/proc/stat")
        if not file.is_file():
            return 0
        user, nice, system, _idle, _wait, *interrupts = file.read_text().split("\n")[0].split()[1:9]
        ticks = sum(map(int, (user, nice, system, *interrupts)))
        return ticks / os.sysconf("SC_CLK_TCK") - time.process_time()


def memory_bytes() -> int:
    """The memory of this machine, or what a container grants this process of it."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    return whole if text == "max" else min(whole, int(text))


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Within it, SIGTERM raises Terminated. Only the main thread can set a handler; in others nothing changes."""
    with _handling([signal.SIGTERM], lambda signum, frame: _raise(signum)):
        yield


class Stop:
    """What SIGTERM and Ctrl-C do to training: the first one waits until `check` is called, the second does not."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._waits = True

    def check(self) -> None:
        """Raises Terminated or KeyboardInterrupt if a signal has come."""
        if self.signal is not None:
            _raise(self.signal)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Within it, a signal is raised immediately, since no work would be lost."""
        self._waits = False
        try:
            self.check()
            yield
        finally:
            self._waits = True

    def handle(self, signum: int, frame: FrameType | None) -> None:
        waits = self._waits and self.signal is None
        self.signal = self.signal or signum
        if not waits:
            _raise(signum)


@contextlib.contextmanager
def stoppable() -> Iterator[Stop]:
    """Within it, signals are handled by the Stop; in other threads than the main one they are as before.

    A signal that has come too late for any check is raised at the end.
    """
    stop = Stop()
    # A process in the background of a shell script ignores Ctrl-C, and goes on doing so.
    handled = [
        signum for signum in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(signum) not in (signal.SIG_IGN, None)
    ]
    with _handling(handled, stop.handle):
        yield stop
    stop.check()


def _raise(signum: int) -> NoReturn:
    raise KeyboardInterrupt if signum == signal.SIGINT else Terminated


@contextlib.contextmanager
def _handling(signals: Iterable[int], handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.signal(signum, handler) for signum in signals}
    try:
        yield
    finally:
        for signum, previous in before.items():
            signal.signal(signum, previous)
