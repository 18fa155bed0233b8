"""What a run keeps of its data, so that its directory is enough to use the model.

The folder holds a dataset like any prepared one: the fitted encoder, the encoded users and items, and each user's
events from the last `max_history` before the first held-out row onwards, or from the first that the model's search
reaches; of earlier ones the pairs of user and item, so that recommendations can leave out what a user has seen. It
keeps no rows of a table. Runs on the same prepared data share the files through hard links if the file system has them.
"""

import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from recexp.dataset import cache, store
from recexp.dataset.config import DatasetConfig, HistoryKind, HistoryUntil
from recexp.dataset.log import Dataset, Log
from recexp.dataset.search import Search
from recexp.error import DamagedFile
from recexp.storage import new_folder, remove, remove_leftovers

logger = logging.getLogger(__name__)


def save(dataset: Dataset, config: DatasetConfig, folder: Path, search: Search | None = None) -> None:
    """Writes the folder, unless it is there already and whole. search: that of the run's model."""
    if _is_whole(folder, remove_damaged=True):
        return
    with new_folder(folder) as temporary:
        shared = _shared(dataset, config, search)
        if shared is None or not _linked(shared, temporary):
            store.write(temporary, reduced(dataset, config, search))


def load(folder: Path) -> Dataset:
    """The dataset that `save` kept. Raises DamagedFile if it is missing or damaged."""
    return store.read(folder)


def reduced(dataset: Dataset, config: DatasetConfig, search: Search | None = None) -> Dataset:
    """The dataset without the events that no held-out or later row needs."""
    log = dataset.log
    if not isinstance(log, Log):
        return replace(dataset, log=log.take(slice(0)), folder=None)
    start = first_needed(log, config, search)
    return replace(dataset, log=log.since(start), earlier=_pairs_before(log, start), folder=None)


def _pairs_before(log: Log, start: np.ndarray) -> np.ndarray:
    """(M, 2) unique user and item of the events before each user's position start (U + 1,), sorted."""
    dropped = np.arange(len(log)) < start[log.user]
    pairs = np.unique(log.user[dropped].astype(np.int64) * len(log.items.raw) + log.item[dropped])
    return np.stack([pairs // len(log.items.raw), pairs % len(log.items.raw)], 1).astype(np.int32)


def first_needed(log: Log, config: DatasetConfig, search: Search | None = None) -> np.ndarray:
    """(U + 1,) position of each user's first event that a held-out or later row needs."""
    derived = config.features.derived
    first, end = log.offsets[:-1], log.offsets[1:]
    if derived.most_liked or (search and search.field):  # of all of a user's events
        return first
    held_out = np.append(np.flatnonzero(log.split > 0), len(log))
    held_out = held_out[np.searchsorted(held_out, first)]  # each user's first, or a later user's
    past_end = np.where(held_out < end, np.append(log.before, 0)[held_out], end)
    known = log.split == 0 if config.history_until is HistoryUntil.split else np.ones(len(log), bool)
    seen = known & (log.label > 0) if config.history is HistoryKind.liked else known
    history = _last(seen, _longest(config, search), first, past_end)
    return np.minimum(history, _last(known, derived.last_items, first, past_end))


def _longest(config: DatasetConfig, search: Search | None) -> int:
    """How many of a user's last events a row may need."""
    return max(config.max_history, search.most if search else 0)


def _last(seen: np.ndarray, n: int, first: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(U,) where the last n events that are seen (N,) begin, of those from first (U,) up to end (U,)."""
    rank = np.concatenate([[0], np.cumsum(seen)])  # (N + 1,) events seen before each position
    index = np.maximum(rank[first], rank[end] - n)
    return np.minimum(np.append(np.flatnonzero(seen), len(seen))[index], end)


def _shared(dataset: Dataset, config: DatasetConfig, search: Search | None) -> Path | None:
    """The cache's folder with the same files, made if need be; None if there is none and it cannot be made."""
    if dataset.folder is None:
        return None
    reach = "all" if search and search.field else _longest(config, search)
    shared = dataset.folder / f"run-{config.history.name}-{config.history_until.name}-{reach}"
    return shared if _is_whole(shared) or _made(shared, dataset.folder, dataset, config, search) else None


def _made(shared: Path, cached: Path, dataset: Dataset, config: DatasetConfig, search: Search | None) -> bool:
    """Makes the folder within the dataset's own one in the cache; False if it cannot be made."""
    try:
        with cache.exclusive(cached):
            if not cached.is_dir():  # cleared since it was read
                return False
            remove_leftovers(cached)
            if not _is_whole(shared, remove_damaged=True):
                _write(shared, dataset, config, search)
            return True
    except OSError:  # a cache that cannot be written, or another process was faster
        return _is_whole(shared)


def _write(folder: Path, dataset: Dataset, config: DatasetConfig, search: Search | None) -> None:
    with new_folder(folder) as temporary:
        store.write(temporary, reduced(dataset, config, search))


def _is_whole(folder: Path, remove_damaged: bool = False) -> bool:
    """True if a folder holds all that was written. remove_damaged: only where no other process uses it."""
    try:
        store.check(folder)
        return True
    except DamagedFile as error:
        if remove_damaged and os.path.lexists(folder):
            logger.warning("%s It is written anew.", error)
            remove(folder)
        return False


def _linked(shared: Path, folder: Path) -> bool:
    """Puts the shared files into a folder; False, leaving none, if they have just been cleared from the cache."""
    try:
        for file in shared.iterdir():
            _link(file, folder / file.name)
        return True
    except FileNotFoundError:
        for file in folder.iterdir():
            file.unlink()
        return False


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)
