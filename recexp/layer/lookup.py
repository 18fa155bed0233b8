"""Rows of a table by index, and events that share rows.

n rows of a table, E its width, ids of any shape (...); B batch, L history length
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recexp.kernel import lookup as kernel
from recexp.kernel.device import waits
from recexp.kernel.lookup import lookup
from recexp.kernel.pages import in_large_pages
from recexp.kernel.unique import grouped, lookup_grouped


@dataclass(frozen=True)
class Origin:
    """The ids of the data that the n rows of a table stand for."""

    side: str  # user, item or context
    spans: tuple[range, ...]  # of ids, one after another

    @property
    def ids(self) -> Tensor:
        """(n,) int64. Not kept: it may take twice the memory of a table's weights."""
        return torch.cat([torch.arange(span.start, span.stop) for span in self.spans])


class Table(nn.Embedding):
    """An nn.Embedding read by `lookup`. Its attributes tell the trainer how it may update the table."""

    rowwise = False  # whether optimizers may update only the rows that a batch holds
    origin: Origin | None = None  # set if rows stand for ids of the data
    n_ids = 0  # ids looked up per sample, histories aside; 0 if unknown
    before_read: Callable[[Tensor], None] | None = None  # called with unique rows (n,) that are about to be read

    @property
    def decayed(self) -> bool:
        """Whether the L2 term of embeddings applies to it."""
        return self.origin is not None

    def reset_parameters(self) -> None:
        in_large_pages(self.weight)  # new, and written to for the first time
        super().reset_parameters()

    def forward(self, ids: Tensor) -> Tensor:
        """ids (...) int64 -> (..., E)."""
        if not self.sparse or (waits(self.weight) and self.before_read is None):
            return lookup(self.weight, ids, self.padding_idx, self.sparse)
        groups = grouped(ids, self.weight)
        if self.before_read is not None:
            self.before_read(groups.rows)
        return lookup_grouped(self.weight, ids, groups, self.padding_idx)

    def rows(self, ids: Tensor | None) -> Tensor:
        """The rows of ids (n,), or all of them: (n, E)."""
        return self.weight if ids is None else self(ids)


@dataclass(frozen=True)
class Events:
    """Unique events plus the index that expands them, so per-event work runs once."""

    vectors: Tensor  # (n, E)
    index: Tensor  # (B, L) int64: rows of vectors

    def expanded(self) -> Tensor:
        """(B, L, E), looked up once."""
        return self._expanded

    @cached_property
    def _expanded(self) -> Tensor:
        return lookup(self.vectors, self.index)

    def at(self, position: Tensor) -> "Events":
        """Only the events at some positions (B, K) of the history."""
        return Events(self.vectors, self.index.gather(1, position))


def concatenated(events: Events, others: Events) -> list[Events]:
    """The concatenation [e, o] of events with equal index shapes, as the terms of a sum: [e, 0] + [0, o]."""
    event_dim, other_dim = events.vectors.shape[1], others.vectors.shape[1]
    return [
        Events(F.pad(events.vectors, (0, other_dim)), events.index),
        Events(F.pad(others.vectors, (event_dim, 0)), others.index),
    ]


def total(sources: Iterable[Events]) -> Tensor:
    """The sum of expanded events: (B, L, E)."""
    sources = list(sources)
    vectors, indices = [events.vectors for events in sources], [events.index for events in sources]
    return kernel.total(vectors, indices, [events.expanded for events in sources])


def weighted_sum(weights: Tensor, events: Events) -> Tensor:
    """sum_l w_bl e_bl of events e: weights w (B, L), 0 where an event does not count -> (B, E)."""
    return kernel.weighted_sum(weights, events.vectors, events.index, events.expanded)
