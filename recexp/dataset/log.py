"""The prepared data as columns: a table of labelled rows, or a log of events with the tables of its users and items."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recexp.dataset.encoded import Encoded
from recexp.dataset.encoder import Encoder
from recexp.dataset.ragged import Ragged
from recexp.dataset.schema import Schema

if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True, kw_only=True)
class Entities(Encoded):
    """The users or the items, one row each from 1 on; row 0 is padding.

    The first id column is the entity's own id. A user or item first seen in valid or test keeps its features and has
    the unknown id.
    """

    raw: np.ndarray  # (n,) ids as in the source; row 0 is a placeholder

    def index_of(self, raw_ids: np.ndarray) -> np.ndarray:
        """The row of each raw id, 0 for an id that is not there."""
        import pandas as pd

        return pd.Index(self.raw[1:]).get_indexer(raw_ids) + 1


@dataclass(frozen=True, kw_only=True)
class Table:
    """N labelled rows and the fields of their context, in the order of the source. It has no time."""

    label: np.ndarray  # (N,) int8, 0 or 1
    split: np.ndarray  # (N,) int8, index into SPLITS
    row: np.ndarray  # (N,) int32, index of the row in the source
    context: Encoded  # of N rows; ids are int8 or int16 if they fit, else int32
    probability: np.ndarray | None = None  # (N,) float64, P(label = 1), if it is known
    user: np.ndarray | None = None  # (N,) int32, a number for each user, for the metrics by user; None: not known
    tasks: np.ndarray | None = None  # (N, T) int8, where there are several labels: 0, 1 or -1, missing; first: `label`

    def __len__(self) -> int:
        return len(self.label)

    def rows(self, split: str) -> np.ndarray:
        """Positions of a split's rows, ascending."""
        return np.flatnonzero(self.split == SPLITS.index(split))

    def take(self, rows: np.ndarray | slice) -> Any:
        """The rows at some positions. The tables of users and items stay whole."""
        return replace(self, **{item.name: _rows_of(getattr(self, item.name), rows) for item in fields(self)})

    def sample(self, n_rows: int) -> "Table":
        """About n_rows of the rows, spread evenly, so that each split is among them."""
        return self.take(evenly(len(self), n_rows))

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by dotted name, such as `label` and `context.ids`."""
        return _flat(self)

    def digest(self) -> str:
        """Equal for equal events with the same labels in the same splits, whatever their features."""
        return _digest(*self._labels, self.split, *(() if self.user is None else (self.user,)))

    @property
    def _labels(self) -> tuple[np.ndarray, ...]:
        return (self.label,) if self.tasks is None else (self.label, self.tasks)


@dataclass(frozen=True, kw_only=True)
class Log(Table):
    """N events of U users and I items, sorted by user, then time, then order in the source."""

    user: np.ndarray  # (N,) int32, row of `users`
    item: np.ndarray  # (N,) int32, row of `items`
    timestamp: np.ndarray  # (N,) int32 if they fit, else int64 or float64
    before: np.ndarray  # (N,) int32, position of the first event of the same user and timestamp
    users: Entities  # of U + 1 rows
    items: Entities  # of I + 1 rows
    true_rank: np.ndarray | None = None  # (N,) int32, the item's rank by P(it comes next), if that is known

    @cached_property
    def offsets(self) -> np.ndarray:
        """(U + 2,) int64, user u's events are offsets[u] to offsets[u + 1]."""
        return user_offsets(self.user, len(self.users.raw))

    @cached_property
    def chronological(self) -> bool:
        """True if each user's splits are chronological and no group of equal timestamps is divided.

        A training event then sees only training events.
        """
        step, tied = np.diff(self.split), self.before[1:] == self.before[:-1]
        return not ((self.user[1:] == self.user[:-1]) & ((step < 0) | (step > 0) & tied)).any()

    def sample(self, n_rows: int) -> "Log":
        """All events of some users, spread evenly over the log, about n_rows in all."""
        n_users = len(self.users.raw) - 1
        chosen = 1 + evenly(n_users, max(1, n_users * n_rows // len(self)))
        return self._subset(np.flatnonzero(np.isin(self.user, chosen)))

    def since(self, start: np.ndarray) -> "Log":
        """The log without each user's events before position start (U + 1,)."""
        return self._subset(np.flatnonzero(np.arange(len(self)) >= start[self.user]))

    def _subset(self, rows: np.ndarray) -> "Log":
        """The log of the events at some ascending positions."""
        log = self.take(rows)
        return replace(log, before=np.searchsorted(rows, log.before).astype(np.int32))

    def digest(self) -> str:
        columns = (*self._labels, self.split, self.user, self.item, self.timestamp, self.users.raw, self.items.raw)
        return _digest(*columns)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The rows, the schema that models see, and the fitted encoder."""

    log: Table  # a Log if there are users, items and time
    schema: Schema
    encoder: Encoder
    facts: dict[str, Any]  # sizes, label rates, unknown rates by column: for the run directory and the terminal
    fingerprint: str  # equal for equal content prepared in the same way
    earlier: np.ndarray | None = None  # (M, 2) unique user and item of events that the log no longer holds, sorted
    joined: "dict[str, pd.DataFrame]" = field(default_factory=dict)  # features by raw user or item id that join a table
    folder: Path | None = None  # where all this is stored as files

    def sample(self, n_rows: int) -> "Dataset":
        """The data of users spread evenly who together have about n_rows events; of a table, rows spread evenly."""
        return replace(self, log=self.log.sample(n_rows), folder=None)


def evenly(n: int, n_chosen: int) -> np.ndarray:
    """Positions among n, spread evenly; all of them if n_chosen is more."""
    return np.unique(np.linspace(0, n - 1, min(n, n_chosen)).round().astype(np.int64))


def user_offsets(user: np.ndarray, n_users: int) -> np.ndarray:
    """(n_users + 1,) where each user's events begin in the ascending column `user` (N,), then N."""
    return np.searchsorted(user, np.arange(n_users + 1, dtype=user.dtype)).astype(np.int64)


def from_arrays(arrays: Mapping[str, np.ndarray]) -> Table:
    """The table or log whose `arrays()` these are. Raises TypeError if one is missing."""
    columns: dict[str, Any] = {}
    for name, array in arrays.items():
        *tables, column = name.split(".")
        tree = columns
        for table in tables:
            tree = tree.setdefault(table, {})
        tree[column] = array
    for tree in [columns[name] for name in ("context", "users", "items") if name in columns]:
        if "lists" in tree:
            tree["lists"] = Ragged(**tree["lists"])
    columns["context"] = Encoded(**columns["context"])
    if "timestamp" not in columns:
        return Table(**columns)
    return Log(**columns | {name: Entities(**columns[name]) for name in ("users", "items")})


def _rows_of(value: Any, rows: np.ndarray | slice) -> Any:
    if value is None or isinstance(value, Entities):
        return value
    return value.at(rows).compact() if isinstance(value, Encoded) else value[rows]


def _flat(value: Any, prefix: str = "") -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for item in fields(value):
        member = getattr(value, item.name)
        if is_dataclass(member):
            arrays |= _flat(member, f"{prefix}{item.name}.")
        elif member is not None:
            arrays[prefix + item.name] = member
    return arrays


def _digest(*columns: np.ndarray) -> str:
    total = hashlib.blake2b(digest_size=12)
    for column in columns:
        total.update(column.tobytes())
    return total.hexdigest()
