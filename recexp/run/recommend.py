"""Recommendations: whom they are for, among which items, and the best ones for a block of users, exact over all.

b users of the block, n users in all, N candidates
"""

import logging
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recexp.config import Config, NextItemConfig
from recexp.dataset.column import ranges
from recexp.dataset.given import FrameTable, Rows, column_names, read_rows
from recexp.dataset.log import Dataset, Entities, Log
from recexp.dataset.merge import History, MergedRows, extended, merge
from recexp.dataset.schema import FIRST
from recexp.dataset.table_file import TableFile
from recexp.error import ConfigError, DataError
from recexp.metric.full_ranking import index_of
from recexp.metric.item_scores import ItemScores
from recexp.metric.top import Top, top

logger = logging.getLogger(__name__)
NO_PAIRS = np.zeros((0, 2), np.int32)
NOTHING_SEEN = NO_PAIRS[:, 0], NO_PAIRS[:, 1]


@dataclass(frozen=True)
class Request:
    """Whom to recommend to, and among which items."""

    given: MergedRows  # a row for each user, merged with the events that the run has kept
    candidates: np.ndarray  # (N,) rows of the items to choose from
    times: np.ndarray | None  # (n,) when to recommend, as given; None: after all known events


def read_request(
    dataset: Dataset, config: Config, reads_context: bool, users: TableFile | None, items: TableFile | None
) -> Request:
    """Whom to recommend to among what, all users and items by default. reads_context: whether the model does.

    Raises ConfigError for users without the columns that a score depends on, or DataError.
    """
    rows, times = _users(dataset, config, reads_context, users)
    entities, candidates = _candidates(dataset, config, items)
    assert isinstance(dataset.log, Log)
    dataset = replace(dataset, log=replace(dataset.log, items=entities))
    return Request(merge(dataset, rows, config.dataset, History.saved), candidates, times)


def _users(
    dataset: Dataset, config: Config, reads_context: bool, users: TableFile | None
) -> tuple[Rows, np.ndarray | None]:
    """A row for each user, and their times as given. A row without a time is later than all known events."""
    data, log = config.dataset, dataset.log
    assert isinstance(log, Log)
    derived = data.features.derived
    reads_time = bool(derived.time) and reads_context
    if users is None:
        needed = [name for name in dataset.encoder.context.fields if name not in derived.names]
        needed += [column_names(data)["timestamp"]] if reads_time else []
        if needed and reads_context:
            names = ", ".join(needed)
            raise ConfigError(f"users: a score depends on {names}; give a frame or FILE of users with these columns.")
        users = table_of(log.users.raw[1:], "user", config)
    roles, optional = (("user", "timestamp"), ()) if reads_time else (("user",), ("timestamp",))
    sides = ("context",) if reads_context else ()
    rows = read_rows(users, dataset, data, roles, ("user", "context"), optional, needed=sides)
    if rows.timestamp is not None:
        return rows, rows.frame[column_names(data)["timestamp"]].to_numpy()
    return replace(rows, timestamp=np.repeat(int(log.timestamp.max()) + 1, len(rows.frame))), None


def _candidates(dataset: Dataset, config: Config, items: TableFile | None) -> tuple[Entities, np.ndarray]:
    """The run's items with the new ones among those given, and the rows (N,) of the items to choose from.

    After trainer=next_item an item that is not in the training split has no vector, so no score, as in its metrics.
    """
    log = dataset.log
    assert isinstance(log, Log)
    table, candidates = log.items, np.arange(1, len(log.items.raw))
    if items is not None:
        chosen = read_rows(items, dataset, config.dataset, ("item",), ("item",), ())
        table, index = extended(log.items, dataset.encoder.item, "item", chosen.item, chosen.features["item"])
        candidates = np.unique(index).astype(np.int64)
    if isinstance(config.trainer, NextItemConfig):
        ranked = candidates[table.ids[candidates, 0] >= FIRST]
        if items is not None and len(ranked) < len(candidates):
            _warn_of_unranked(items, len(candidates), len(candidates) - len(ranked))
        candidates = ranked
    return table, candidates


def _warn_of_unranked(items: TableFile, n: int, n_unranked: int) -> None:
    """Warns that n_unranked of n items have no rank. Raises DataError if that is all of them."""
    message = f"{n_unranked:,} of {n:,} items are not in the training split, so this model ranks none"
    if n_unranked == n:
        raise DataError(f"{items.path}: {message}.")
    logger.warning("%s: %s of them.", items.path, message)


def table_of(given: Any, side: str, config: Config) -> FrameTable:
    """A frame, or a list of ids, as a table of users or items. Raises ConfigError for one id alone."""
    import pandas as pd

    if isinstance(given, pd.DataFrame):
        return FrameTable(given, f"{side}s")
    if np.ndim(given) == 0:
        raise ConfigError(f"{side}s = {given!r}: must be a frame or a list of ids, as [{given!r}].")
    return FrameTable(pd.DataFrame({column_names(config.dataset)[side]: given}), f"{side}s")


@torch.inference_mode()
def best_items(scores: ItemScores, rows: Tensor, k: int, seen: tuple[np.ndarray, np.ndarray]) -> Top:
    """The k best candidates for the user of each row (b,) of the log; users are counted from 0.

    seen: pairs of user, counted from 0, and item that are not recommended.
    Raises FloatingPointError if a score is not finite.
    """
    logits, candidates = scores.of(rows), scores.candidates
    user, item = (torch.from_numpy(column).to(rows.device) for column in seen)
    index = index_of(candidates, len(scores.batches.catalogue.items.ids))[item.long()]
    logits[user[index >= 0], index[index >= 0]] = -torch.inf
    value, column = top(logits, k)
    item = torch.where(value > -torch.inf, candidates[column], 0)
    return Top(np.arange(len(rows)), item.cpu().numpy(), value.cpu().numpy().astype(np.float64))


def seen_items(log: Log, earlier: np.ndarray | None, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For `best_items`: the items of the user's events strictly before each row (b,) of the log.

    earlier: (M, 2) pairs of users and items from before the log, sorted, if any.
    """
    user, earlier = log.user[rows], NO_PAIRS if earlier is None else earlier
    first, end = np.searchsorted(earlier[:, 0], user), np.searchsorted(earlier[:, 0], user, side="right")
    users, items = zip(
        _pairs(log.item, log.offsets[user], log.before[rows]), _pairs(earlier[:, 1], first, end), strict=True
    )
    return np.concatenate(users), np.concatenate(items)


def _pairs(item: np.ndarray, first: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of user, counted from 0, and item: the entries of `item` from first to end of each of b users."""
    position, user = ranges(torch.from_numpy(first.astype(np.int64)), torch.from_numpy(end.astype(np.int64)))
    return user.numpy(), item[position.numpy()]
