"""Sums over fields by the kernel, and the pairs that they hold."""

import pytest
import torch
from both_ways import both_ways, leaf

from recexp.kernel.fields import field_sums, split_sums

KERNELS = ["field_sums", "field_sums_back", "split_sums", "split_sums_back"]


@pytest.mark.parametrize("hidden", [None, 48])
@pytest.mark.parametrize(("n_rows", "n_fields"), [(0, 3), (1, 1), (49, 2), (61, 5)])
@pytest.mark.parametrize("gaps", [False, True])
def test_sums_of_fields_and_what_becomes_of_them(gaps, n_rows, n_fields, hidden, library, threads, used):
    e = leaf(n_rows, n_fields, 16, gaps=gaps)
    weight = bias = None
    if hidden:
        weight, bias = leaf(hidden, n_fields * 16, gaps=gaps), leaf(hidden, gaps=gaps)

    def split():
        pairs, linear = split_sums(field_sums(e, weight), bias)
        return pairs if hidden is None else (pairs, linear)

    def one_by_one():
        pairs = sum((e[:, i] * e[:, j] for j in range(n_fields) for i in range(j)), start=0 * e.sum(1))
        return pairs if hidden is None else (pairs, e.flatten(1) @ weight.t() + bias)

    inputs = [x for x in (e, weight, bias) if x is not None]
    both_ways(split, inputs, used, *KERNELS, reference=one_by_one)


def test_sums_of_sets_of_fields_add_up(library):
    e, weight = leaf(7, 5, 16).detach(), leaf(16, 80).detach()
    parts = field_sums(e[:, :2], weight[:, :32]) + field_sums(e[:, 2:], weight[:, 32:])
    torch.testing.assert_close(parts, field_sums(e, weight), rtol=1e-4, atol=1e-4)


def test_widths_that_no_kernel_takes_are_left_to_torch(library, used):
    assert field_sums(leaf(5, 3, 7)).shape == (5, 14) and not used
