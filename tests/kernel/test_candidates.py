"""Scores of sampled items, and counts of scores, by kernels, by torch, and as the formula says."""

import pytest
import torch
from both_ways import both_ways, indices, leaf

from recexp.kernel import library as kernels
from recexp.kernel import rank
from recexp.kernel.candidates import reference, scores, scores_grouped
from recexp.kernel.unique import grouped

NAMES = ("candidates_sort", "candidates", "candidates_back")


@pytest.mark.parametrize(("n", "each"), [(0, 3), (1, 1), (7, 1), (61, 21)])
@pytest.mark.parametrize("width", [7, 16, 64, 65])
@pytest.mark.parametrize("gaps", [False, True])
def test_scores_of_sampled_items(gaps, width, n, each, library, threads, used):
    query, table, index = leaf(n, width, gaps=gaps), leaf(90, width, gaps=gaps), indices(n, each, n=90)
    alone = lambda: reference(query, table, index)  # noqa: E731
    both_ways(lambda: scores(query, table, index), [query, table], used, *NAMES, reference=alone)


@pytest.mark.parametrize(("n", "each"), [(0, 3), (1, 1), (7, 1), (61, 21)])
@pytest.mark.parametrize("width", [7, 64])
def test_scores_of_rows_looked_up_once(width, n, each, library, threads, used):
    query, index = leaf(n, width), indices(n, each, n=90) * 3
    groups = grouped(index, torch.empty(300, 0))
    table = leaf(len(groups.rows), width)
    used.clear()
    alone = lambda: reference(query, table, torch.searchsorted(groups.rows, index))  # noqa: E731
    both_ways(lambda: scores_grouped(query, table, groups, each), [query, table], used, *NAMES[1:], reference=alone)


@pytest.fixture
def no_library(monkeypatch):
    monkeypatch.setattr(kernels, "installed", lambda: [])


def test_without_kernels_torch_scores(no_library, used):
    query, table, index = leaf(61, 7), leaf(90, 7), indices(61, 21, n=90)
    both_ways(
        lambda: scores(query, table, index), [query, table], used, reference=lambda: reference(query, table, index)
    )


def test_many_queries_are_scored_in_parts_without_a_kernel(monkeypatch, no_library, used):
    monkeypatch.setattr("recexp.kernel.candidates.LARGEST", 500)
    query, table, index = leaf(61, 7), leaf(90, 7), indices(61, 21, n=90)
    both_ways(
        lambda: scores(query, table, index), [query, table], used, reference=lambda: reference(query, table, index)
    )


def test_an_item_out_of_range_is_told(library):
    with pytest.raises(IndexError):
        scores(leaf(2, 16), leaf(9, 16), torch.tensor([[0, 3], [9, 1]]))


@pytest.mark.parametrize("n", [0, 1, 70])
def test_scores_at_least_as_high_are_counted(n, library, threads, used):
    table = torch.randint(0, 9, (20, 133), generator=torch.Generator().manual_seed(0)).float()
    table[3, :50] = -torch.inf
    row = indices(n, n=20)
    own = table[row, indices(n, n=133)]
    counts = rank.at_least(table, row, own)
    assert counts.tolist() == [int((table[r] >= s).sum()) for r, s in zip(row, own, strict=True)]
    assert torch.equal(counts, rank.reference(table, row, own)) and used == ["at_least"]


def test_a_user_out_of_range_is_told(library):
    with pytest.raises(IndexError):
        rank.at_least(torch.zeros(2, 5), torch.tensor([2]), torch.zeros(1))
