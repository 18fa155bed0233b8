"""Cross-entropy over a catalogue, by a kernel and in blocks by torch, equals that of all logits at once."""

import pytest
import torch
from both_ways import agree, assert_close, both_ways, by_torch, indices, leaf, results

from recexp.kernel import cross_entropy as blocked
from recexp.kernel import library as kernels
from recexp.kernel.cross_entropy import (
    cross_entropy,
    reference,
    sampled_cross_entropy,
    sampled_reference,
    summed_cross_entropy,
)

NAMES = ("cross_entropy", "cross_entropy_back")
# queries, items, items that do not count: with rests of blocks and registers, and without
SIZES = [(1, 300, 0), (40, 700, 2), (7, 256, 1), (96, 48, 0), (131, 97, 5)]


def targets(n, n_items, first):
    return first + indices(n, n=n_items - first)


def in_64_bits(query, items, target, first=0):
    return results(lambda: reference(query.double(), items.double(), target, first).float(), [query, items])


@pytest.fixture
def no_library(monkeypatch):
    monkeypatch.setattr(kernels, "installed", lambda: [])


@pytest.mark.parametrize(("n", "n_items", "first"), [*SIZES, (0, 300, 2)])
def test_blocks_equal_all_logits_at_once(n, n_items, first, monkeypatch, no_library):
    monkeypatch.setattr(blocked, "LARGEST", 256 * max(1, n))
    query, items, target = leaf(n, 24), leaf(n_items, 24), targets(n, n_items, first)
    agree(
        lambda: cross_entropy(query, items, target, first),
        lambda: reference(query, items, target, first),
        [query, items],
    )


@pytest.mark.parametrize(("n", "n_items", "first"), SIZES)
@pytest.mark.parametrize(("width", "gaps"), [(16, True), (64, False)])
def test_the_kernel_equals_all_logits_in_64_bits(width, gaps, n, n_items, first, library, threads, used):
    query, items, target = leaf(n, width, gaps=gaps), leaf(n_items, width, gaps=gaps), targets(n, n_items, first)
    loss = lambda: cross_entropy(query, items, target, first)  # noqa: E731
    both_ways(loss, [query, items], used, *NAMES)
    mine = results(loss, [query, items])
    assert_close(mine, in_64_bits(query, items, target, first), rtol=1e-5, atol=1e-6)
    assert not mine[2][:first].any()


@pytest.mark.parametrize(("n", "n_items", "first"), [*SIZES, (150, 333, 2)])
@pytest.mark.parametrize(("width", "gaps"), [(16, True), (64, False)])
def test_the_sum_and_its_gradients_are_computed_together(width, gaps, n, n_items, first, library, threads, used):
    query, items, target = leaf(n, width, gaps=gaps), leaf(n_items, width, gaps=gaps), targets(n, n_items, first)
    loss = lambda: 0.3 * summed_cross_entropy(query, items, target, first)  # noqa: E731
    both_ways(loss, [query, items], used, "summed_cross_entropy")
    in_doubles = lambda: 0.3 * reference(query.double(), items.double(), target, first).sum().float()  # noqa: E731
    assert_close(results(loss, [query, items]), results(in_doubles, [query, items]), rtol=1e-5, atol=3e-6)
    assert torch.equal(*(results(loss, [query, items])[1] for _ in range(2)))


@pytest.mark.parametrize(("n", "n_sampled"), [(1, 1), (40, 7), (97, 300), (150, 48), (0, 5)])
@pytest.mark.parametrize("width", [3, 16, 64])
def test_sampled_items_compete_with_the_target_of_each_query(width, n, n_sampled, library, threads, used):
    query, items, bias, own = leaf(n, width), leaf(n_sampled, width), leaf(n_sampled), leaf(n)
    target, sampled = indices(n, n=9), indices(n_sampled, n=9)  # many samples are a query's target
    target[::5] = -1
    leaves = [query, items, bias, own]
    loss = lambda: 0.3 * sampled_cross_entropy(*leaves, target, sampled)  # noqa: E731
    both_ways(loss, leaves, used, "sampled_cross_entropy")
    one_by_one = [
        torch.logsumexp(torch.stack([own[p], *(query[p] @ items[j] + bias[j] for j in range(n_sampled)
                                               if sampled[j] != target[p])]), 0) - own[p]
        for p in range(n) if target[p] >= 0
    ]  # fmt: skip
    wanted = lambda: 0.3 * (torch.stack(one_by_one).sum() if one_by_one else 0 * own.sum())  # noqa: E731
    torch.testing.assert_close(loss(), wanted(), rtol=1e-5, atol=1e-5)
    gradients = [torch.autograd.grad(f(), leaves, allow_unused=True) for f in (loss, wanted)]
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, torch.zeros_like(mine) if theirs is None else theirs, rtol=1e-4, atol=1e-5)


def test_samples_that_are_all_the_target_cost_nothing(library, threads):
    query, items, own = leaf(3, 16, std=300.0), leaf(5, 16, std=300.0), leaf(3)
    target = torch.full((3,), 4)
    loss = sampled_cross_entropy(query, items, torch.zeros(5), own, target, torch.full((5,), 4))
    gradients = torch.autograd.grad(loss, [query, items, own])
    assert loss == 0 and all((gradient.abs() < 1e-30).all() for gradient in gradients)  # e^-inf is nearly 0 in a kernel


def test_huge_logits_of_samples_stay_finite(library, threads):
    leaves = [leaf(5, 16, std=300.0), leaf(60, 16, std=300.0), leaf(60), leaf(5, std=1e5)]
    target, sampled = torch.arange(5), indices(60, n=9)
    mine = results(lambda: sampled_cross_entropy(*leaves, target, sampled), leaves)
    exact = results(lambda: sampled_reference(*(x.double() for x in leaves), target, sampled).float(), leaves)
    assert_close(mine, exact, rtol=1e-5, atol=1e-5)


def test_the_sum_keeps_no_logits_without_gradients_or_of_too_many_items(library, used, monkeypatch):
    query, items, target = leaf(5, 16), leaf(300, 16), targets(5, 300, 2)
    with torch.no_grad():
        plain = summed_cross_entropy(query, items, target, 2)
    assert used == ["cross_entropy"]
    monkeypatch.setattr(blocked, "LARGEST_KEPT", 298 * blocked.BLOCK - 1)
    sums = summed_cross_entropy(query, items, target, 2)
    sums.backward()
    assert used == ["cross_entropy", "cross_entropy", "cross_entropy_back"]
    assert torch.equal(plain, sums) and torch.isclose(sums, reference(query, items, target, 2).sum())


def test_without_queries_all_gradients_are_0(library, threads):
    query, items = leaf(0, 16), leaf(300, 16)
    assert cross_entropy(query, items, targets(0, 300, 2), 2).shape == (0,)
    for loss in (
        cross_entropy(query, items, targets(0, 300, 2), 2).sum(),
        summed_cross_entropy(query, items, targets(0, 300, 2), 2),
    ):
        dquery, ditems = torch.autograd.grad(loss, [query, items])
        assert loss == 0 and dquery.shape == query.shape and not ditems.any()


def test_huge_logits_stay_finite(library, threads):
    query, items, target = leaf(5, 16, std=300.0), leaf(600, 16, std=300.0), torch.arange(5)
    with torch.no_grad():
        items[0] = 2 * query[0]  # a target whose logit is the largest by far
    loss = lambda: cross_entropy(query, items, target)  # noqa: E731
    mine, theirs = results(loss, [query, items]), by_torch(loss, [query, items])
    assert mine[0].min() == mine[0][0] == 0
    wanted = in_64_bits(query, items, target)
    assert_close(mine, wanted, rtol=1e-5, atol=1e-6)
    summed = results(lambda: summed_cross_entropy(query, items, target), [query, items])
    assert_close(
        summed[1:],
        [
            gradient.float()
            for gradient in results(lambda: reference(query.double(), items.double(), target).sum(), [query, items])[1:]
        ],
        rtol=1e-5,
        atol=1e-6,
    )
    assert_close(theirs, wanted, rtol=1e-5, atol=1e-6)


def test_a_logit_that_is_no_number_is_told_by_the_loss(library):
    query, items = leaf(3, 16), leaf(200, 16)
    with torch.no_grad():
        query[1, 0] = torch.nan
    assert cross_entropy(query, items, torch.arange(3)).isnan().tolist() == [False, True, False]
    assert summed_cross_entropy(query, items, torch.arange(3)).isnan()


@pytest.mark.parametrize("width", [1, 7, 65])
def test_vectors_of_any_width_are_filled_up_with_zeros(width, library, threads, used):
    query, items, target = leaf(5, width), leaf(60, width), torch.arange(5)
    both_ways(lambda: cross_entropy(query, items, target), [query, items], used, *NAMES)
    used.clear()
    both_ways(lambda: summed_cross_entropy(query, items, target), [query, items], used, "summed_cross_entropy")


def test_bfloat16_is_left_to_torch(library, used):
    query, items, target = leaf(5, 16), leaf(60, 16), torch.arange(5)
    loss = lambda: cross_entropy(query, items, target)  # noqa: E731
    with torch.autocast("cpu", torch.bfloat16):  # gradients are computed within it too
        rounded = results(loss, [query, items])
    assert used == []
    assert_close(rounded, results(loss, [query, items]), rtol=0.05, atol=0.05)
    total = (query.bfloat16() @ items.bfloat16().t()).float().logsumexp(1)
    torch.testing.assert_close(rounded[0], total - (query * items[target]).sum(1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("target", [1, 60])
def test_a_target_that_does_not_count_is_told(target, library):
    for loss in (cross_entropy, summed_cross_entropy):
        with pytest.raises(IndexError):
            loss(leaf(2, 16), leaf(60, 16), torch.tensor([5, target]), 2)


def test_no_tensor_is_as_large_as_all_logits(monkeypatch, no_library):
    seen = []
    times = blocked.times

    def watched(query, block):
        seen.append(len(query) * len(block))
        return times(query, block)

    monkeypatch.setattr(blocked, "times", watched)
    query, items = leaf(300, 8), leaf(50_000, 8)
    cross_entropy(query, items, torch.arange(300)).sum().backward()
    assert max(seen) <= blocked.LARGEST and sum(seen) == 2 * 300 * 50_000
