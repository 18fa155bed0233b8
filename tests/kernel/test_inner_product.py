"""Fields and the inner products of their pairs, before a linear layer, by the kernel."""

import itertools

import pytest
import torch
from both_ways import both_ways, leaf

from recexp.kernel.inner_product import inner_products_linear

KERNELS = ["inner_products", "inner_products_back"]


@pytest.mark.parametrize("dim", [16, 48])
@pytest.mark.parametrize(("n_rows", "n_fields"), [(0, 3), (1, 1), (49, 2), (61, 8)])
@pytest.mark.parametrize("gaps", [False, True])
def test_products_of_pairs_equal_a_loop(gaps, n_rows, n_fields, dim, library, threads, used):
    pairs = list(itertools.combinations(range(n_fields), 2))
    e, bias = leaf(n_rows, n_fields, dim, gaps=gaps), leaf(16, gaps=gaps)
    weight = leaf(16, n_fields * dim + len(pairs), gaps=gaps)

    def loop():
        products = [(e[:, i] * e[:, j]).sum(1, keepdim=True) for i, j in pairs]
        return torch.cat([e.flatten(1), *products], 1) @ weight.t() + bias

    def linear():
        return inner_products_linear(e, weight, bias)

    both_ways(linear, [e, weight, bias], used, *KERNELS, reference=loop, atol=1e-4)


def test_fields_that_take_no_gradient(library, used):
    e, weight, bias = leaf(50, 3, 16).detach(), leaf(16, 51), leaf(16)
    both_ways(lambda: inner_products_linear(e, weight, bias), [weight, bias], used, "inner_products")


@pytest.mark.parametrize(("dim", "dtype"), [(7, torch.float32), (16, torch.float64)])
def test_what_no_kernel_takes_is_left_to_torch(dim, dtype, library, used):
    e, weight, bias = (x.to(dtype) for x in (leaf(5, 3, dim), leaf(4, 3 * dim + 3), leaf(4)))
    assert inner_products_linear(e, weight, bias).shape == (5, 4) and not used
