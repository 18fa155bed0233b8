"""The best items for a block of users: exact, over all candidates.

b users of the block, N candidates
"""

import numpy as np
import torch
from torch import Tensor

from recexp.dataset.column import ranges
from recexp.dataset.log import Log
from recexp.metric.full_ranking import index_of
from recexp.metric.item_scores import ItemScores
from recexp.metric.top import Top, top


@torch.inference_mode()
def best_items(scores: ItemScores, rows: Tensor, k: int, seen: tuple[np.ndarray, np.ndarray]) -> Top:
    """The k best candidates for the user of each row (b,) of the log; users are counted from 0.

    seen: pairs of user, counted from 0, and item that are not recommended.
    Raises FloatingPointError if a score is not finite.
    """
    logits, candidates = scores.of(rows), scores.candidates
    user, item = (torch.from_numpy(column).to(rows.device) for column in seen)
    index = index_of(candidates, len(scores.batches.catalogue.items.ids))[item.long()]
    logits[user[index >= 0], index[index >= 0]] = -torch.inf
    value, column = top(logits, k)
    item = torch.where(value > -torch.inf, candidates[column], 0)
    return Top(np.arange(len(rows)), item.cpu().numpy(), value.cpu().numpy().astype(np.float64))


def seen_items(log: Log, earlier: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For `best_items`: the items of the user's events strictly before each row (b,) of the log.

    earlier: (M, 2) pairs of users and items from before the log, sorted.
    """
    user = log.user[rows]
    first, end = np.searchsorted(earlier[:, 0], user), np.searchsorted(earlier[:, 0], user, side="right")
    users, items = zip(
        _pairs(log.item, log.offsets[user], log.before[rows]), _pairs(earlier[:, 1], first, end), strict=True
    )
    return np.concatenate(users), np.concatenate(items)


def _pairs(item: np.ndarray, first: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of user, counted from 0, and item: the entries of `item` from first to end of each of b users."""
    position, user = ranges(torch.from_numpy(first.astype(np.int64)), torch.from_numpy(end.astype(np.int64)))
    return user.numpy(), item[position.numpy()]
