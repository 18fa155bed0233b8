"""From raw ids to rows, and from rows to the order of a log: by user, then time, then position in the source."""

import numpy as np

from recexp.dataset.raw import Ids
from recexp.error import DataError

Indexed = tuple[np.ndarray, np.ndarray]  # the row of each raw id (N,), from 1, and the raw id of each row


def index_ids(raw_ids: Ids, what: str) -> Indexed:
    """Numbers raw ids from 1 in their sorted order; row 0 is padding. Raises DataError, naming `what`, for a gap."""
    import pandas as pd

    codes, uniques = pd.Index(raw_ids, dtype=raw_ids.dtype).factorize(sort=True)
    if (codes < 0).any():
        raise DataError(f"{what} is missing in row {int((codes < 0).argmax())}, counted from 0.")
    uniques = np.asarray(uniques)
    if uniques.dtype == object:
        uniques = uniques.astype(str)
    return (codes + 1).astype(np.int32), np.concatenate([np.zeros(1, uniques.dtype), uniques])


def by_user_then_time(user: np.ndarray, timestamp: np.ndarray) -> np.ndarray:
    """Source positions (N,) in the log's order; ties keep the source's order. user: (N,) int32, 0 or more."""
    later = (user[1:] > user[:-1]) | (user[1:] == user[:-1]) & (timestamp[1:] >= timestamp[:-1])
    if later.all():
        return np.arange(len(user))
    if timestamp.dtype.kind != "i" or int(timestamp.max()) - int(timestamp.min()) >= 2**63:
        return np.lexsort((timestamp, user))
    # Stable sorts by 16 bits at a time, the lowest first: numpy sorts those by radix, five times as fast as lexsort.
    order = np.arange(len(user))
    for key in (timestamp - timestamp.min(), user):
        for shift in range(0, int(key.max()).bit_length(), 16):
            digit = (key >> shift).astype(np.uint16)
            order = order[np.argsort(digit[order], kind="stable")]
    return order


def group_starts(user: np.ndarray, timestamp: np.ndarray) -> np.ndarray:
    """(N,) position of the first event of the same user and timestamp; events before it are strictly earlier."""
    new = np.ones(len(user), bool)
    new[1:] = (user[1:] != user[:-1]) | (timestamp[1:] != timestamp[:-1])
    return np.maximum.accumulate(np.where(new, np.arange(len(user), dtype=np.int32), np.int32(0)))


def narrowed(values: np.ndarray, *kinds: type[np.signedinteger]) -> np.ndarray:
    """Non-negative integers in the first of these kinds that holds them and their differences; others unchanged."""
    if values.dtype.kind == "i" and values.min(initial=0) >= 0:
        for kind in kinds:
            if values.max(initial=0) <= np.iinfo(kind).max:
                return values.astype(kind)
    return values
