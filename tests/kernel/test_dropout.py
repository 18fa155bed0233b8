"""Dropout by itself: factors as the hash says, the same in the backward pass and on any number of threads."""

import pytest
import torch
import torch.nn.functional as F
from both_ways import leaf
from torch import Tensor

from recexp.kernel.dropout import dropout
from recexp.layer.dropout import Dropout


def factors(seed: int, n: int, p: float) -> Tensor:
    """Those of the numbers 0 to n - 1, by the hash that kernel.h names."""
    x = (torch.arange(n) + seed * 0x9E3779B9) % 2**32
    for shift, times in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ x >> shift) * times % 2**32
    return torch.where((x ^ x >> 16) >= round(p * 2**32), 1 / (1 - p), 0.0).float()


@pytest.mark.parametrize("shape", [(0, 16), (1, 16), (61, 48), (7, 5, 64)])
def test_factors_are_those_of_the_hash_in_both_passes(shape, library, threads, used):
    x, grad = leaf(*shape), torch.randn(*shape)
    torch.manual_seed(3)
    seed = int(torch.randint(2**31, ()))
    torch.manual_seed(3)
    out = dropout(x, 0.3)
    out.backward(grad)
    expected = factors(seed, x.numel(), 0.3).view(shape)
    torch.testing.assert_close(out, x * expected)
    torch.testing.assert_close(x.grad, grad * expected)
    assert used == ["drop", "drop"]


def test_the_share_that_is_dropped_is_p_and_each_call_drops_others(library):
    first, second = (dropout(torch.ones(2000, 64), 0.3) for _ in range(2))
    for out in (first, second):
        assert (out == 0).float().mean().item() == pytest.approx(0.3, abs=0.005)
    assert ((first == 0) & (second == 0)).float().mean().item() == pytest.approx(0.09, abs=0.005)


def test_what_no_kernel_takes_is_left_to_torch(library, used):
    x = torch.randn(9, 7)
    torch.manual_seed(0)
    expected = F.dropout(x, 0.3)
    torch.manual_seed(0)
    assert torch.equal(dropout(x, 0.3), expected)
    assert not used


def test_the_layer_drops_in_training_alone():
    x, layer = torch.ones(50, 16), Dropout(0.5)
    assert (layer(x) == 0).any()
    assert layer.eval()(x) is x and Dropout(0)(x) is x
