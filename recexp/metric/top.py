"""The best items of each user, from scores.

b users of a block, U users in all, N candidates
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Top:
    """The best items of each user, from the best on."""

    user: np.ndarray  # (U,) rows of users
    item: np.ndarray  # (U, k) rows of items; 0 where fewer than k are ranked
    score: np.ndarray  # (U, k) logits

    def listed(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """User, item, rank from 1 and score of each item that is ranked, user by user."""
        n_users, k = self.item.shape
        ranked = self.item.ravel() > 0
        rank = np.tile(np.arange(1, k + 1, dtype=np.int32), n_users)[ranked]
        return np.repeat(self.user, k)[ranked], self.item.ravel()[ranked], rank, self.score.ravel()[ranked]


def top(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Scores and candidates (b, k) of the k best of each row of (b, N); of equal scores the first candidates are best.

    Items that are not ranked have score minus infinity and come last.
    """
    k = min(k, scores.shape[1])
    value, column = scores.topk(min(k + 1, scores.shape[1]), dim=1)
    cut = (value[:, k - 1] == value[:, -1]).nonzero()[:, 0] if value.shape[1] > k else column.new_zeros(0)
    column = column[:, :k].clone()
    if len(cut):  # rows with ties at the k-th score, where topk may choose any of the tied candidates
        column[cut] = _first_of_ties(scores[cut], value[cut, k - 1 : k], k)
    column = column.sort(1).values
    value, order = scores.gather(1, column).sort(dim=1, descending=True, stable=True)
    return value, column.gather(1, order)


def _first_of_ties(scores: Tensor, least: Tensor, k: int) -> Tensor:
    """Candidates (b, k): those above the least score (b, 1), then the first of those equal to it."""
    above, equal = scores > least, scores == least
    room = k - above.sum(1, keepdim=True)
    chosen = above | (equal & (equal.cumsum(1, dtype=torch.int32) <= room))
    return chosen.nonzero()[:, 1].view(-1, k)
