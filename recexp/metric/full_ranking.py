"""Ranking all known items for the users of a split, in blocks: no array of users by items.

U users asked, V item ids, padding and unknown included, R relevant items of all users, b users of a block
Each user is asked once, at the first event of the split, about all events of the split. The query sees what was known
strictly before. A tie counts against the model: an item's rank counts all items that are not relevant and whose score
is as high.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recexp.config import RankingConfig
from recexp.dataset.batch import Batches
from recexp.dataset.sample import Samples
from recexp.dataset.schema import FIRST
from recexp.dataset.window import ranges
from recexp.kernel.linear import times
from recexp.kernel.rank import at_least
from recexp.metric.binary import NO_ROWS, Metrics
from recexp.metric.ranking import Ranks
from recexp.metric.table import rank_metric
from recexp.model import Ranker

LARGEST, SMALLEST = 2**23, 16  # scores of a block, and users


@dataclass(frozen=True)
class Top:
    """The best items of each user, from the best on."""

    user: np.ndarray  # (U,) rows of users
    item: np.ndarray  # (U, k) rows of items; 0 where fewer than k items are ranked
    score: np.ndarray  # (U, k)


@dataclass(frozen=True)
class Questions:
    """The users of a split who are asked, and the items that are relevant to them."""

    row: Tensor  # (U,) the user's first row of the split
    user: Tensor  # (U,) rows of users
    item: Tensor  # (R,) ids of relevant items
    of: Tensor  # (R,) which user's, 0 to U - 1, ascending

    def __len__(self) -> int:
        return len(self.row)


def questions(batches: Batches, split: str, n_users: int | None = None) -> Questions:
    """n_users: at most so many, spread evenly; the same in each call."""
    rows = batches.rows[split]
    user = batches.columns.user[rows]
    new = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    new[1:] = user[1:] != user[:-1]
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
    ids = batches.catalogue.items.ids[item, 0]
    return Questions(row, batches.columns.user[row].long(), ids, of)


def evaluate_ranking(
    model: Ranker,
    batches: Batches,
    split: str,
    config: RankingConfig,
    names: list[str],
    precision: AbstractContextManager | None = None,
    n_users: int | None = None,
    k: int = 0,
) -> tuple[Metrics, Top | None]:
    """The named metrics of a split and, given k, the k best items of each user.

    n_users: of a fixed sample; None for all. Raises FloatingPointError if a score is not finite.
    """
    asked = questions(batches, split, n_users)
    if not len(asked):
        return Metrics(dict.fromkeys(names), dict.fromkeys(names, NO_ROWS)), None
    model.eval()
    with torch.inference_mode():
        items = model.item_vectors().float().contiguous()
        blocks = list(_blocks(model, items, batches, split, asked, config, precision, k))
    found, rank, best, score = (torch.cat(part).cpu().numpy() for part in zip(*blocks, strict=True))
    n_relevant = np.bincount(asked.of.cpu().numpy(), minlength=len(asked))
    order = np.lexsort((rank, found))
    ranks = Ranks(found[order], rank[order], n_relevant)
    values: dict[str, float | None] = {name: rank_metric(name).compute(ranks) for name in names}  # type: ignore[union-attr,misc]
    return Metrics(values, {}), Top(asked.user.cpu().numpy(), _rows(batches)[best], score) if k else None


def _blocks(
    model: Ranker,
    items: Tensor,
    batches: Batches,
    split: str,
    asked: Questions,
    config: RankingConfig,
    precision: AbstractContextManager | None,
    k: int,
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """For each block of users: the user (n,) and rank (n,) of relevant items that have one, items and scores (b, k)."""
    size, k = max(SMALLEST, LARGEST // len(items)), min(k, len(items))
    bound = torch.searchsorted(asked.of, torch.arange(0, len(asked) + size, size, device=asked.of.device))
    for number, start in enumerate(range(0, len(asked), size)):
        row, user = asked.row[start : start + size], asked.user[start : start + size]
        with precision or nullcontext():
            query = model.query(batches.gather(Samples(row), split))
        scores = times(query.float(), items)  # (b, V)
        if not (scores.sum(1).isfinite().all()):
            raise FloatingPointError(f"scores of {split} are not finite")
        scores[:, :FIRST] = -torch.inf
        if config.exclude_seen:
            scores[_seen(batches, split, row, user)] = -torch.inf
        relevant = slice(int(bound[number]), int(bound[number + 1]))
        of, item = asked.of[relevant] - start, asked.item[relevant]
        of, rank = _ranks(scores, of, item)
        best = scores.topk(k, dim=1) if k else (scores.new_zeros(len(row), 0), of.new_zeros(len(row), 0))
        yield of + start, rank, torch.where(best[0] > -torch.inf, best[1], 0), best[0]


def _ranks(scores: Tensor, of: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
    """The user and the rank of the relevant items (n,) that have a score (b, V) above minus infinity.

    Items that are relevant to the same user do not count against each other, however close their scores.
    """
    own = scores[of, item]
    of, own = of[own > -torch.inf], own[own > -torch.inf]
    order = torch.argsort(own, descending=True, stable=True)
    order = order[torch.argsort(of[order], stable=True)]
    of, own = of[order], own[order]
    place = torch.arange(len(of), device=of.device) - torch.searchsorted(of, of)  # among the relevant, from 0
    new = torch.ones_like(of, dtype=torch.bool)  # starts a tie of relevant items
    new[1:] = (of[1:] != of[:-1]) | (own[1:] != own[:-1])
    tie = new.cumsum(0) - 1
    relevant = place[torch.searchsorted(tie, tie, right=True) - 1] + 1  # whose score is as high
    return of, at_least(scores, of, own) - relevant + place + 1


def _seen(batches: Batches, split: str, row: Tensor, user: Tensor) -> tuple[Tensor, Tensor]:
    """The pairs of a block's user, from 0, and the id of an item of which the user had events before the row."""
    view = batches.histories.views[split]
    columns = batches.columns
    position, of = ranges(*view.span(columns.offsets[user], columns.before[row].long(), len(columns.item)))
    if view.events is not None:
        position = view.events[position].long()
    return of, batches.catalogue.items.ids[columns.item[position].long(), 0]


def _rows(batches: Batches) -> np.ndarray:
    """The row of items of each id, 0 for padding and unknown."""
    ids = batches.catalogue.items.ids[:, 0].cpu().numpy()
    rows = np.zeros(ids.max() + 1, np.int64)
    rows[ids] = np.arange(len(ids))
    rows[:FIRST] = 0
    return rows
