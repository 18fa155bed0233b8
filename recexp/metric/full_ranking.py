"""Ranks items for the users of a split, in blocks of users, so that no array of all users by all items is made.

U users, N candidates, R relevant items of all users, b users of a block
Items are ranked once for each user, at the user's first event of the split. Relevant are the items of all of the user's
events of the split, or of the first alone. The model sees what was known strictly before. Candidates are the items that
training has seen, or a sample of them and the relevant ones. A tie counts against the model: an item's rank counts all
items that are not relevant and whose score is as high.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from recexp.config import RankingConfig, Relevant
from recexp.dataset.batch import Batches
from recexp.dataset.column import ranges
from recexp.dataset.schema import FIRST
from recexp.kernel.rank import at_least
from recexp.metric.binary import NO_ROWS, Metrics
from recexp.metric.group import Group, by_history, by_popularity
from recexp.metric.item_scores import ItemScores
from recexp.metric.ranking import Ranks, coverage
from recexp.metric.table import coverage_name, rank_metric, rank_names
from recexp.metric.top import Top, top


@dataclass(frozen=True)
class RankedUsers:
    """The users of a split for whom items are ranked, and their relevant items."""

    row: Tensor  # (U,) the user's first row of the split
    user: Tensor  # (U,) rows of users
    item: Tensor  # (R,) rows of relevant items
    of: Tensor  # (R,) the user of each relevant item, 0 to U - 1, ascending

    def __len__(self) -> int:
        return len(self.row)


@dataclass(frozen=True)
class Ranking:
    """The results of ranking items for a split."""

    metrics: Metrics
    groups: dict[str, dict[str, Group]] = field(default_factory=dict)
    top: Top | None = None


def ranked_users(batches: Batches, split: str, relevant: Relevant, n_users: int | None = None) -> RankedUsers:
    """n_users: the most users, who are spread evenly and the same in each call."""
    rows = batches.rows[split]
    user = batches.columns.user[rows]
    new = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    new[1:] = user[1:] != user[:-1]
    if relevant is Relevant.first and len(rows):
        time = batches.columns.timestamp[rows]
        first = time == time[new][new.cumsum(0) - 1]
        rows, user, new = rows[first], user[first], new[first]
    of = new.cumsum(0) - 1
    pairs = torch.unique(of * len(batches.catalogue.items.ids) + batches.columns.item[rows].long())
    of, item = pairs // len(batches.catalogue.items.ids), pairs % len(batches.catalogue.items.ids)
    row = rows[new].long()
    if n_users is not None and n_users < len(row):
        chosen = torch.linspace(0, len(row) - 1, n_users, dtype=torch.float64).round().long().to(row.device)
        number = row.new_full((len(row),), -1)
        number[chosen] = torch.arange(len(chosen), device=row.device)
        kept = number[of] >= 0
        row, of, item = row[chosen], number[of[kept]], item[kept]
    return RankedUsers(row, batches.columns.user[row].long(), item, of)


def known_items(batches: Batches) -> Tensor:
    """The rows (N,) of the items that training has seen, ascending."""
    return (batches.catalogue.items.ids[:, 0] >= FIRST).nonzero()[:, 0]


def index_of(candidates: Tensor, n_items: int) -> Tensor:
    """The index of each row of items (n_items,) among the candidates (N,), -1 if it is no candidate."""
    index = candidates.new_full((n_items,), -1)
    index[candidates] = torch.arange(len(candidates), device=candidates.device)
    return index


def evaluate_ranking(
    model: nn.Module,
    batches: Batches,
    split: str,
    config: RankingConfig,
    size: int,
    precision: AbstractContextManager | None = None,
    best: bool = False,
) -> Ranking:
    """The configured metrics of a split.

    best: also by group and, out of all items, the best ones of each user, as many as the largest K.
    size: pairs of a user and an item, or users, in one step of the model. Raises FloatingPointError if a score is not
    finite.
    """
    names = rank_names(config.cutoffs, config.protocol)
    users = ranked_users(batches, split, config.relevant, config.valid_users if split == "valid" else None)
    if not len(users):
        return Ranking(Metrics(dict.fromkeys(names), dict.fromkeys(names, NO_ROWS)))
    k = max(config.cutoffs) if best and config.candidates == "all" else 0  # among sampled items few are wrong
    scores = ItemScores(model, batches, split, known_items(batches), size, precision)
    with torch.inference_mode():
        blocks = list(_blocks(scores, users, config, k))
    user, item, rank, best_item, score = (torch.cat(part).cpu().numpy() for part in zip(*blocks, strict=True))
    relevant = users.of.cpu().numpy(), users.item.cpu().numpy()
    order = np.lexsort((rank, user))
    ranks = Ranks(user[order], rank[order], np.bincount(relevant[0], minlength=len(users)))
    values: dict[str, float | None] = {name: rank_metric(name).compute(ranks) for name in names}  # type: ignore[union-attr,misc]
    if not best:
        return Ranking(Metrics(values, {}))
    if k:
        values |= {coverage_name(k): coverage(best_item, len(scores.candidates), k) for k in sorted({*config.cutoffs})}
    start, end = seen_span(batches, split, users.row, users.user)
    groups = {
        "history": by_history(ranks, (end - start).cpu().numpy(), names),
        "popularity": by_popularity(ranks, item[order], relevant, batches.catalogue.n_events.cpu().numpy(), names),
    }
    return Ranking(Metrics(values, {}), groups, Top(users.user.cpu().numpy(), best_item, score) if k else None)


def _blocks(scorer: ItemScores, users: RankedUsers, config: RankingConfig, k: int) -> Iterator[tuple[Tensor, ...]]:
    """For each block of users: user, item and rank (n,) of relevant items with a rank, best items and scores (b, k)."""
    batches, split, candidates, size = scorer.batches, scorer.split, scorer.candidates, scorer.block
    index = index_of(candidates, len(batches.catalogue.items.ids))
    bound = torch.searchsorted(users.of, torch.arange(0, len(users) + size, size, device=users.of.device))
    for number, start in enumerate(range(0, len(users), size)):
        row, user = users.row[start : start + size], users.user[start : start + size]
        pairs = slice(int(bound[number]), int(bound[number + 1]))  # of this block's users and their relevant items
        relevant = _of_candidates(users.of[pairs] - start, index[users.item[pairs]])
        seen = None
        if config.exclude_seen:
            of, item = seen_before(batches, split, row, user)
            seen = _of_candidates(of, index[item])
        n_sampled = config.n_sampled
        chosen = _sample(n_sampled, (len(row), len(candidates)), row, relevant, seen) if n_sampled else None
        scores = scorer.of(row, chosen)
        if seen is not None:
            scores[seen] = -torch.inf
        of, column, rank = _ranks(scores, *relevant)
        if k:
            score, best_index = top(scores, k)
            best = torch.where(score > -torch.inf, candidates[best_index], 0)
        else:
            score, best = scores.new_zeros(len(row), 0), of.new_zeros(len(row), 0)
        yield of + start, candidates[column], rank, best, score


def _of_candidates(of: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """The pairs of a user and a candidate's index without those whose item is no candidate (-1)."""
    return of[index >= 0], index[index >= 0]


def _sample(
    n: int, shape: tuple[int, int], row: Tensor, relevant: tuple[Tensor, Tensor], seen: tuple[Tensor, Tensor] | None
) -> Tensor:
    """(b, N) bool: the relevant items, and n others drawn at random for each user, the same in each call."""
    key = torch.rand(shape, generator=torch.Generator().manual_seed(int(row[0]))).to(row.device)
    if seen is not None:
        key[seen] = -1
    key[relevant] = -1
    drawn = key.topk(min(n, shape[1]), dim=1)
    chosen = torch.zeros(shape, dtype=torch.bool, device=row.device).scatter_(1, drawn.indices, drawn.values >= 0)
    chosen[relevant] = True
    return chosen


def _ranks(scores: Tensor, of: Tensor, column: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """User, candidate and rank of the relevant items (n,) that have a score (b, N) above minus infinity.

    Items that are relevant to the same user do not count against each other, however close their scores.
    """
    score = scores[of, column]
    of, column, score = (x[score > -torch.inf] for x in (of, column, score))
    order = torch.argsort(score, descending=True, stable=True)
    order = order[torch.argsort(of[order], stable=True)]
    of, column, score = of[order], column[order], score[order]
    number = torch.arange(len(of), device=of.device) - torch.searchsorted(of, of)  # among the relevant, from 0
    new = torch.ones_like(of, dtype=torch.bool)  # starts a tie of relevant items
    new[1:] = (of[1:] != of[:-1]) | (score[1:] != score[:-1])
    tie = new.cumsum(0) - 1
    n_as_high = number[torch.searchsorted(tie, tie, right=True) - 1] + 1  # relevant items whose score is as high
    return of, column, at_least(scores, of, score) - n_as_high + number + 1


def seen_before(batches: Batches, split: str, row: Tensor, user: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs of a user of the block, from 0, and a row of items of which the user had events before the row."""
    view = batches.histories.views[split]
    position, of = ranges(*seen_span(batches, split, row, user))
    if view.events is not None:
        position = view.events[position].long()
    return of, batches.columns.item[position].long()


def seen_span(batches: Batches, split: str, row: Tensor, user: Tensor) -> tuple[Tensor, Tensor]:
    """Start and end (b,), among the events that the split may see, of those before each user's row."""
    columns = batches.columns
    span = batches.histories.views[split].span
    return span(columns.offsets[user], columns.before[row].long(), len(columns.item))
