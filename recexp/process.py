"""The process that trains: its memory, its cores, and what SIGTERM does to it."""

import contextlib
import ctypes
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

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
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Within it, SIGTERM raises Terminated. Only the main thread can set a handler; in others nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise Terminated
