"""Context fields derived from each event's time, and from the user's strictly earlier events.

N events of the log, some of them visible; P pairs of a liked event and a value of its item, in the log's order

last_item_k        the item of the k-th last visible event before
most_liked_NAME    the most frequent value of NAME among the items of the visible liked events before; in a
                   tie, the value that got there last
time_PART          the hour, weekday or month of the event itself, in UTC

A row without such an earlier event has a missing value. "Before" means the same user and an earlier timestamp; a
training row sees only training events, even if the split is not by time, and so does any row if histories end with that
split.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from recexp.dataset.config import DatasetConfig, FeatureKind, HistoryUntil, TimePart
from recexp.dataset.log import Log
from recexp.dataset.moment import units_of_a_second
from recexp.dataset.value import split_cells

if TYPE_CHECKING:
    import pandas as pd

MISSING = -1  # the code of a missing value


def derive(
    log: Log, items: "pd.DataFrame", config: DatasetConfig, known: np.ndarray | None = None
) -> "dict[str, pd.Categorical]":
    """The derived fields by name, each (N,). items: the feature columns, one row per item from 1 on.

    known: (N,) bool, the events that count; all of them by default.
    """
    import pandas as pd

    features, train = config.features, log.split == 0
    n_last = features.derived.last_items
    columns = [values_of(items[name], features.item[name]) for name in features.derived.most_liked]
    until_split = config.history_until is HistoryUntil.split
    known = np.ones(len(log), bool) if known is None else known
    codes = _codes(log, known & train if until_split else known, n_last, columns)
    if not until_split and not log.chronological:
        train_codes = _codes(log, train, n_last, columns)
        codes = [np.where(train, of_train, of_all) for of_train, of_all in zip(train_codes, codes, strict=True)]
    categories = [pd.Index(log.items.raw[1:])] * n_last + [column.names for column in columns]
    fields = [pd.Categorical.from_codes(*column) for column in zip(codes, categories, strict=True)]
    fields += [pd.Categorical(column) for column in time_parts(log.timestamp, features.derived.time)]
    return dict(zip(features.derived.names, fields, strict=True))


def time_parts(timestamp: np.ndarray, parts: list[TimePart]) -> list[np.ndarray]:
    """Each part of the times (N,) in UTC, as integers (N,). The size of the times tells their unit."""
    import pandas as pd

    seconds = np.floor(timestamp / units_of_a_second(timestamp)).astype(np.int64)
    moments = pd.DatetimeIndex(seconds.astype("datetime64[s]"))
    values = {TimePart.hour: moments.hour, TimePart.weekday: moments.day_of_week, TimePart.month: moments.month}
    return [values[part].to_numpy() for part in parts]


@dataclass(frozen=True)
class Values:
    """The values of one feature for all items, concatenated item by item; row 0 of the items is padding."""

    names: "pd.Index"
    codes: np.ndarray  # each value's index in names
    start: np.ndarray  # (I + 1,) where an item's codes begin
    count: np.ndarray  # (I + 1,)


def values_of(column: "pd.Series", kind: FeatureKind) -> Values:
    """column: one cell per item from 1 on. A value that a cell holds twice counts once."""
    import pandas as pd

    if kind is FeatureKind.multi:
        cells, lists = split_cells(column)
    else:
        cells, unique = pd.factorize(column)
        lists = [[value] for value in unique]
    cell = np.repeat(np.arange(len(lists)), np.array([len(values) for values in lists], np.int64))
    codes, names = pd.factorize(pd.Series([value for values in lists for value in values], dtype=object), sort=True)
    new = occurrence(cell * len(names) + codes) == 1
    cell, codes = cell[new], codes[new]
    count = np.bincount(cell, minlength=len(lists) + 1)  # the last entry is cell -1, a missing one
    start = np.cumsum(count) - count
    cells = np.concatenate([[MISSING], cells])
    return Values(pd.Index(names), codes, start[cells], count[cells])


def last_items(log: Log, visible: np.ndarray, n_last: int) -> list[np.ndarray]:
    """Codes (N,) of the last visible item before each event, of the last but one, and so on."""
    first, end = _before(log, visible)
    item = log.item[visible] - np.int32(1)
    return [_entry(item, end - k, first) for k in range(1, n_last + 1)]


def most_liked(log: Log, visible: np.ndarray, values: Values) -> np.ndarray:
    """Codes (N,) of the most frequent value among the items of the visible liked events before each event."""
    count = np.where(visible & (log.label > 0), values.count[log.item], 0)
    first, end = _before(log, count)
    event = np.repeat(np.arange(len(count)), count)  # (P,)
    index = np.arange(len(event)) - (np.cumsum(count) - count)[event]  # (P,) among the event's values
    code = values.codes[values.start[log.item[event]] + index]  # (P,)
    return _entry(leader(log.user[event], code), end - 1, first)


def leader(user: np.ndarray, value: np.ndarray) -> np.ndarray:
    """(P,) the user's most frequent value up to each pair; in a tie, the value that got there last. Users ascend."""
    times = occurrence(user.astype(np.int64) * (value.max(initial=0) + 1) + value)
    # Above anything an earlier user reaches, so that the running maximum restarts with each user.
    height = user.astype(np.int64) * (times.max(initial=0) + 1) + times
    leads = height == np.maximum.accumulate(height)
    return value[np.maximum.accumulate(np.where(leads, np.arange(len(value)), 0))]


def occurrence(keys: np.ndarray) -> np.ndarray:
    """(P,) how often each key has occurred so far, this time included."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    new = np.ones(len(keys), bool)
    new[1:] = ordered[1:] != ordered[:-1]
    position = np.arange(len(keys))
    times = np.empty(len(keys), np.int64)
    times[order] = position - np.maximum.accumulate(np.where(new, position, 0)) + 1
    return times


def _codes(log: Log, visible: np.ndarray, n_last: int, columns: list[Values]) -> list[np.ndarray]:
    """Codes (N,) of each derived field, as if the log held only the visible events."""
    return [*last_items(log, visible, n_last), *(most_liked(log, visible, column) for column in columns)]


def _before(log: Log, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the entries strictly before each event begin and end, if each event adds `count` (N,) entries to a list."""
    rank = np.concatenate([[0], np.cumsum(count)])  # (N + 1,) entries before each position
    return rank[log.offsets[log.user]], rank[log.before]


def _entry(codes: np.ndarray, index: np.ndarray, first: np.ndarray) -> np.ndarray:
    """codes[index] (N,), missing where the index lies before the first."""
    return np.append(codes, MISSING)[np.where(index >= first, index, -1)]
