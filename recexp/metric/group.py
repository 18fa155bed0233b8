"""Metrics of rankings by group: users by the number of their earlier events, relevant items by popularity.

U users, R relevant items of all users, I items
"""

import numpy as np

from recexp.metric.ranking import Ranks
from recexp.metric.table import headline, rank_metric

Group = dict[str, float]
LENGTHS = (0, 1, 5, 20, 100)  # the least number of earlier events in each group of users
HEAD = 0.5  # the share of training events that head items have together
POPULARITIES = ("cold", "tail", "head")


def by_history(ranks: Ranks, length: np.ndarray, names: list[str]) -> dict[str, Group]:
    """length (U,): the number of a user's events before the ranking."""
    number = np.searchsorted(LENGTHS, length, side="right") - 1
    return _metrics({_range(n): ranks.of_users(number == n) for n in range(len(LENGTHS))}, names)


def by_popularity(
    ranks: Ranks, item: np.ndarray, relevant: tuple[np.ndarray, np.ndarray], events: np.ndarray, names: list[str]
) -> dict[str, Group]:
    """A group has the relevant items of one popularity, and the users who have such items.

    item (n,): the item of each rank. relevant: user and item of all relevant pairs (R,). events (I,): training events
    of each item. A cold item has none, so it is never among the candidates.
    """
    popularity = _popularity(events)
    groups = {}
    for number, name in enumerate(POPULARITIES):
        is_relevant, is_ranked = popularity[relevant[1]] == number, popularity[item] == number
        n_relevant = np.bincount(relevant[0][is_relevant], minlength=len(ranks.n_relevant))
        groups[name] = Ranks(ranks.user[is_ranked], ranks.rank[is_ranked], n_relevant).of_users(n_relevant > 0)
    return _metrics(groups, names)


def _popularity(events: np.ndarray) -> np.ndarray:
    """(I,) index into POPULARITIES. The head is the fewest most frequent items that have HEAD of all events or more."""
    order = np.argsort(-events, kind="stable")
    before = np.cumsum(events[order]) - events[order]
    popularity = np.empty(len(events), np.int64)
    popularity[order] = 1 + (before < HEAD * events.sum())
    return np.where(events > 0, popularity, 0)


def _metrics(groups: dict[str, Ranks], names: list[str]) -> dict[str, Group]:
    """The number of users and the main metrics of each group that has users."""
    by_group: dict[str, Group] = {}
    for name, ranks in groups.items():
        if n_users := len(ranks.n_relevant):
            metrics = {metric: float(rank_metric(metric).compute(ranks)) for metric in headline(names)}  # type: ignore[union-attr]
            by_group[name] = {"users": n_users, **metrics}
    return by_group


def _range(number: int) -> str:
    low, high = LENGTHS[number], LENGTHS[number + 1] - 1 if number + 1 < len(LENGTHS) else None
    return f"{low}+" if high is None else str(low) if high == low else f"{low}-{high}"
