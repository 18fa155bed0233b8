"""Locks of folders and names, which end with the process that holds them."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from recexp.storage import open_own

LOCK_SECONDS = 0.5  # to wait for a lock: who only looks holds it for less


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Holds a folder's lock until the block or the process ends; yields whether it was to be had.

    A file system without locks gives no protection: True then.
    """
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield _acquired(lock)
    finally:
        os.close(lock)


def is_locked(folder: Path) -> bool | None:
    """Whether a process holds the folder's lock; None if the file system has no locks."""
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(lock)
    return False


@contextlib.contextmanager
def lock_file(path: Path, wait: bool = True) -> Iterator[bool]:
    """Holds the lock of a name until the block or the process ends, and then removes the file that stands for it.

    Yields whether it was to be had; who waits always gets it. Raises OSError if the file cannot be made or locked.
    """
    lock = _locked_file(path, wait)
    try:
        yield lock is not None
    finally:
        if lock is not None:
            with contextlib.suppress(OSError):  # a file that stays is nobody's lock
                path.unlink()
            os.close(lock)


def _locked_file(path: Path, wait: bool) -> int | None:
    """The descriptor of the locked file that has this name now; the one before may have gone with its lock."""
    while True:
        lock = open_own(path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), os.lstat(path)):
                return lock
        except FileNotFoundError:
            pass
        except BlockingIOError:
            os.close(lock)
            return None
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)


def _acquired(lock: int) -> bool:
    end = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        except OSError:
            return True
