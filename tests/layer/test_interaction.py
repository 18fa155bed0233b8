from itertools import combinations

import torch

from recexp.layer.interaction import bi_interaction


def fm(e: torch.Tensor) -> torch.Tensor:
    """Inner products of all pairs, summed: e (B, F, D) -> (B,)."""
    return bi_interaction(e).sum(-1)


def test_fm_of_three_fields_computed_by_hand():
    e = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])
    assert fm(e).tolist() == [11.0 + 17.0 + 39.0]
    assert bi_interaction(e).tolist() == [[3.0 + 5.0 + 15.0, 8.0 + 12.0 + 24.0]]


def test_both_equal_the_sum_over_pairs():
    e = torch.randn(7, 5, 4, generator=torch.Generator().manual_seed(0))
    pairs = torch.stack([e[:, i] * e[:, j] for i, j in combinations(range(5), 2)]).sum(0)  # (B, D)
    torch.testing.assert_close(bi_interaction(e), pairs)
    torch.testing.assert_close(fm(e), pairs.sum(1))


def test_gradient_of_a_field_is_the_sum_of_the_others():
    e = torch.randn(3, 4, 2, requires_grad=True)
    fm(e).sum().backward()
    torch.testing.assert_close(e.grad, (e.sum(1, keepdim=True) - e).detach())


def test_one_field_has_no_pairs():
    assert torch.equal(fm(torch.randn(2, 1, 3)), torch.zeros(2))


def test_bfloat16_fields_are_summed_in_fp32():
    e = (100 + torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(0))).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = fm(e)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, fm(e.double()).float())


def test_huge_fields_stay_finite():
    assert fm(torch.full((2, 10, 8), 1e15)).isfinite().all()
