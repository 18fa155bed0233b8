"""Compares the rankings of two runs by each user's metrics, from recommended and relevant items.

U users, R items relevant to them, n recommendations
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from recexp.dataset import artifact
from recexp.dataset.log import Log
from recexp.error import DamagedFile
from recexp.metric.ranking import Ranks, of_users
from recexp.metric.table import RANK_NAME
from recexp.report.bootstrap import Change, of_means
from recexp.run.record import Record


def compared(a: Record, b: Record, names: Sequence[str], n_draws: int) -> tuple[dict[str, Change], str]:
    """The changes of test metrics, named as ndcg@10/all, by name, and how they were tested.

    The rank of an item among equal scores is known as far as recommendations reach; a metric for which that is too
    short has no change.
    """
    lists = [record.recommendations() for record in (a, b)]
    if absent := [record.path for record, frame in zip((a, b), lists, strict=True) if frame is None]:
        why = "" if names[0].endswith("/all") else ", as it ranks a sample of items"
        return {}, f"no p of rankings: {absent[0]} has no recommendations.parquet to read{why}"
    try:
        log = artifact.load(a.path / "encoder").log
    except DamagedFile as error:
        return {}, f"no p of rankings: {error}"
    assert isinstance(log, Log)
    of, item = relevant(log, first=a.config.get("trainer.ranking.relevant") == "first")
    both = [ranks(log, of, item, frame) for frame in lists if frame is not None]
    first, second = (values(user_ranks, names, record) for user_ranks, record in zip(both, (a, b), strict=True))
    common = [name for name in first if name in second]
    changes = of_means({name: second[name] - first[name] for name in common}, n_draws)
    n_users = len(both[0].n_relevant)
    remark = f"95 % and p of rankings: paired bootstrap, {n_draws:,} draws of the {n_users:,} ranked users."
    if cut := [name for name in names if name not in common]:
        remark += f"\nNo p of {', '.join(cut)}: equal scores reach beyond the recommendations."
    return changes, remark


def relevant(log: Log, first: bool) -> tuple[np.ndarray, np.ndarray]:
    """The relevant pairs (R,) of test, user and item as rows of the log's tables, ascending.

    first: only each user's first event in test, with those of the same timestamp.
    """
    rows = log.rows("test")
    user, start = np.unique(log.user[rows], return_index=True)
    if first:
        begin = log.timestamp[rows[start]]
        rows = rows[log.timestamp[rows] == begin[np.searchsorted(user, log.user[rows])]]
    pairs = np.unique(log.user[rows].astype(np.int64) * len(log.items.raw) + log.item[rows])
    return pairs // len(log.items.raw), pairs % len(log.items.raw)


def ranks(log: Log, of: np.ndarray, item: np.ndarray, best: pd.DataFrame) -> Ranks:
    """The ranks of relevant items (R,) in the recommendations (n,) of their users.

    As in metrics, a tie counts against the model, and items relevant to one user do not count against each other.
    """
    users = np.unique(of)
    best = best.sort_values(["user", "rank"], kind="stable", key=lambda column: _rows(log, column))
    user = log.users.index_of(best["user"].to_numpy())
    pair = user.astype(np.int64) * len(log.items.raw) + log.items.index_of(best["item"].to_numpy())
    hit = np.isin(pair, of.astype(np.int64) * len(log.items.raw) + item)
    start = np.searchsorted(user, user)  # of the user's recommendations
    tied = np.append(np.flatnonzero((np.diff(user) != 0) | (np.diff(best["score"].to_numpy()) != 0)), len(user) - 1)
    end = tied[np.searchsorted(tied, np.arange(len(user)))]  # the last that is as good
    others, hits = np.append(0, np.cumsum(~hit)), np.append(0, np.cumsum(hit))
    rank = others[end + 1] - others[start] + hits[1:] - hits[start]
    n_relevant = np.bincount(np.searchsorted(users, of), minlength=len(users))
    return Ranks(np.searchsorted(users, user[hit]), rank[hit], n_relevant)


def values(user_ranks: Ranks, names: Iterable[str], record: Record) -> dict[str, np.ndarray]:
    """Each user's metrics (U,) by name, left out where their mean is not the one that the run has measured."""
    by_name = {}
    for name in names:
        match = RANK_NAME.fullmatch(name)
        assert match is not None
        of_user = of_users(match[1], user_ranks, int(match[2]))
        if np.isclose(of_user.mean(), record.metrics[f"test.{name}"], rtol=1e-9, atol=1e-12):
            by_name[name] = of_user.astype(np.float64)
    return by_name


def _rows(log: Log, column: pd.Series) -> pd.Series:
    """The sort key of recommendations: users in the order of the log, then ranks."""
    return column if column.name == "rank" else pd.Series(log.users.index_of(column.to_numpy()), column.index)
