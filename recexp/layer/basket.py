"""The items that a user liked, in no order: what item-to-item models read of users.

B batch, L history length, n item ids
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from recexp.dataset.batch import Batch

LARGEST = 2**24  # numbers of a block


def basket(batch: Batch) -> tuple[Tensor, Tensor]:
    """The item ids of histories (B, L), and 1 where an event is the first of label 1 with its item, else 0 (B, L)."""
    ids = batch.catalogue.items.ids[batch.history, 0]
    liked = batch.mask & (batch.history_label == 1)
    order = torch.where(liked, ids, -1).argsort(dim=1, stable=True)  # equal items side by side, the earliest first
    ordered, among = ids.gather(1, order), liked.gather(1, order)
    first = (ordered != ordered.roll(1, 1)) | ~among.roll(1, 1)
    first[:, :1] = True
    return ids, (liked & torch.zeros_like(liked).scatter_(1, order, first)).float()


def liked_pairs(training: Batch) -> tuple[Tensor, Tensor]:
    """The unique pairs of an item's and a user's id with events of label 1, by item: (m,) each."""
    user, item = training.catalogue.users.ids[training.user, 0], training.catalogue.items.ids[training.target, 0]
    item, user = torch.unique(torch.stack([item, user])[:, training.label == 1], dim=1)
    return item.contiguous(), user.contiguous()


def common_users(item: Tensor, user: Tensor, n: int) -> Iterator[tuple[Tensor, Tensor]]:
    """How many users liked both of two items, in blocks: item ids (b,), and numbers of users (n, b) with each id."""
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
