"""Prepared data on disk, keyed by content and options, memory-mapped, written whole or not at all."""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from recexp.dataset import store
from recexp.dataset.log import Dataset

VERSION = 5  # of the preparation: raise it when the same source and options produce different files
logger = logging.getLogger(__name__)


def key(options: dict[str, Any], content: str) -> str:
    """Equal for equal options and content."""
    text = json.dumps([VERSION, options, content], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def read(folder: str | None, key: str) -> Dataset | None:
    """The prepared dataset, memory-mapped; None if it is not there or cannot be read."""
    if folder is None or not os.path.isdir(path := _entry(folder, key)):
        return None
    try:
        return store.read(path)
    except store.UNREADABLE as error:
        logger.warning("prepared data in %s cannot be read (%s); preparing it anew.", path, error)
        shutil.rmtree(path, ignore_errors=True)
        return None


def write(folder: str | None, dataset: Dataset) -> Dataset:
    """Writes the dataset; returns it with the folder that then holds it, if there is one."""
    if folder is None:
        return dataset
    path = _entry(folder, dataset.fingerprint)
    try:
        with store.whole_or_nothing(path) as temporary:
            store.write(temporary, dataset)
    except OSError as error:
        # Another run wrote the same data first, or the disk is full: either way this run goes on.
        if not path.exists():
            logger.warning("dataset.cache_dir = %s: cannot be written (%s); preparing anew each time.", folder, error)
            return dataset
    return replace(dataset, folder=path)


@contextlib.contextmanager
def one_at_a_time(folder: str | None, key: str) -> Iterator[None]:
    """Waits until no other process prepares the same data. Without a cache, or without locks, nobody waits."""
    with contextlib.ExitStack() as stack:
        if folder is not None:
            lock = Path(folder).expanduser() / "prepared" / f".lock-{key}"
            with contextlib.suppress(OSError):
                lock.parent.mkdir(parents=True, exist_ok=True)
                fcntl.flock(stack.enter_context(lock.open("w")), fcntl.LOCK_EX)
                # A process that waited on the removed file now finds the data, and so does any that comes later.
                stack.callback(lock.unlink, missing_ok=True)
        yield


def _entry(folder: str, key: str) -> Path:
    return Path(folder).expanduser() / "prepared" / key
