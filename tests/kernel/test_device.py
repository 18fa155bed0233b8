"""Answers for a device: what a GPU would be waited for is left out. The meta device stands for one."""

import pytest
import torch

from recexp.kernel.device import on_cpu, product_dtype, true_positions, unique, waits

INDEX = torch.tensor([[4, 2], [2, 7]])


def test_unique_numbers_and_the_positions_among_them():
    values, inverse = unique(INDEX)
    assert values.tolist() == [2, 4, 7] and torch.equal(values[inverse], INDEX)


def test_numbers_whose_count_would_be_waited_for_are_taken_as_they_are():
    values, inverse = unique(INDEX.to("meta"))
    assert values.shape == (4,) and inverse.shape == INDEX.shape


def test_true_positions_of_a_mask_or_all():
    mask = torch.tensor([True, False, True])
    assert true_positions(mask).tolist() == [0, 2]
    assert true_positions(mask.to("meta")) == slice(None)


@pytest.mark.parametrize(("device", "here"), [("cpu", True), ("meta", False)])
def test_a_cpu_is_not_waited_for(device, here):
    x = torch.zeros(2, device=device)
    assert waits(x) is not here and on_cpu(x) is here


def test_autocast_rounds_products():
    x = torch.zeros(2)
    with torch.autocast("cpu", torch.bfloat16):
        assert product_dtype(x) is torch.bfloat16 and not on_cpu(x)
    assert product_dtype(x) is torch.float32
