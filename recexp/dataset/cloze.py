"""Windows with masked events, which a model predicts from the others (the Cloze task).

B windows, S events of all of them, G timestamps, T events and masks of the masked windows, P masked events
Tie mates are masked together and become one mask: none is an input for another, and their order is never a target.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from recexp.dataset.column import ranges
from recexp.dataset.window import WholeWindows

MASK = -1  # in the place of a row of items


@dataclass(frozen=True)
class Cloze:
    """Sequences of B windows with masks, the longest first, and the masked items."""

    item: Tensor  # (T,) rows of items or MASK
    length: Tensor  # (B,)
    query: Tensor  # (P,) position of the mask among the T events
    target: Tensor  # (P,) rows of items


def masked(whole: WholeWindows, n_windows: int, mask_rate: float, last_rate: float) -> Cloze:
    """Masks each timestamp of B windows with probability mask_rate; in a share last_rate of windows only the latest."""
    _, group, n_mates = whole.time.unique_consecutive(return_inverse=True, return_counts=True)  # (S,), (G,)
    first = n_mates.cumsum(0) - n_mates  # (G,) the first event of each timestamp
    hidden = _draw_masks(whole.window[first], n_windows, mask_rate, last_rate)[group]  # (S,)
    kept = ~hidden
    kept[first] = True
    item, length = whole.item.masked_fill(hidden, MASK)[kept], torch.bincount(whole.window[kept], minlength=n_windows)
    order, end = length.argsort(descending=True, stable=True), length.cumsum(0)
    position, _ = ranges((end - length)[order], end[order])
    moved_to = torch.empty_like(position)
    moved_to[position] = torch.arange(len(position), device=first.device)
    query = moved_to[(kept.cumsum(0) - 1)[first[group[hidden]]]]
    return Cloze(item[position], length[order], query, whole.item[hidden])


def _draw_masks(window: Tensor, n_windows: int, mask_rate: float, last_rate: float) -> Tensor:
    """Which of the timestamps, each of a window (G,), are masked: (G,) bool, at least one in each window."""
    latest = torch.ones_like(window, dtype=torch.bool)
    latest[:-1] = window[1:] != window[:-1]
    drawn = torch.rand(window.shape, device=window.device) < mask_rate
    drawn &= (torch.rand(n_windows, device=window.device) >= last_rate)[window]
    unmasked = torch.ones(n_windows, dtype=torch.bool, device=window.device)
    unmasked[window[drawn]] = False
    return drawn | (latest & unmasked[window])
