"""Attention over pairs of fields equals a loop over samples in 64 bits, dropout included."""

import pytest
import torch
from both_ways import assert_close, both_ways, kept, leaf, results, seeds
from torch import Tensor

from recexp.kernel.pair_attention import attend_pairs

SIZE = 32


def loop(e: Tensor, weight: Tensor, bias: Tensor, score: Tensor, factors: Tensor) -> Tensor:
    """A sample and a pair at a time."""
    e, weight, bias, score = (x.double() for x in (e, weight, bias, score))
    pooled = []
    for sample, factor in zip(e, factors, strict=True):
        pairs = [(i, j) for i in range(len(sample)) for j in range(i + 1, len(sample))]
        products = torch.stack([sample[i] * sample[j] for i, j in pairs])
        weights = torch.stack([score @ torch.relu(weight @ product + bias) for product in products]).softmax(0)
        pooled.append((weights * factor) @ products)
    return torch.stack(pooled).float() if pooled else e.new_zeros(0, e.shape[2]).float()


@pytest.mark.parametrize("n", [0, 1, 50])
@pytest.mark.parametrize(("n_fields", "dim"), [(2, 16), (3, 1), (5, 10), (10, 32), (11, 17)])
@pytest.mark.parametrize("p", [0.0, 0.3])
def test_weighted_sums_of_pairs_are_those_of_a_loop(p, n_fields, dim, n, library, threads, used):
    e, weight, bias, score = leaf(n, n_fields, dim, gaps=True), leaf(SIZE, dim), leaf(SIZE), leaf(SIZE)
    n_pairs, inputs = n_fields * (n_fields - 1) // 2, [e, weight, bias, score]
    factors = kept(seeds(1)[0], (n, n_pairs), p) if n else torch.zeros(0, n_pairs)
    mine = results(lambda: attend_pairs(*inputs, p)[0], inputs)
    assert_close(mine, results(lambda: loop(*inputs, factors), inputs))
    assert set(used) == {"pair_attention", "pair_attention_back"}
    assert all(map(torch.equal, mine, results(lambda: attend_pairs(*inputs, p)[0], inputs)))


@pytest.mark.parametrize("n_fields", [2, 5])
def test_torch_gives_the_same(n_fields, library, used):
    inputs = [leaf(9, n_fields, 10), leaf(SIZE, 10), leaf(SIZE), leaf(SIZE)]
    both_ways(lambda: attend_pairs(*inputs, 0.0)[0], inputs, used, "pair_attention", "pair_attention_back")


def test_weights_are_handed_out_before_dropout_and_sum_to_1(library, used):
    inputs = leaf(7, 4, 10), leaf(SIZE, 10), leaf(SIZE), leaf(SIZE)
    attention = attend_pairs(*inputs, 0.5)[1]
    torch.testing.assert_close(attention.sum(1), torch.ones(7))
    torch.testing.assert_close(attention, attend_pairs(*inputs, 0.0)[1])
    assert not attention.requires_grad


def test_one_field_has_no_pairs(used):
    pooled, attention = attend_pairs(leaf(7, 1, 10), leaf(SIZE, 10), leaf(SIZE), leaf(SIZE), 0.0)
    assert torch.equal(pooled, torch.zeros(7, 10)) and attention.shape == (7, 0)
    assert used == []


def test_a_size_that_no_vector_holds_goes_to_torch(used):
    inputs = leaf(7, 4, 10), leaf(5, 10), leaf(5), leaf(5)
    assert attend_pairs(*inputs, 0.0)[0].shape == (7, 10)
    assert used == []
