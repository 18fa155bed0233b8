"""The fields of users, items and events as tensors, and the tables of all users and items."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Features:
    """The fields of n users, items or events."""

    ids: Tensor  # (n, C) int64, 0 is padding
    values: Tensor  # (n, V) float32

    def at(self, index: Tensor) -> "Features":
        """The rows at an index (m,)."""
        return Features(self.ids[index], self.values[index])


@dataclass(frozen=True)
class Catalogue:
    """All users and items, which every batch shares. Row 0 of each table is padding."""

    users: Features  # (U + 1, .)
    items: Features  # (I + 1, .)
    sampling_pool: Tensor  # (N_train,) items of the training events; a uniform draw is by popularity

    def draw_items(self, like: Tensor) -> Tensor:
        """Random items in the shape of `like`, drawn by frequency in the training split."""
        return self.sampling_pool[torch.randint(len(self.sampling_pool), like.shape, device=like.device)].long()
