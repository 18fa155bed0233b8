"""Ranking all items for each user of a split, against a loop over users and items."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recexp.config import Config, RankingConfig, Relevant
from recexp.dataset.batch import Batch, Batches
from recexp.dataset.config import HistoryUntil
from recexp.dataset.log import Log
from recexp.dataset.prepare import load
from recexp.dataset.schema import FIRST
from recexp.metric import full_ranking, item_scores
from recexp.metric.full_ranking import evaluate_ranking
from recexp.metric.ranking import Ranks
from recexp.metric.table import headline, rank_metric, rank_names

NAMES = rank_names([1, 3, 5])


def ranking(
    candidates: str | int = "all", exclude_seen: bool = True, relevant: Relevant = Relevant.all
) -> RankingConfig:
    cutoffs = [1, 3, 5]
    return RankingConfig(
        candidates=candidates, cutoffs=cutoffs, relevant=relevant, exclude_seen=exclude_seen, valid_users=None
    )


class Taste(nn.Module):
    """Scores that depend on the user and, if asked, are rounded so that many tie."""

    def __init__(self, n_users: int, n_ids: int, ties: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        round_if = torch.round if ties else lambda x: x
        self.users = round_if(torch.randn(n_users, 3, generator=generator))
        self.vectors = round_if(torch.randn(n_ids, 3, generator=generator))

    def query(self, batch: Batch) -> Tensor:
        return self.users[batch.user]

    def item_vectors(self) -> Tensor:
        return self.vectors


def by_loops(log: Log, model: Taste, split: str, exclude_seen: bool, until: HistoryUntil) -> Ranks:
    """One item after another, from the definitions."""
    number = ("train", "valid", "test").index(split)
    ids = log.items.ids[:, 0]
    found, n_relevant = [], []
    for user in range(1, len(log.users.raw)):
        rows = np.flatnonzero((log.user == user) & (log.split == number))
        if not len(rows):
            continue
        earlier = [row for row in np.flatnonzero(log.user == user) if log.timestamp[row] < log.timestamp[rows[0]]]
        if until is HistoryUntil.split:
            earlier = [row for row in earlier if log.split[row] == 0]
        seen = {ids[log.item[row]] for row in earlier} if exclude_seen else set()
        candidates = [i for i in range(FIRST, int(ids.max()) + 1) if i not in seen]
        score = {i: float(model.users[user] @ model.vectors[i]) for i in candidates}
        relevant = {int(item) for item in log.item[rows]}
        ranked = sorted(score[ids[item]] for item in relevant if ids[item] in score)[::-1]
        others = [i for i in candidates if i not in {ids[item] for item in relevant}]
        for place, own in enumerate(ranked, 1):
            found.append((len(n_relevant), place + sum(score[i] >= own for i in others)))
        n_relevant.append(len(relevant))
    user, rank = np.array(sorted(found)).T
    return Ranks(user, rank, np.array(n_relevant))


@pytest.fixture
def case(compose: Callable[..., Config]) -> Callable[..., Any]:
    def case(ties: bool = False, *options: str) -> tuple[Log, Batches, Taste]:
        typed = ("dataset.label=implicit", "dataset.n_items=300", "dataset.n_events=600", *options)
        config = compose("model=fm", *typed).dataset
        dataset = load(config)
        assert isinstance(dataset.log, Log)
        model = Taste(len(dataset.log.users.raw), int(dataset.log.items.ids[:, 0].max()) + 1, ties)
        return dataset.log, Batches(dataset, config), model

    return case


@pytest.mark.parametrize(
    ("ties", "exclude_seen", "until", "split"),
    [(False, False, HistoryUntil.target, "valid"), (True, True, HistoryUntil.target, "test"),
     (False, True, HistoryUntil.split, "test"), (True, False, HistoryUntil.split, "valid")],
)  # fmt: skip
def test_metrics_equal_loops(
    case: Callable, ties: bool, exclude_seen: bool, until: HistoryUntil, split: str, monkeypatch
) -> None:
    monkeypatch.setattr(item_scores, "LARGEST", 900)  # a few users a block
    log, batches, model = case(ties, f"dataset.history_until={until.name}")
    assert (log.items.ids[1:, 0] < FIRST).any()  # items that training has not seen
    metrics = evaluate_ranking(model, batches, split, ranking(exclude_seen=exclude_seen), 3).metrics
    expected = by_loops(log, model, split, exclude_seen, until)
    for name in NAMES:
        assert metrics.values[name] == pytest.approx(rank_metric(name).compute(expected)), name


def test_equal_scores_of_all_items_are_no_hit(case: Callable) -> None:
    _, batches, model = case()
    model.users.zero_()
    assert evaluate_ranking(model, batches, "test", ranking(exclude_seen=False), 64).metrics.values["hr@1/all"] == 0


def test_the_best_items_of_each_user_are_those_of_a_sort(case: Callable) -> None:
    log, batches, model = case()
    top = evaluate_ranking(model, batches, "test", ranking(exclude_seen=False), 64, best=True).top
    assert top is not None
    assert sorted(top.user) == sorted(set(log.user[log.split == 2]))
    ids = log.items.ids[:, 0]
    for user, items in zip(top.user, top.item, strict=True):
        score = (model.users[user] @ model.vectors.t())[FIRST:]
        assert ids[items].tolist() == (score.argsort(descending=True)[:5] + FIRST).tolist()


def test_a_sample_of_users_is_the_same_each_time_and_no_larger(case: Callable) -> None:
    _, batches, _ = case()
    every, some = (
        full_ranking.ranked_users(batches, "test", Relevant.all),
        full_ranking.ranked_users(batches, "test", Relevant.all, 5),
    )
    assert len(some) == 5 and set(some.user.tolist()) < set(every.user.tolist())
    for number, user in enumerate(some.user.tolist()):
        own = every.item[every.of == every.user.tolist().index(user)]
        assert torch.equal(some.item[some.of == number], own)
    assert torch.equal(full_ranking.ranked_users(batches, "test", Relevant.all, 5).row, some.row)


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_sampled_items_are_so_many_beside_the_relevant_ones_and_of_the_same_candidates(
    case: Callable, exclude_seen: bool
) -> None:
    _, batches, model = case()
    n_items = len(full_ranking.known_items(batches))
    every = evaluate_ranking(model, batches, "test", ranking("all", exclude_seen), 64)
    as_many = evaluate_ranking(model, batches, "test", ranking(n_items, exclude_seen), 64)
    assert list(as_many.metrics.values.values()) == list(every.metrics.values.values())
    few = evaluate_ranking(model, batches, "test", ranking(4, exclude_seen), 64)
    assert few.metrics.values["hr@5/sampled4"] > every.metrics.values["hr@5/all"]
    assert evaluate_ranking(model, batches, "test", ranking(4, exclude_seen), 64) == few


def test_sampled_items_are_neither_relevant_nor_seen() -> None:
    relevant, seen = (torch.tensor([0, 1, 1]), torch.tensor([2, 0, 1])), (torch.tensor([0, 0]), torch.tensor([4, 5]))
    chosen = full_ranking._sample(3, (2, 6), torch.tensor([7, 9]), relevant, seen)
    assert chosen.sum(1).tolist() == [4, 5] and chosen[relevant].all() and not chosen[seen].any()
    assert full_ranking._sample(6, (2, 6), torch.tensor([7, 9]), relevant, seen).sum(1).tolist() == [4, 6]


def test_the_first_event_alone_may_be_relevant_with_its_ties(case: Callable) -> None:
    log, batches, _ = case()
    asked = full_ranking.ranked_users(batches, "test", Relevant.first)
    assert torch.equal(asked.row, full_ranking.ranked_users(batches, "test", Relevant.all).row)
    tied = 0
    for number, row in enumerate(asked.row.tolist()):
        same = (log.user == log.user[row]) & (log.timestamp == log.timestamp[row]) & (log.split == 2)
        assert sorted(asked.item[asked.of == number].tolist()) == sorted(set(log.item[same].tolist()))
        tied += same.sum() > 1
    assert tied


def test_coverage_and_groups_equal_counts_by_hand(case: Callable) -> None:
    log, batches, model = case()
    found = evaluate_ranking(model, batches, "test", ranking(), 64, best=True)
    n_items = len(full_ranking.known_items(batches))
    for k in (1, 5):
        assert found.metrics.values[f"coverage@{k}/all"] == len(set(found.top.item[:, :k].ravel()) - {0}) / n_items
    first = {user: np.flatnonzero((log.user == user) & (log.split == 2))[0] for user in found.top.user}
    n_earlier = [int(log.before[row] - log.offsets[user]) for user, row in first.items()]
    for bounds, group in found.groups["history"].items():
        low, _, high = bounds.rstrip("+").partition("-")
        assert group["users"] == sum(
            int(low) <= n <= int(high or low if "+" not in bounds else 10**9) for n in n_earlier
        )
    weighted = sum(group["users"] * group["hr@5/all"] for group in found.groups["history"].values())
    assert weighted / len(n_earlier) == pytest.approx(found.metrics.values["hr@5/all"])
    cold = {log.user[row] for row in np.flatnonzero(log.split == 2) if log.items.ids[log.item[row], 0] < FIRST}
    assert found.groups["popularity"]["cold"] == {"users": len(cold)} | dict.fromkeys(headline(NAMES), 0.0)


def test_scores_that_are_not_finite_are_told(case: Callable) -> None:
    _, batches, model = case()
    model.users[5] = torch.nan
    with pytest.raises(FloatingPointError, match="scores of test"):
        evaluate_ranking(model, batches, "test", ranking(), 64)


@pytest.mark.parametrize("best", [False, True])
def test_no_block_of_scores_is_kept(case: Callable, best: bool, monkeypatch) -> None:
    monkeypatch.setattr(item_scores, "LARGEST", 900)
    blocks, held = full_ranking._blocks, []

    def watched(*args: Any) -> Iterator[tuple[Tensor, ...]]:
        for block in blocks(*args):
            held.append(max(part.untyped_storage().nbytes() for part in block))
            yield block

    monkeypatch.setattr(full_ranking, "_blocks", watched)
    _, batches, model = case()
    evaluate_ranking(model, batches, "test", ranking(), 64, best=best)
    assert len(held) > 2 and max(held) < 4 * 900
