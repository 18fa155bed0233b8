"""EASE: its weights against a ridge regression of each item on all others, and its scores against sums by hand."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from recexp.contract.measure import in_closed_form
from recexp.contract.variant import without_histories
from recexp.dataset.batch import Batch, Batches
from recexp.dataset.schema import FIRST
from recexp.error import ConfigError

Make = Callable[..., nn.Module]


def liked_by_user(batches: Batches) -> np.ndarray:
    """(users, items) by id: 1 where a user has a training event of label 1."""
    training = batches.training()
    user, item = (side.ids[row, 0].numpy() for side, row in (
        (training.catalogue.users, training.user), (training.catalogue.items, training.target)))  # fmt: skip
    x = np.zeros((int(user.max()) + 1, len(training.catalogue.items.ids) + 1))
    x[user[training.label == 1], item[training.label == 1]] = 1
    return x


def histories(batch: Batch) -> list[set[int]]:
    """The item ids of label 1 in the history of each sample."""
    ids, liked = batch.catalogue.items.ids[batch.history, 0], batch.mask & (batch.history_label == 1)
    return [set(row[which].tolist()) for row, which in zip(ids, liked, strict=True)]


def test_each_column_is_a_ridge_regression_on_all_other_items(make: Make, batches: Batches) -> None:
    weight = in_closed_form(make("ease", regularisation=5.0), batches).weight.numpy()
    x = liked_by_user(batches)[:, FIRST : len(weight)]
    for item in range(x.shape[1]):
        others = np.delete(x, item, axis=1)
        ridge = np.linalg.solve(others.T @ others + 5 * np.eye(others.shape[1]), others.T @ x[:, item])
        column = weight[FIRST:, FIRST + item]
        assert column[item] == 0
        np.testing.assert_allclose(np.delete(column, item), ridge, atol=1e-5)


def test_score_is_the_sum_over_the_unique_liked_items_of_the_history(
    make: Make, batches: Batches, mixed: Batch
) -> None:
    model = in_closed_form(make("ease"), batches)
    sums = [model.weight[list(liked)].sum(0) for liked in histories(mixed)]
    expected = 4 * (torch.stack(sums) - 0.5)
    torch.testing.assert_close(model.scores(mixed), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        model(mixed).logits, expected.gather(1, mixed.catalogue.items.ids[mixed.target, :1])[:, 0]
    )


def test_users_without_history_have_scores_too(make: Make, mixed: Batch) -> None:
    model, empty = make("ease"), without_histories(mixed)
    assert torch.equal(model.scores(empty)[:, 0], model(empty).logits)


def test_a_catalogue_above_the_bound_is_refused_with_what_it_would_take(make: Make) -> None:
    with pytest.raises(ConfigError, match=r"model.max_items = 10: the data have \d+ items, whose weights take .* GB"):
        make("ease", max_items=10)
