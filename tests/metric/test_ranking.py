"""Metrics of rankings: worked by hand, and against loops over users."""

import math

import numpy as np
import pytest
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score, top_k_accuracy_score

from recexp.metric.ranking import Ranks
from recexp.metric.table import find, headline, rank_metric, rank_names

# Three users: one relevant item at rank 2; three, at ranks 1 and 4 and one that is not ranked; one, not ranked.
RANKS = Ranks(np.array([0, 1, 1]), np.array([2, 1, 4]), np.array([1, 3, 1]))
BY_HAND = {
    "hr@1/all": 1 / 3,
    "hr@3/all": 2 / 3,
    "recall@3/all": (1 + 1 / 3) / 3,
    "recall@10/all": (1 + 2 / 3) / 3,
    "mrr@1/all": 1 / 3,
    "mrr@10/all": (1 / 2 + 1) / 3,
    "map@10/all": (1 / 2 + (1 + 2 / 4) / 3) / 3,
    "map@2/all": (1 / 2 + 1 / 2) / 3,
    "ndcg@10/all": (1 / math.log2(3) + (1 + 1 / math.log2(5)) / (1 + 1 / math.log2(3) + 1 / 2)) / 3,
    "ndcg@1/all": 1 / 3,
}


@pytest.mark.parametrize("name", BY_HAND)
def test_metric_worked_by_hand(name: str) -> None:
    assert rank_metric(name).compute(RANKS) == pytest.approx(BY_HAND[name])


def by_loops(name: str, k: int, relevant: list[set[int]], ranking: list[list[int]]) -> float:
    values = []
    for wanted, ranked in zip(relevant, ranking, strict=True):
        hits = [item in wanted for item in ranked[:k]]
        best = min(k, len(wanted))
        match name:
            case "hr":
                values.append(float(any(hits)))
            case "recall":
                values.append(sum(hits) / len(wanted))
            case "mrr":
                values.append(1 / (1 + hits.index(True)) if any(hits) else 0.0)
            case "map":
                values.append(sum(sum(hits[: n + 1]) / (n + 1) for n, hit in enumerate(hits) if hit) / best)
            case _:
                gain = sum(1 / math.log2(n + 2) for n, hit in enumerate(hits) if hit)
                values.append(gain / sum(1 / math.log2(n + 2) for n in range(best)))
    return float(np.mean(values))


def test_metrics_equal_loops_over_users() -> None:
    random = np.random.default_rng(0)
    relevant = [set(random.choice(40, size=n, replace=False).tolist()) for n in random.integers(1, 9, 30)]
    ranking = [random.permutation(50)[:30].tolist() for _ in relevant]
    found = [
        (user, 1 + ranked.index(item))
        for user, (wanted, ranked) in enumerate(zip(relevant, ranking, strict=True))
        for item in wanted
        if item in ranked
    ]
    user, rank = np.array(sorted(found)).T
    ranks = Ranks(user, rank, np.array([len(wanted) for wanted in relevant]))
    for name in rank_names([1, 3, 10, 40]):
        family, k = name.removesuffix("/all").split("@")
        assert rank_metric(name).compute(ranks) == pytest.approx(by_loops(family, int(k), relevant, ranking)), name


def test_names_of_rankings_have_any_cutoff_and_a_protocol() -> None:
    assert rank_metric("ndcg@10") is rank_metric("ndcg@0/all") is rank_metric("auc@10/all") is None
    assert find("test.ndcg@17/all").higher_is_better and find("valid.hr@3/all").digits == 4
    assert headline(["auc", "accuracy", "hr@5/all", "recall@5/all", "other"]) == ["auc", "hr@5/all"]


def test_metrics_equal_those_of_scikit_learn_on_the_same_scores() -> None:
    random = np.random.default_rng(0)
    scores, relevant = random.random((30, 25)), random.random((30, 25)) < 0.15
    relevant[np.arange(30), random.integers(25, size=30)] = True  # each user has some
    rank = (-scores).argsort(1).argsort(1) + 1
    user, item = np.nonzero(relevant)
    order = np.lexsort((rank[user, item], user))
    ranks = Ranks(user[order], rank[user, item][order], relevant.sum(1))
    for k in (1, 5, 25):
        assert rank_metric(f"ndcg@{k}/all").compute(ranks) == pytest.approx(ndcg_score(relevant, scores, k=k))
    assert rank_metric("map@25/all").compute(ranks) == pytest.approx(
        label_ranking_average_precision_score(relevant, scores)
    )
    one = random.integers(25, size=30)
    alone = Ranks(np.arange(30), rank[np.arange(30), one], np.ones(30, np.int64))
    for k in (1, 5):
        assert rank_metric(f"hr@{k}/all").compute(alone) == rank_metric(f"recall@{k}/all").compute(alone)
        assert rank_metric(f"hr@{k}/all").compute(alone) == pytest.approx(
            top_k_accuracy_score(one, scores, k=k, labels=np.arange(25))
        )
