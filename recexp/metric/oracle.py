"""Metrics of rankings by the true probabilities of the next item, if known: a model beats them only by chance.

U users, R relevant items of all users
"""

import numpy as np

from recexp.config import RankingConfig, Relevant
from recexp.dataset.log import Log, Table
from recexp.metric.ranking import Ranks
from recexp.metric.table import rank_metric, rank_names


def ranking_oracle(log: Table, config: RankingConfig) -> dict[str, float]:
    """The metrics of test; empty unless the protocol ranks all items at the time of each relevant event."""
    if not isinstance(log, Log) or log.true_rank is None or config.protocol != "all" or config.exclude_seen:
        return {}
    rows = log.rows("test")
    new = np.append(True, log.user[rows][1:] != log.user[rows][:-1])[: len(rows)]
    of = np.cumsum(new) - 1
    at_first = log.before[rows] == log.before[rows[new]][of]
    if not len(rows) or (config.relevant is Relevant.all and not at_first.all()):
        return {}
    rows, of = rows[at_first], of[at_first]
    _, unique = np.unique(np.stack([of, log.item[rows]]), axis=1, return_index=True)
    ranks = _ranks(of[unique], log.true_rank[rows[unique]].astype(np.int64))
    names = rank_names(config.cutoffs)
    return {name: float(rank_metric(name).compute(ranks)) for name in names}  # type: ignore[union-attr]


def _ranks(of: np.ndarray, rank: np.ndarray) -> Ranks:
    """From users (R,) and ranks among all items (R,) of relevant items, which do not count against each other."""
    order = np.lexsort((rank, of))
    of, rank = of[order], rank[order]
    first, key = np.searchsorted(of, of), of * (rank.max() + 1) + rank
    as_high = np.searchsorted(key, key, side="right") - first
    return Ranks(of, rank - as_high + np.arange(len(of)) - first + 1, np.bincount(of))
