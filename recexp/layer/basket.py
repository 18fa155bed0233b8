"""Baskets: the items that each user liked, without order, and the co-occurrences of items in them.

B batch, L history length, n item ids
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from recexp.dataset.batch import Batch

LARGEST = 2**24  # numbers of a block of co-occurrences


def basket(batch: Batch) -> tuple[Tensor, Tensor]:
    """The item ids of histories (B, L), and (B, L) 1 at the first event of label 1 with each item, else 0."""
    ids = batch.catalogue.items.ids[batch.history, 0]
    liked = batch.mask & (batch.history_label == 1)
    order = torch.where(liked, ids, -1).argsort(dim=1, stable=True)  # equal items side by side, the earliest first
    sorted_ids, sorted_liked = ids.gather(1, order), liked.gather(1, order)
    first = (sorted_ids != sorted_ids.roll(1, 1)) | ~sorted_liked.roll(1, 1)
    first[:, :1] = True
    return ids, (liked & torch.zeros_like(liked).scatter_(1, order, first)).float()


def liked_pairs(training: Batch) -> tuple[Tensor, Tensor]:
    """The unique pairs of item id and user id that have an event of label 1, sorted by item: (m,) each."""
    user, item = training.catalogue.users.ids[training.user, 0], training.catalogue.items.ids[training.target, 0]
    item, user = torch.unique(torch.stack([item, user])[:, training.label == 1], dim=1)
    return item.contiguous(), user.contiguous()


def co_occurrences(item: Tensor, user: Tensor, n: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks of the co-occurrence matrix: item ids (b,), and how many users liked both, for each id (n, b)."""
    n_users = int(user.max()) + 1 if len(user) else 1
    ones = torch.ones(len(item), device=item.device)
    by_item = torch.sparse_coo_tensor(torch.stack([item, user]), ones, (n, n_users), check_invariants=True)
    size = max(1, LARGEST // max(n, n_users))
    for first in range(0, n, size):
        block = torch.arange(first, min(first + size, n), device=item.device)
        begin, end = torch.searchsorted(item, torch.stack([block[0], block[-1] + 1])).tolist()
        liked = ones.new_zeros(n_users, len(block))
        liked[user[begin:end], item[begin:end] - first] = 1
        yield block, torch.sparse.mm(by_item, liked)
