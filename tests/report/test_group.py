"""Rankings on the report's page: a curve over K for each row, and a table of groups."""

from dataclasses import replace

from boards import board, rates

from recexp.report.page import page
from recexp.report.page.group import groups
from recexp.report.statistics import estimate

RANKED = {
    "test.hr@5/all": 0.1, "test.ndcg@5/all": 0.05, "test.hr@10/all": 0.2, "test.ndcg@10/all": 0.07,
    "groups.history.1-4.users": 30, "groups.history.1-4.ndcg@10/all": 0.0625,
    "groups.popularity.head.users": 40, "groups.popularity.head.ndcg@10/all": 0.125,
}  # fmt: skip


def test_rankings_are_drawn_by_cutoff_and_listed_by_group(tmp_path):
    plain = board(tmp_path, rates(2), n_seeds=1, n_epochs=1, predictions=False)
    assert groups(plain) is None
    metrics = {name: estimate([value]) for name, value in RANKED.items()}
    first, second = plain.rows
    ranked = replace(plain, rows=[replace(first, metrics=first.metrics | metrics), second])  # a row may have none
    found = groups(ranked)
    for shown in ("test hr@K/all", "test ndcg@K/all", "history 1-4", "popularity head", "0.0625", "0.1250"):
        assert shown in found
    assert str(found) in page(ranked, "Ranked")
