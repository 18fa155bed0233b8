"""The prepared data: a columnar log of events, sorted by user, then time, then file order."""

import hashlib
from dataclasses import dataclass, fields

import numpy as np

from recexp.dataset.schema import Schema

PARTS = ("train", "valid", "test")


@dataclass(frozen=True, kw_only=True)
class Log:
    """N events of U users and I items as arrays; `None` where a table has no such column.

    A user (item) is a row of `user_ids` (`item_ids`), 1 to U (I); row 0 is padding. Its fields, its id's own vocabulary
    entry among them, stand in that row, so a user or item first seen in valid or test keeps its features and has an
    unknown id.
    """

    label: np.ndarray  # (N,) int8, 0 or 1
    part: np.ndarray  # (N,) int8, index into PARTS
    user: np.ndarray | None = None  # (N,) int32
    item: np.ndarray | None = None  # (N,) int32
    timestamp: np.ndarray | None = None  # (N,) int32 where they fit, else int64 or float64
    before: np.ndarray | None = None  # (N,) int32, the first event of the same user and timestamp
    offsets: np.ndarray | None = None  # (U + 2,) int64, user u's events are offsets[u] to offsets[u + 1]
    context_ids: np.ndarray | None = None  # (N, columns) int8 or int16 where they fit, else int32
    context_values: np.ndarray | None = None  # (N, columns) float32
    user_ids: np.ndarray | None = None  # (U + 1, columns) int32, fields of each user
    user_values: np.ndarray | None = None  # (U + 1, columns) float32
    item_ids: np.ndarray | None = None  # (I + 1, columns) int32
    item_values: np.ndarray | None = None  # (I + 1, columns) float32
    raw_user: np.ndarray | None = None  # (U + 1,) ids as in the source; row 0 is no user
    raw_item: np.ndarray | None = None  # (I + 1,)
    row: np.ndarray | None = None  # (N,) int32, the event's row in the source, from 0
    probability: np.ndarray | None = None  # (N,) float64, P(label = 1), where it is known

    def arrays(self) -> dict[str, np.ndarray]:
        """The columns that are there, by name."""
        found = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: array for name, array in found.items() if array is not None}

    def rows(self, part: str) -> np.ndarray:
        """Positions of a part's events, in the order of the log."""
        return np.flatnonzero(self.part == PARTS.index(part))

    def digest(self) -> str:
        """Equal for equal events with the same labels in the same parts, whatever features stand beside them."""
        columns = (self.label, self.part, self.user, self.item, self.timestamp, self.raw_user, self.raw_item)
        total = hashlib.blake2b(digest_size=12)
        for column in columns:
            if column is not None:
                total.update(column.tobytes())
        return total.hexdigest()


def in_order(log: Log) -> bool:
    """Whether a user's parts follow in time, no tie cut: what a training event sees is then training events alone."""
    assert log.user is not None and log.before is not None
    step, tied = np.diff(log.part), log.before[1:] == log.before[:-1]
    return not ((log.user[1:] == log.user[:-1]) & ((step < 0) | (step > 0) & tied)).any()


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A log, what models know of it, and what the user should know of it."""

    log: Log
    schema: Schema
    facts: dict  # sizes, label rate, unknown rates by column: what the run directory and the terminal say
    fingerprint: str  # equal for equal content prepared in the same way
