"""The nearest events, against sorting in Python."""

import pytest
import torch

from recexp.layer.lookup import Events
from recexp.layer.nearest import inner_products, nearest


@pytest.mark.parametrize("n", [3, 100])
def test_inner_products_are_those_of_each_event(n: int) -> None:
    torch.manual_seed(0)
    query, keys = torch.randn(4, 8), Events(torch.randn(n, 8), torch.randint(n, (4, 7)))
    expected = torch.stack([keys.vectors[keys.index[row]] @ query[row] for row in range(4)])
    torch.testing.assert_close(inner_products(query, keys), expected)


@pytest.mark.parametrize("most", [1, 4, 30])
def test_the_highest_scores_are_chosen_and_of_equal_ones_the_last(most: int) -> None:
    torch.manual_seed(0)
    scores = torch.randint(-3, 3, (50, 12)).float() / 3  # many are equal, some below 0
    length = torch.randint(13, (50,))
    mask = torch.arange(12) < length[:, None]
    scores[~mask] = torch.inf
    chosen = nearest(scores, mask, most)
    for row in range(50):
        best = sorted(range(int(length[row])), key=lambda n: (scores[row, n].item(), n))[-most:]
        n_kept = int(mask[row, chosen[row]].sum())
        assert chosen[row, :n_kept].tolist() == sorted(best)
        assert n_kept == len(best)


def test_padding_does_not_decide_between_equal_scores() -> None:
    mask = torch.tensor([[True, True, True, False, False, False]])
    scores = torch.zeros(1, 6)
    assert nearest(scores, mask, 2)[0].tolist() == nearest(scores[:, :3], mask[:, :3], 2)[0].tolist() == [1, 2]


def test_without_events_nothing_is_chosen() -> None:
    keys = Events(torch.randn(30, 8), torch.zeros(2, 0, dtype=torch.long))
    assert inner_products(torch.randn(2, 8), keys).shape == (2, 0)
    assert nearest(torch.zeros(2, 0), torch.zeros(2, 0, dtype=torch.bool), 3).shape == (2, 0)
