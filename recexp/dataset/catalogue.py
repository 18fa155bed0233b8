"""The fields of users, items and events as tensors, and the tables of all users and items."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from recexp.dataset.column import ranges
from recexp.dataset.schema import FIRST


@dataclass(frozen=True)
class Lists:
    """The wide fields of n users, items or events, M a row, as in recexp/dataset/ragged.py. Rows share the ids."""

    ids: Tensor  # (V,) integers
    start: Tensor  # (n, M) where a cell's ids begin
    count: Tensor  # (n, M) how many they are

    def at(self, index: Tensor | slice) -> "Lists":
        """The rows at an index (m,)."""
        return Lists(self.ids, self.start[index], self.count[index])

    def column(self, number: int) -> tuple[Tensor, Tensor]:
        """The ids of a field's cells one after another, and the row that each is in: (T,) both."""
        start = self.start[:, number]
        position, row = ranges(start, start + self.count[:, number])
        return self.ids[position].long(), row


@dataclass(frozen=True)
class Features:
    """The fields of n users, items or events."""

    ids: Tensor  # (n, C) int64 once they are looked up, 0 is padding
    values: Tensor  # (n, V) float32
    lists: Lists | None = None  # if there are wide fields

    def at(self, index: Tensor | slice) -> "Features":
        """The rows at an index (...)."""
        lists = None if self.lists is None else self.lists.at(index)
        if isinstance(index, slice) or index.dim() != 1:
            return Features(self.ids[index], self.values[index], lists)
        # Of millions of rows, indexing takes three times as long.
        return Features(self.ids.index_select(0, index), self.values.index_select(0, index), lists)

    def long(self) -> "Features":
        """The same fields, with ids that can be looked up."""
        return replace(self, ids=self.ids.long())


@dataclass(frozen=True)
class Catalogue:
    """All users and items, which every batch shares. Row 0 of each table is padding."""

    users: Features  # (U + 1, .)
    items: Features  # (I + 1, .)
    sampling_pool: Tensor  # (N_train,) items of the training events; a uniform draw is by popularity

    @cached_property
    def n_known(self) -> int:
        """How many items training has seen: their ids are those from FIRST on."""
        return int(self.items.ids[:, 0].max()) + 1 - FIRST

    @cached_property
    def n_events(self) -> Tensor:
        """(I + 1,) int64: the training events of each item."""
        pool = self.sampling_pool.long()
        return pool.new_zeros(self.items.ids.shape[0]).index_add_(0, pool, torch.ones_like(pool))

    def draw_items(self, like: Tensor) -> Tensor:
        """Random items in the shape of `like`, drawn by frequency in the training split."""
        return self.sampling_pool[torch.randint(len(self.sampling_pool), like.shape, device=like.device)].long()
