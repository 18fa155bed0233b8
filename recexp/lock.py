"""Locks of folders and names, which end with the process that holds them."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from recexp.storage import open_own

LOCK_SECONDS = 0.5  # to wait for a lock: a process that only checks it holds it for less


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Holds a folder's lock until the block or the process ends; yields whether it was free.

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
    """Holds the lock of a name until the block or the process ends, and then removes its lock file.

    Yields whether it was free, which it always is after waiting. Raises OSError if the file cannot be made or locked.
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
    """The descriptor of the locked file; None if it is not free. Retries if the file was removed with another lock."""
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
