"""Metrics of rankings by the true probabilities of what comes next, where they are known: a model beats them by chance.

U users asked, R relevant items of all users
"""

import numpy as np

from recexp.config import RankingConfig, Relevant
from recexp.dataset.log import Log, Table
from recexp.metric.ranking import Ranks
from recexp.metric.table import rank_metric, rank_names


def ranking_oracle(log: Table, config: RankingConfig) -> dict[str, float]:
    """The metrics of test; empty if what is asked is not what is known: the rank among all items at an event's time."""
    if not isinstance(log, Log) or log.true_rank is None or config.protocol != "all" or config.exclude_seen:
        return {}
    rows = log.rows("test")
    new = np.append(True, log.user[rows][1:] != log.user[rows][:-1])[: len(rows)]
    of = np.cumsum(new) - 1
    at_first = log.before[rows] == log.before[rows[new]][of]
    if not len(rows) or (config.relevant is Relevant.all and not at_first.all()):
        return {}
    rows, of = rows[at_first], of[at_first]
    _, once = np.unique(np.stack([of, log.item[rows]]), axis=1, return_index=True)
    ranks = _ranks(of[once], log.true_rank[rows[once]].astype(np.int64))
    names = rank_names(config.cutoffs)
    return {name: float(rank_metric(name).compute(ranks)) for name in names}  # type: ignore[union-attr]


def _ranks(of: np.ndarray, rank: np.ndarray) -> Ranks:
    """Of the user (R,) and rank among all items (R,) of each: other relevant items no longer count against it."""
    order = np.lexsort((rank, of))
    of, rank = of[order], rank[order]
    first, key = np.searchsorted(of, of), of * (rank.max() + 1) + rank
    as_high = np.searchsorted(key, key, side="right") - first
    return Ranks(of, rank - as_high + np.arange(len(of)) - first + 1, np.bincount(of))
