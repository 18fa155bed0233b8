"""The best items of each user, of equal ones the first."""

import torch

from recexp.metric.top import top

NONE = -torch.inf


def test_the_first_of_equal_scores_are_best_and_what_is_not_ranked_comes_last() -> None:
    scores = torch.tensor([[1, 3, 3, 2, 3], [0, 0, NONE, NONE, NONE], [NONE] * 5])
    value, column = top(scores, 2)
    assert column[:2].tolist() == [[1, 2], [0, 1]]
    assert value.tolist() == [[3, 3], [0, 0], [NONE, NONE]]
    value, column = top(scores, 9)
    assert column[0].tolist() == [1, 2, 4, 3, 0] and value[1].tolist() == [0, 0, NONE, NONE, NONE]


def test_ties_of_all_kinds_are_taken_as_a_stable_sort_takes_them() -> None:
    scores = torch.randint(5, (50, 20), generator=torch.Generator().manual_seed(0)).float()
    for k in (1, 6, 19, 20):
        expected = scores.sort(dim=1, descending=True, stable=True)
        assert torch.equal(top(scores, k)[1], expected.indices[:, :k])
