import torch

from recexp.layer.field_aware import _Pairs


def test_gradient_of_the_pairs_is_that_of_finite_differences() -> None:
    x = torch.randn(2, 4, 3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(_Pairs.apply, (x,))


def test_two_fields_have_one_pair() -> None:
    x = torch.randn(3, 2, 1, 5)
    torch.testing.assert_close(_Pairs.apply(x), (x[:, 0, 0] * x[:, 1, 0]).sum(1, keepdim=True))
