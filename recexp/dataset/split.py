"""Splits events into training, validation and test: by time, except for `given` and `random`.

Events come sorted by user, then time. A group is a user's events of one timestamp. Its members must not see each other,
so only `given` and `random` may divide it.
"""

import numpy as np

from recexp.dataset.config import SplitConfig, SplitKind
from recexp.dataset.log import SPLITS
from recexp.error import ConfigError, DataError


def split(config: SplitConfig, offsets: np.ndarray, before: np.ndarray, timestamp: np.ndarray) -> np.ndarray:
    """The split (N,) int8 of each event of a log, for the kinds that look at time.

    offsets: (U + 2,), user u's events are offsets[u] to offsets[u + 1]; before: (N,) first event of the group.
    """
    if config.kind is SplitKind.time:
        return by_time(config.ratios, timestamp)
    if config.kind is SplitKind.leave_last_out:
        valid, test = last_groups(offsets, before)
    else:
        first, last = offsets[:-1], offsets[1:]
        valid, test = (
            nearest_group(first + np.floor(share * (last - first) + 0.5).astype(np.int64), first, last, before)
            for share in (config.ratios[0], config.ratios[0] + config.ratios[1])
        )
    lengths = np.diff(np.stack([offsets[:-1], valid, test, offsets[1:]], axis=1), axis=1)
    return np.repeat(np.tile(np.arange(len(SPLITS), dtype=np.int8), len(lengths)), lengths.ravel())


def remedy(config: SplitConfig, name: str, n_rows: int, times: np.ndarray | None) -> str:
    """Why a split has no rows, and how to fix it. times: (N,) of a log's events; None for a table."""
    share = config.ratios[SPLITS.index(name)]
    if config.kind is SplitKind.given:
        column = config.column or "the split of each row"
        return f"no row is of it; {column} must say {name} somewhere, or choose another dataset.split.kind"
    if config.kind is not SplitKind.leave_last_out and not share:
        return f"dataset.split.ratios = {config.ratios} gives it no share; give it one, as [0.8,0.1,0.1] does"
    if config.kind is SplitKind.random or (config.kind is SplitKind.time and name == "test"):
        return f"{n_rows:,} rows are too few for a share of {share:g}; give it a larger one in dataset.split.ratios"
    assert times is not None
    first = float((times == times.min()).mean())
    if first == 1:
        return (
            "all rows have the same time, which no split divides; set dataset.columns.timestamp=null to take the order "
            "of the rows for that of the events, or dataset.split.kind=random"
        )
    if config.kind is SplitKind.time:
        return (
            f"{first:.0%} of the rows have the earliest time, which no split divides; use dataset.split.kind=user_time "
            "or random, or give valid and test smaller shares in dataset.split.ratios"
        )
    if config.kind is SplitKind.leave_last_out:
        few = "no user has events at two times or more"
    else:
        few = f"no user has events at enough times for a share of {share:g}"
    return f"{few}; use dataset.split.kind=time, one moment for all users"


def by_time(ratios: list[float], timestamp: np.ndarray) -> np.ndarray:
    """The same cut-off times for all users; an event exactly at one belongs to the later split."""
    ordered = np.sort(timestamp)
    splits = np.zeros(len(timestamp), np.int8)
    for share in (ratios[0], ratios[0] + ratios[1]):
        cut = int(share * len(ordered) + 0.5)
        if cut < len(ordered):
            splits += timestamp >= ordered[cut]
    return splits


def last_groups(offsets: np.ndarray, before: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each user's last-but-one and last group start; a user with two groups has no valid, with one no test."""
    first, last = offsets[:-1], offsets[1:]
    test = np.where(last > first, before[np.maximum(last - 1, 0)], last)
    valid = np.where(test > first, before[np.maximum(test - 1, 0)], last)
    return np.where(valid > first, valid, test), np.where(test > first, test, last)


def nearest_group(cut: np.ndarray, first: np.ndarray, last: np.ndarray, before: np.ndarray) -> np.ndarray:
    """The start of a group, or the user's end, nearest to each cut (U,); the earlier one if both are equally near."""
    inside = np.minimum(cut, len(before) - 1)
    start = np.where(cut < last, before[inside], last)
    group_end = np.append(np.flatnonzero(before == np.arange(len(before))), len(before))
    end = np.where(cut < last, group_end[np.searchsorted(group_end, inside, side="right")], last)
    return np.clip(np.where(cut - start <= end - cut, start, end), first, last)


def by_row(ratios: list[float], n_rows: int) -> np.ndarray:
    """Rows split at random, the same way every time: the split is part of the data, not of a run's seed."""
    order = np.random.default_rng(2026).permutation(n_rows)
    splits = np.empty(n_rows, np.int8)
    cuts = np.floor(np.cumsum(ratios[:2]) * n_rows + 0.5).astype(np.int64)
    for index, rows in enumerate(np.split(order, cuts)):
        splits[rows] = index
    return splits


def by_name(names: np.ndarray | None) -> np.ndarray:
    """The split that each row names. Raises ConfigError if the source names none, DataError for an unknown name."""
    if names is None:
        raise ConfigError("dataset.split.kind = given: this dataset does not say which rows are train, valid and test.")
    splits = np.full(len(names), -1, np.int8)
    for index, name in enumerate(SPLITS):
        splits[names == name] = index
    if (unknown := splits < 0).any():
        raise DataError(f"dataset.split: {str(names[unknown][0])!r} is not a split. Choices: {', '.join(SPLITS)}.")
    return splits
