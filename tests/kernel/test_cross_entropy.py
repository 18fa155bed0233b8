"""Cross-entropy in blocks of items equals that of all logits at once, and holds only one block."""

import pytest
import torch
from both_ways import agree, leaf

from recexp.kernel import cross_entropy as blocked
from recexp.kernel.cross_entropy import cross_entropy, reference


@pytest.mark.parametrize(("n", "n_items", "first"), [(1, 300, 0), (40, 700, 2), (7, 256, 1), (0, 300, 2)])
def test_blocks_equal_all_logits_at_once(n, n_items, first, monkeypatch):
    monkeypatch.setattr(blocked, "LARGEST", 256 * max(1, n))
    query, items = leaf(n, 24), leaf(n_items, 24)
    target = torch.randint(first, n_items, (n,), generator=torch.Generator().manual_seed(1))
    agree(
        lambda: cross_entropy(query, items, target, first),
        lambda: reference(query, items, target, first),
        [query, items],
    )


def test_huge_logits_stay_finite():
    query, items = leaf(5, 8, std=300.0), leaf(600, 8, std=300.0)
    loss = cross_entropy(query, items, torch.arange(5))
    assert loss.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss.sum(), [query, items]))


def test_no_tensor_is_as_large_as_all_logits(monkeypatch):
    seen = []
    times = blocked.times

    def watched(query, block):
        seen.append(len(query) * len(block))
        return times(query, block)

    monkeypatch.setattr(blocked, "times", watched)
    query, items = leaf(300, 8), leaf(50_000, 8)
    cross_entropy(query, items, torch.arange(300)).sum().backward()
    assert max(seen) <= blocked.LARGEST and sum(seen) == 2 * 300 * 50_000
