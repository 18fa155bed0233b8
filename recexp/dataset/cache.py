"""Prepared arrays on disk, keyed by content and options, memory-mapped, written whole or not at all."""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from recexp.dataset.log import Dataset, Log
from recexp.dataset.schema import Schema

VERSION = 4  # of the preparation: raise it when the same source and options give other arrays
logger = logging.getLogger(__name__)


def key(options: dict[str, Any], content: str) -> str:
    """Equal for equal options and content."""
    text = json.dumps([VERSION, options, content], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def read(folder: str | None, key: str) -> Dataset | None:
    """The prepared dataset, memory-mapped; None where it is not there or cannot be read."""
    if folder is None or not os.path.isdir(path := Path(folder).expanduser() / "prepared" / key):
        return None
    try:
        saved = json.loads((path / "dataset.json").read_text("utf-8"))
        # Copy-on-write: torch wants writable arrays, and what it would write must not reach the file.
        arrays = {name: np.load(path / f"{name}.npy", mmap_mode="c") for name in saved["arrays"]}
        schema = Schema.from_dict(saved["schema"])
        return Dataset(log=Log(**arrays), schema=schema, facts=saved["facts"], fingerprint=key)
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        logger.warning("prepared data in %s cannot be read (%s); preparing it anew.", path, error)
        shutil.rmtree(path, ignore_errors=True)
        return None


def write(folder: str | None, dataset: Dataset) -> None:
    """Writes into a folder of another name and renames it: a reader sees all of it or nothing."""
    if folder is None:
        return
    parent = Path(folder).expanduser() / "prepared"
    try:
        temporary = parent / f".writing-{uuid.uuid4().hex}"
        temporary.mkdir(parents=True)
    except OSError as error:
        logger.warning("dataset.cache_dir = %s: cannot be written (%s); preparing anew each time.", folder, error)
        return
    try:
        _write_files(temporary, dataset)
        os.rename(temporary, parent / dataset.fingerprint)
    except OSError as error:
        # Another run that prepared the same data was faster, or the disk is full: either way we go on without.
        if not (parent / dataset.fingerprint).exists():
            logger.warning("dataset.cache_dir = %s: %s; preparing anew each time.", folder, error)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def one_at_a_time(folder: str | None, key: str) -> Iterator[None]:
    """Waits until no other process prepares the same data. Where there is no cache, or no locks, nobody waits."""
    with contextlib.ExitStack() as stack:
        if folder is not None:
            lock = Path(folder).expanduser() / "prepared" / f".lock-{key}"
            with contextlib.suppress(OSError):
                lock.parent.mkdir(parents=True, exist_ok=True)
                fcntl.flock(stack.enter_context(lock.open("w")), fcntl.LOCK_EX)
                # Who waited for a file that is now removed finds the data; who comes after them, too.
                stack.callback(lock.unlink, missing_ok=True)
        yield


def _write_files(folder: Path, dataset: Dataset) -> None:
    arrays = dataset.log.arrays()
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    saved = {"schema": dataset.schema.to_dict(), "facts": dataset.facts, "arrays": sorted(arrays)}
    (folder / "dataset.json").write_text(json.dumps(saved, indent=1), "utf-8")
