"""What a reader returns: columns by role, ids and values as they are in the source."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from pandas.api.extensions import ExtensionArray

Ids: TypeAlias = "np.ndarray | ExtensionArray"  # (N,) integers or strings; Arrow's strings are not copied
MULTI_SEPARATOR = "|"  # between the values of a multi-valued cell, whatever the source uses


@dataclass(frozen=True, kw_only=True)
class Raw:
    """N events in the order of the source; a table has no time. Features of its users or items join its rows."""

    origin: str  # where the rows come from, for error messages
    label: np.ndarray  # (N,) numbers as given: a rating, or 0 and 1
    user: "Ids | None" = None  # (N,) raw ids
    item: "Ids | None" = None  # (N,)
    timestamp: np.ndarray | None = None  # (N,) int64 or float64, any unit
    context: "pd.DataFrame | None" = None  # (N, .) feature columns of the event
    users: "pd.DataFrame | None" = None  # feature columns by raw user id (its index)
    items: "pd.DataFrame | None" = None
    split: np.ndarray | None = None  # (N,) "train", "valid" or "test", if the source says so
    probability: np.ndarray | None = None  # (N,) P(label = 1), if it is known
    true_rank: np.ndarray | None = None  # (N,) int32, the item's rank among all by P(it comes next), if that is known
    tasks: dict[str, np.ndarray] | None = None  # several labels (N,) by name, 0, 1 or NaN; the first of them is `label`

    @property
    def by_id(self) -> "dict[str, tuple[Ids, pd.DataFrame]]":
        """For user and item, as far as they have features: the ids of the rows, and the features by id."""
        pairs = {"user": (self.user, self.users), "item": (self.item, self.items)}
        return {side: (ids, known) for side, (ids, known) in pairs.items() if ids is not None and known is not None}


class Reader(Protocol):
    """A class registered with kind="reader", with a dataclass `Config(DatasetConfig)` inside."""

    def __init__(self, config: Any) -> None: ...

    def fingerprint(self) -> str:
        """Identifies, cheaply, what `read` would return: equal text means equal content. Raises DataError."""

    def read(self) -> Raw:
        """Raises DataError, which says what is wrong, in which file, row and column, and what would be right."""
