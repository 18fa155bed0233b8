"""Metrics of rankings, from the ranks of each user's relevant items. Only numpy.

Items are ranked once for each user, and R of them are relevant. Ranks count from 1. A relevant item that is not ranked
(training has not seen it, or it was left out) counts in R and has no rank. A metric is the mean over users of
    hr@K       1 if any relevant item has a rank up to K
    recall@K   relevant items of a rank up to K, over R
    ndcg@K     sum of 1 / log2(1 + rank) of those, over the largest sum that R items could have
    mrr@K      1 / the lowest rank, 0 beyond K
    map@K      sum over those of (relevant items up to the rank) / rank, over min(K, R)
Over all users, coverage@K is the share of candidates that are among the first K of any of them.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Ranks:
    """The ranks of n relevant items of U users."""

    user: np.ndarray  # (n,) 0 to U - 1, ascending
    rank: np.ndarray  # (n,) int64, ascending in each user
    n_relevant: np.ndarray  # (U,) 1 or more, those without a rank included

    def of_users(self, chosen: np.ndarray) -> "Ranks":
        """The ranks of some users, chosen (U,) bool, renumbered from 0."""
        kept = chosen[self.user]
        return Ranks((np.cumsum(chosen) - 1)[self.user[kept]], self.rank[kept], self.n_relevant[chosen])

    @cached_property
    def number(self) -> np.ndarray:
        """(n,) the number of each among the user's ranked relevant items, from 1."""
        first = np.searchsorted(self.user, self.user)
        return np.arange(len(self.user)) - first + 1


def hr(ranks: Ranks, k: int) -> float:
    return float(of_users("hr", ranks, k).mean())


def recall(ranks: Ranks, k: int) -> float:
    return float(of_users("recall", ranks, k).mean())


def ndcg(ranks: Ranks, k: int) -> float:
    return float(of_users("ndcg", ranks, k).mean())


def mrr(ranks: Ranks, k: int) -> float:
    return float(of_users("mrr", ranks, k).mean())


def map(ranks: Ranks, k: int) -> float:
    return float(of_users("map", ranks, k).mean())


def of_users(name: str, ranks: Ranks, k: int) -> np.ndarray:
    """The values (U,) whose mean is a metric."""
    match name:
        case "hr":
            return _summed(ranks, k, np.ones(len(ranks.rank))) > 0
        case "recall":
            return _summed(ranks, k, np.ones(len(ranks.rank))) / ranks.n_relevant
        case "ndcg":
            best = np.cumsum(1 / np.log2(np.arange(2, k + 2)))
            gain = _summed(ranks, k, 1 / np.log2(1 + ranks.rank))
            return gain / best[np.minimum(ranks.n_relevant, k) - 1]
        case "mrr":
            return _summed(ranks, k, (ranks.number == 1) / ranks.rank)
        case _:  # map
            return _summed(ranks, k, ranks.number / ranks.rank) / np.minimum(ranks.n_relevant, k)


def coverage(items: np.ndarray, n_candidates: int, k: int) -> float:
    """The share of candidates among the first K of any user: items (U, k), the best first, 0 for none."""
    return (np.unique(items[:, :k]) > 0).sum() / n_candidates


def _summed(ranks: Ranks, k: int, value: np.ndarray) -> np.ndarray:
    """The sum (U,) of a value (n,) over each user's items of a rank up to K."""
    return np.bincount(ranks.user, np.where(ranks.rank <= k, value, 0.0), minlength=len(ranks.n_relevant))
