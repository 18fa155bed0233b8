"""Prepared data on disk, keyed by content and options, memory-mapped, written whole or not at all."""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from recexp.dataset import store
from recexp.dataset.log import Dataset
from recexp.error import DamagedFile
from recexp.lock import lock_file
from recexp.storage import leftovers, new_folder, remove

LOCK = ".lock-"
VERSION = 9  # of the preparation: raise it when the same source and options produce different files
logger = logging.getLogger(__name__)


def key(options: dict[str, Any], content: str) -> str:
    """Equal for equal options and content."""
    text = json.dumps([VERSION, options, content], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def read(folder: str | None, key: str, alone: bool = False) -> Dataset | None:
    """The prepared dataset, memory-mapped; None if it is not there or damaged.

    alone: within `one_at_a_time`; a damaged one is then removed, and a warning says so.
    """
    if folder is None or not os.path.lexists(path := _entry(folder, key)):
        return None
    try:
        return store.read(path)
    except DamagedFile as error:
        if alone:
            logger.warning("%s The data are prepared anew.", error)
            remove(path)
        return None


def write(folder: str | None, dataset: Dataset) -> Dataset:
    """Writes the dataset; returns it with the folder that then holds it, if there is one."""
    if folder is None:
        return dataset
    path = _entry(folder, dataset.fingerprint)
    try:
        with new_folder(path) as temporary:
            store.write(temporary, dataset)
    except OSError as error:
        # Another run wrote the same data first, or the disk is full: either way this run goes on.
        if not path.exists():
            logger.warning("dataset.cache_dir = %s: cannot be written (%s); preparing anew each time.", folder, error)
            return dataset
    return replace(dataset, folder=path)


def one_at_a_time(folder: str | None, key: str) -> contextlib.AbstractContextManager[None]:
    """Waits until no other process prepares the same data. Without a cache, or without locks, nobody waits."""
    return contextlib.nullcontext() if folder is None else alone(_entry(folder, key))


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Waits until no other process makes this folder, and removes what killed ones have left beside it."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock_file(path.with_name(f"{LOCK}{path.name}")))
            _remove_leftovers(path)
        yield


def _remove_leftovers(path: Path) -> None:
    """Whoever fills a folder holds the lock of its name: what has a lock that is to be had was left by a killed one."""
    for leftover in leftovers(path.parent):
        name = leftover.name.split(".")[1]
        lock = lock_file(path.with_name(f"{LOCK}{name}"), wait=False)
        with contextlib.nullcontext(True) if name == path.name else lock as mine:
            if mine:
                remove(leftover)
    for file in path.parent.glob(f"{LOCK}*"):
        if file.name != f"{LOCK}{path.name}":
            with lock_file(file, wait=False):  # removes it, if it is to be had
                pass


def _entry(folder: str, key: str) -> Path:
    return Path(folder).expanduser() / "prepared" / key
