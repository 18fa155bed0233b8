"""Gathers histories, the user's events strictly before a row, by index arithmetic; none is ever stored.

B rows, L history length (the longest of the batch on a CPU, else the maximum)
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recexp.dataset.column import Columns, on_device, pick
from recexp.dataset.config import DatasetConfig, HistoryKind, HistoryUntil
from recexp.dataset.log import Log
from recexp.dataset.sample import Samples
from recexp.dataset.schema import Field
from recexp.dataset.search import Search, ValueIndex


@dataclass(frozen=True, kw_only=True)
class Past:
    """Earlier events of B users, oldest first, padded with 0 on the right."""

    item: Tensor  # (B, L) rows of items
    label: Tensor  # (B, L) float32
    age: Tensor  # (B, L) float32, time since the event, in the unit of the data's timestamps
    mask: Tensor  # (B, L) bool, False on padding

    def at(self, position: Tensor) -> "Past":
        """Only the events at some positions (B, K)."""
        return Past(**{name: column.gather(1, position) for name, column in vars(self).items()})


@dataclass(frozen=True)
class View:
    """The events that histories may hold: all of them, or those at `events`."""

    events: Tensor | None = None  # (E,) int32, positions in the log
    rank: Tensor | None = None  # (N + 1,) int32, how many of `events` lie before each position

    @classmethod
    def of(cls, visible: np.ndarray, device: torch.device) -> "View":
        """The events where `visible` (N,) is true."""
        if visible.all():
            return cls()
        rank = np.zeros(len(visible) + 1, np.int32)
        np.cumsum(visible, out=rank[1:])
        return cls(on_device(np.flatnonzero(visible).astype(np.int32), device), on_device(rank, device))

    def span(self, first: Tensor, end: Tensor, longest: int) -> tuple[Tensor, Tensor]:
        """Start and end (B,) in the view of at most the last `longest` events between log positions first and end."""
        if self.rank is not None:
            first, end = self.rank[first].long(), self.rank[end].long()
        return torch.maximum(first, end - longest), end

    def window(self, first: Tensor, end: Tensor, longest: int) -> tuple[Tensor, Tensor]:
        """Positions (B, L) of at most the last `longest` events between first and end (B,), and the mask (B, L)."""
        start, end = self.span(first, end, longest)
        length = end - start
        if length.device.type == "cpu":  # on a GPU this would wait for the device
            longest = int(length.max()) if len(length) else 0
        step = torch.arange(longest, device=length.device)
        mask = step < length[:, None]
        position = torch.where(mask, start[:, None] + step, 0)
        return (position if self.events is None or not len(self.events) else pick(self.events, position).long()), mask


class Histories:
    """Gathers the histories of any rows of a log, of at most `longest` events each."""

    def __init__(
        self,
        log: Log,
        columns: Columns,
        config: DatasetConfig,
        longest: int,
        device: torch.device,
        known: np.ndarray | None = None,
        search: Search | None = None,
    ) -> None:
        """known: (N,) bool, the events that may be in a history; all of them by default."""
        self.columns, self.longest, self.search = columns, longest, search
        visible = np.ones(len(log), bool) if known is None else known
        if config.history is HistoryKind.liked:
            visible = visible & (log.label > 0)
        until_split = config.history_until is HistoryUntil.split
        whole = View.of(visible, device)
        # A training row sees only training events; in chronological splits there are no others before it.
        trained = whole if log.chronological and not until_split else View.of(visible & (log.split == 0), device)
        held_out = trained if until_split else whole
        self.views = {"train": trained, "valid": held_out, "test": held_out}
        self.indexes: dict[int, ValueIndex] = {}  # by the identity of their view
        if search is not None and search.field is not None:
            views = {id(view): view for view in self.views.values()}
            self.indexes = {key: _indexed(log, view, search.field, device) for key, view in views.items()}

    def gather(self, split: str, row: Tensor, user: Tensor, longest: int) -> Past:
        """The last `longest` events before each row (B,) that the split may see."""
        return self._events_at(row, *self.views[split].window(*self._span_before(row, user), longest))

    def found(self, split: str, row: Tensor, user: Tensor, target: Tensor) -> Past | None:
        """What the search finds for targets (B,) before rows (B,); None if there is no search."""
        if self.search is None:
            return None
        view, past = self.views[split], self._span_before(row, user)
        if self.search.field is None:
            return self._events_at(row, *view.window(*past, self.search.most))
        return self._events_at(row, *self.indexes[id(view)].last(target, *past, self.search.most))

    def _events_at(self, row: Tensor, position: Tensor, mask: Tensor) -> Past:
        """The events at positions (B, L) of the log, as seen from rows (B,)."""
        columns, time = self.columns, self.columns.timestamp
        return Past(
            item=pick(columns.item, position).long().mul_(mask),
            label=pick(columns.label, position).float().mul_(mask),
            age=(pick(time, row)[:, None] - pick(time, position)).float().mul_(mask),
            mask=mask,
        )

    def longest_first(self, split: str, samples: Samples) -> Samples:
        """The samples by descending length of their histories."""
        past = self._span_before(samples.row, pick(self.columns.user, samples.row))
        start, end = self.views[split].span(*past, self.longest)
        return samples.take((start - end).argsort(stable=True))

    def _span_before(self, row: Tensor, user: Tensor) -> tuple[Tensor, Tensor]:
        """Start and end (B,) in the log of the events of users (B,) before rows (B,)."""
        return pick(self.columns.offsets, user), pick(self.columns.before, row).long()


def _indexed(log: Log, view: View, field: Field, device: torch.device) -> ValueIndex:
    """The events of a view by the values of a field of their items."""
    values = log.items.column(field)
    assert isinstance(values, np.ndarray)
    events = np.arange(len(log)) if view.events is None else view.events.cpu().numpy()
    return ValueIndex(values, log.item, events, device)


def no_past(n_rows: int, device: torch.device) -> Past:
    """A Past without events, (B, 0)."""
    none = torch.zeros((n_rows, 0), device=device)
    return Past(item=none.long(), label=none, age=none, mask=none.bool())
