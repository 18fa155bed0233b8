"""Item-based nearest neighbours against cosines by hand."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from recexp.contract.measure import in_closed_form
from recexp.dataset.batch import Batch, Batches
from recexp.dataset.schema import FIRST
from recexp.layer import basket

Make = Callable[..., nn.Module]


def similarities(batches: Batches, n: int, shrinkage: float) -> np.ndarray:
    """(n, n) of all pairs of item ids, an item's own 0."""
    training, users = batches.training(), [set[int]() for _ in range(n)]
    item_ids, user_ids = training.catalogue.items.ids[:, 0], training.catalogue.users.ids[:, 0]
    for user, item, label in zip(training.user, training.target, training.label, strict=True):
        if label == 1:
            users[int(item_ids[item])].add(int(user_ids[user]))
    found = np.zeros((n, n))
    for i in range(FIRST, n):
        for j in range(FIRST, n):
            if i != j and users[i] & users[j]:
                found[i, j] = len(users[i] & users[j]) / ((len(users[i]) * len(users[j])) ** 0.5 + shrinkage)
    return found


@pytest.mark.parametrize("largest", [basket.LARGEST, 200])
def test_all_neighbours_without_shrinkage_are_the_cosines(
    largest: int, make: Make, batches: Batches, mixed: Batch, monkeypatch
) -> None:
    monkeypatch.setattr(basket, "LARGEST", largest)
    model = in_closed_form(make("item_knn", n_neighbours=1000, shrinkage=0.0), batches)
    cosine = torch.from_numpy(similarities(batches, len(model.neighbour), 0.0)).float()
    ids = mixed.catalogue.items.ids[:, 0]
    liked = mixed.mask & (mixed.history_label == 1)
    sums = torch.stack([cosine[:, list(set(ids[row[which]].tolist()))].sum(1) for row, which in zip(
        mixed.history, liked, strict=True)])  # fmt: skip
    torch.testing.assert_close(model.scores(mixed)[:, FIRST:], sums[:, FIRST:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(mixed).logits, sums.gather(1, ids[mixed.target][:, None])[:, 0])


def test_the_most_similar_items_are_kept_for_each(make: Make, batches: Batches) -> None:
    model = in_closed_form(make("item_knn", n_neighbours=3, shrinkage=4.0), batches)
    expected = -np.sort(-similarities(batches, len(model.neighbour), 4.0), axis=1)[:, :3]
    np.testing.assert_allclose(model.similarity.numpy(), expected, atol=1e-6)
