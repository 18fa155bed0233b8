"""Prepared data on disk, keyed by content and options, memory-mapped, written whole or not at all."""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recexp.dataset import store
from recexp.dataset.log import Dataset
from recexp.error import DamagedFile
from recexp.lock import lock_file
from recexp.storage import discard, leftovers, new_folder, read_json, remove, remove_leftovers

LOCK = ".lock-"
PREPARED = "prepared"  # the folder of a cache directory that holds the entries
VERSION = 17  # of the preparation: raise it when the same source and options produce different files
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """Prepared data that are kept."""

    path: Path
    source: dict[str, Any]  # of its first preparation: name, reader, paths, columns; empty if it was not recorded
    rows: int | None  # None if it is damaged
    n_bytes: int
    used: float  # when a run last read it, in seconds since 1970


def key(options: dict[str, Any], content: str) -> str:
    """Equal for equal options and content."""
    text = json.dumps([VERSION, options, content], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def read(folder: str | None, key: str, remove_damaged: bool = False) -> Dataset | None:
    """The prepared dataset, memory-mapped; None if it is not there or damaged.

    remove_damaged: only within `one_at_a_time`; a warning says so.
    """
    if folder is None or not os.path.lexists(path := _entry(folder, key)):
        return None
    try:
        dataset = store.read(path)
        with contextlib.suppress(OSError):  # a folder of somebody else
            os.utime(path)
            if _lock(path).exists():  # of a process at work, or left by one that was killed at its very end
                _remove_lock(_lock(path))
        return dataset
    except DamagedFile as error:
        if remove_damaged:
            logger.warning("%s The data are prepared anew.", error)
            remove(path)
        return None


def write(folder: str | None, dataset: Dataset, source: dict[str, Any]) -> Dataset:
    """Writes the dataset and its source; returns the dataset with the folder that then holds it, if any."""
    if folder is None:
        return dataset
    path = _entry(folder, dataset.fingerprint)
    try:
        with new_folder(path) as temporary:
            store.write(temporary, dataset, source)
    except OSError as error:
        # Another run wrote the same data first, or the disk is full: either way this run goes on.
        if not path.exists():
            why = error.strerror or str(error)
            logger.warning("dataset.cache_dir = %s: cannot be written (%s); preparing anew each time.", folder, why)
            return dataset
    return replace(dataset, folder=path)


def one_at_a_time(folder: str | None, key: str) -> contextlib.AbstractContextManager[None]:
    """Waits until no other process prepares the same data. Without a cache, or without locks, nobody waits."""
    return contextlib.nullcontext() if folder is None else exclusive(_entry(folder, key))


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Waits until no other process makes this folder, and removes what killed processes have left beside it."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock_file(_lock(path)))
            _remove_leftovers(path.parent, path.name)
        yield


def entries(folder: Path) -> list[Entry]:
    """What is kept in a cache directory, the last used first; removes what killed processes have left there."""
    prepared = folder / PREPARED
    with contextlib.suppress(OSError):  # a folder that may only be read
        _remove_leftovers(prepared)
    paths = [path for path in prepared.glob("*") if path.is_dir() and not path.name.startswith(".")]
    for path in paths:
        with contextlib.suppress(OSError), lock_file(_lock(path), wait=False) as locked:
            if locked:
                remove_leftovers(path)
                _remove_locks(path)
    kept = []
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # another process has just cleared it
            kept.append(_read_entry(path))
    return sorted(kept, key=lambda entry: -entry.used)


def clear(entry: Entry) -> bool:
    """Removes an entry; False if a process is making it just now. Runs that have read it go on. Raises OSError."""
    with lock_file(_lock(entry.path), wait=False) as locked:
        if locked and os.path.lexists(entry.path):
            discard(entry.path)
        return locked


def _read_entry(path: Path) -> Entry:
    saved: dict[str, Any] = {}
    rows = None
    with contextlib.suppress(DamagedFile, *store.DAMAGE):
        saved = read_json(path / store.ABOUT)
        rows = sum(saved["facts"]["rows"].values())
    sizes = [file.stat().st_size for file in path.rglob("*") if file.is_file()]
    return Entry(path, saved.get("source", {}), rows, sum(sizes), path.stat().st_mtime)


def _remove_leftovers(folder: Path, held: str = "") -> None:
    """Removes the temporary folders of killed processes.

    A process that fills a folder holds the lock of its name, so a free lock tells that the process is gone.
    held: the name whose lock this process holds.
    """
    for leftover in leftovers(folder):
        name = leftover.name.split(".")[1]
        if name == held:
            remove(leftover)
            continue
        with lock_file(_lock(folder / name), wait=False) as locked:
            if locked:
                remove(leftover)
    _remove_locks(folder, held)


def _remove_locks(folder: Path, held: str = "") -> None:
    """Removes the lock files that no process holds."""
    for file in folder.glob(f"{LOCK}*"):
        if file.name != f"{LOCK}{held}":
            _remove_lock(file)


def _remove_lock(file: Path) -> None:
    """Removes a lock file unless a process holds it: lock_file does so at its end."""
    with lock_file(file, wait=False):
        pass


def _lock(path: Path) -> Path:
    return path.with_name(f"{LOCK}{path.name}")


def _entry(folder: str, key: str) -> Path:
    return Path(folder).expanduser() / PREPARED / key
