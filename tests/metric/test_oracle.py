"""The oracle of rankings knows the law by which the synthetic items follow."""

from collections.abc import Callable

import numpy as np
import pytest

from recexp.dataset.log import Log
from recexp.dataset.prepare import load
from recexp.metric.oracle import ranking_oracle
from recexp.metric.table import rank_metric

TYPED = ("model=popularity", "trainer=next_item", "dataset.label=implicit", "dataset.n_items=60",
         "dataset.transition=0.5", "dataset.second_order=0.3", "trainer.ranking.exclude_seen=false")  # fmt: skip


@pytest.fixture(scope="module")
def log(compose: Callable) -> Log:
    return load(compose(*TYPED).dataset).log


def test_it_ranks_each_item_at_its_time_and_items_of_one_time_do_not_count_against_each_other(
    log: Log, compose: Callable
) -> None:
    found = ranking_oracle(log, compose(*TYPED, "trainer.ranking.relevant=first").trainer.ranking)
    hits, tied = [], 0
    for user in np.unique(log.user[log.split == 2]):
        rows = np.flatnonzero((log.user == user) & (log.split == 2))
        rows = rows[log.timestamp[rows] == log.timestamp[rows[0]]]
        ranks = {int(log.item[row]): int(log.true_rank[row]) for row in rows}
        better = {item: sum(other <= rank for other in ranks.values()) - 1 for item, rank in ranks.items()}
        hits.append(min(ranks[item] - better[item] for item in ranks) <= 5)  # of the best one, for a hit
        tied += len(ranks) > 1
    assert tied and found["hr@5/all"] == pytest.approx(np.mean(hits))
    assert found["hr@10/all"] > 0.7 and rank_metric("ndcg@10/all").name in found


def test_what_is_not_known_has_no_oracle(log: Log, compose: Callable) -> None:
    assert ranking_oracle(log, compose(*TYPED).trainer.ranking) == {}  # later events, of which histories would grow
    first = "trainer.ranking.relevant=first"
    assert ranking_oracle(log, compose(*TYPED[:-1], first).trainer.ranking) == {}  # seen items left out
    sampled = ("trainer.ranking.candidates=9", "trainer.monitor=hr@5/sampled9")
    assert ranking_oracle(log, compose(*TYPED, first, *sampled).trainer.ranking) == {}
