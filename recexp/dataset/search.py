"""Finds a user's earlier events that share a value with the target, by binary search in a sorted index.

B rows, N events of the log, E pairs of a visible event and a value of its item's field, W values of the longest cell
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recexp.dataset.column import on_device, pick
from recexp.dataset.schema import FIRST, Field


@dataclass(frozen=True)
class Search:
    """Which earlier events a model reads besides the history: at most the last `most` of those that match."""

    field: Field | None  # of the item: an event matches if it shares a value with the target; None: every event does
    most: int


def events_of_sample(max_history: int, search: Search | None) -> int:
    """How many past events a sample has at most: its history and what the search finds."""
    return max_history + (search.most if search else 0)


class ValueIndex:
    """The visible events of a log, sorted by value, then position.

    The log is sorted by user, then time. So a user's events of a value are neighbours, as are those of them before a
    row, and two binary searches find where they begin and end. Unknown and missing values match nothing.
    """

    def __init__(self, values: np.ndarray, item: np.ndarray, visible: np.ndarray, device: torch.device) -> None:
        """values: (I + 1, W) ids of each item. item: (N,) rows of items. visible: positions of events, ascending."""
        cells = values[item[visible]]
        event, column = np.nonzero(cells >= FIRST)
        self.n = len(item)
        key = cells[event, column].astype(np.int64) * self.n + visible[event]
        key.sort()
        # The last key is never found: with it, an index without events has a first entry too.
        self.key = on_device(np.append(key, np.iinfo(np.int64).max), device)  # (E + 1,)
        self.values = on_device(values.astype(np.int64), device)

    def last(self, target: Tensor, first: Tensor, end: Tensor, most: int) -> tuple[Tensor, Tensor]:
        """Positions (B, L) of the last events between first and end (B,) that match items (B,), and the mask (B, L).

        Oldest first, padded with 0 on the right; L is the longest of the batch on a CPU, else `most`.
        """
        value = self.values[target]  # (B, W)
        shift = value * self.n
        low, high = (torch.searchsorted(self.key, shift + bound[:, None]) for bound in (first, end))
        low = torch.where(value >= FIRST, torch.maximum(low, high - most), high)
        step = torch.arange(_longest(high - low, most), device=value.device)
        mask = step < (high - low)[:, :, None]  # (B, W, L)
        entry = torch.where(mask, low[:, :, None] + step, 0)
        position = torch.where(mask, pick(self.key, entry) - shift[:, :, None], 0)
        if value.shape[1] == 1:
            return position[:, 0], mask[:, 0]
        return _union(position.flatten(1), mask.flatten(1), most)


def _longest(length: Tensor, most: int) -> int:
    if length.device.type != "cpu":  # the maximum would wait for the device
        return most
    return int(length.max()) if length.numel() else 0


def _union(position: Tensor, mask: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The last `most` of positions (B, M) that may repeat, each once and ascending, and their mask."""
    ordered = torch.where(mask, position, -1).sort(1, descending=True).values
    repeated = torch.zeros_like(mask)
    repeated[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    kept = ordered.masked_fill(repeated, -1).sort(1, descending=True).values[:, :most]
    mask = kept >= 0
    kept, mask = (x[:, : _longest(mask.sum(1), kept.shape[1])] for x in (kept, mask))
    none = torch.iinfo(kept.dtype).max  # sorts behind all positions
    kept = torch.where(mask, kept, none).sort(1).values
    return torch.where(mask, kept, 0), mask
