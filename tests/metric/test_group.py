"""Metrics of groups are those of their users and relevant items alone."""

import numpy as np

from recexp.metric.group import by_history, by_popularity
from recexp.metric.ranking import Ranks

NAMES = ["hr@2/all", "recall@2/all", "ndcg@2/all"]
RANKS = Ranks(user=np.array([0, 1, 1, 3]), rank=np.array([1, 2, 7, 9]), n_relevant=np.array([1, 2, 1, 2]))


def test_users_are_grouped_by_what_they_had_done_before() -> None:
    groups = by_history(RANKS, np.array([0, 4, 200, 100]), NAMES)
    assert {name: group["users"] for name, group in groups.items()} == {"0": 1, "1-4": 1, "100+": 2}
    assert [group["hr@2/all"] for group in groups.values()] == [1, 1, 0]
    assert groups["0"].keys() == {"users", "hr@2/all", "ndcg@2/all"} and groups["0"]["ndcg@2/all"] == 1


def test_the_head_has_half_of_the_events_and_cold_items_have_none() -> None:
    events = np.array([0, 3, 1, 0, 2])  # row 0 is padding; item 1 is the head, item 3 is cold
    item = np.array([1, 1, 2, 4])
    relevant = np.array([0, 1, 1, 2, 3, 3]), np.array([1, 1, 2, 3, 4, 3])
    groups = by_popularity(RANKS, item, relevant, events, NAMES)
    assert {name: group["users"] for name, group in groups.items()} == {"cold": 2, "tail": 2, "head": 2}
    assert {name: group["hr@2/all"] for name, group in groups.items()} == {"cold": 0, "tail": 0, "head": 1}
