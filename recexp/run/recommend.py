"""The best items for a block of users: exact, over all candidates.

b users of the block, N candidates, n recommendations
"""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from recexp.dataset.batch import Batches, Samples
from recexp.dataset.log import Log
from recexp.dataset.window import ranges
from recexp.model import reads_history

LARGEST = 2**23  # scores of a block; with what choosing the best takes, some 200 MB


@dataclass(frozen=True)
class Best:
    """Recommendations, each user's from the best on."""

    user: np.ndarray  # (n,) which of the block's, counted from 0
    item: np.ndarray  # (n,) rows of items
    rank: np.ndarray  # (n,) from 1
    logit: np.ndarray  # (n,) float64


def best_items(
    model: nn.Module,
    batches: Batches,
    rows: Tensor,
    candidates: Tensor,
    k: int,
    size: int,
    seen: tuple[np.ndarray, np.ndarray],
) -> Best:
    """The k best candidates (N,) for the user of each row (b,) of the log.

    size: pairs that are scored at once. seen: pairs of user, counted from 0, and item that are not recommended.
    Raises FloatingPointError if a score is not finite.
    """
    model.eval()
    found = score_all(model, batches, rows, candidates, size)
    if not found.isfinite().all():
        raise FloatingPointError("some scores are not finite")
    scores, chosen = found.numpy(), candidates.cpu().numpy()
    place = np.full(len(batches.catalogue.items.ids), -1)  # each item's among the candidates
    place[chosen] = np.arange(len(chosen))
    user, item = seen[0], place[seen[1]]
    scores[user[item >= 0], item[item >= 0]] = -np.inf
    user, item, rank = top(scores, k)
    return Best(user, chosen[item], rank, scores[user, item].astype(np.float64))


@torch.inference_mode()
def score_all(model: nn.Module, batches: Batches, rows: Tensor, candidates: Tensor, size: int) -> Tensor:
    """The logits (b, N) of all candidates for the users of some rows (b,), in the memory of the CPU.

    A model whose logit is a product of what a user asks for and a vector of the item's id has query(batch) (B, D) and
    item_vectors() (V, D); one that computes what is the user's once has score(batch, items); others score each pair.
    """
    n, longest = len(candidates), None if reads_history(model) else 0
    scores, ranker = torch.empty(len(rows), n), cast(Any, model)
    if item_vectors := getattr(model, "item_vectors", None):
        vectors = item_vectors().float()[batches.catalogue.items.ids[candidates, 0]]  # (N, D)
        for start in range(0, len(rows), size):
            batch = batches.gather(Samples(rows[start : start + size]), "test", longest)
            scores[start : start + size] = ranker.query(batch).float() @ vectors.T
        return scores
    if score := getattr(model, "score", None):
        group = max(1, size // n)
        for start in range(0, len(rows), group):
            batch = batches.gather(Samples(rows[start : start + group]), "test", longest)
            for first in range(0, n, size):
                items = candidates[first : first + size]
                logits = score(batch, items.expand(len(batch), -1))
                scores[start : start + group, first : first + size] = logits
        return scores
    flat = scores.view(-1)
    for start in range(0, len(flat), size):
        pair = torch.arange(start, min(start + size, len(flat)), device=rows.device)
        samples = Samples(rows[pair // n], item=candidates[pair % n])
        flat[start : start + size] = model(batches.gather(samples, "test", longest)).logits
    return scores


def top(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """User and candidate of the k best finite scores of each row of (b, N), and their rank from 1.

    Of equal scores the candidate that comes first is the better one.
    """
    k = min(k, scores.shape[1])
    least = -np.partition(-scores, k - 1, axis=1)[:, k - 1 : k]
    user, item = np.nonzero((scores >= least) & np.isfinite(scores))
    order = np.lexsort((-scores[user, item], user))  # stable, and candidates ascend
    user, item = user[order], item[order]
    first = np.searchsorted(user, np.arange(len(scores)))
    rank = np.arange(len(user)) - first[user] + 1
    return user[rank <= k], item[rank <= k], rank[rank <= k].astype(np.int32)


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
    """The entries of `item` from first to end of each of b users: whose they are, counted from 0, and the items."""
    position, user = ranges(torch.from_numpy(first.astype(np.int64)), torch.from_numpy(end.astype(np.int64)))
    return user.numpy(), item[position.numpy()]
