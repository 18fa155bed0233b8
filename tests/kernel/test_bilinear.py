"""A Linear of bilinear products by a kernel equals a loop over pairs, and torch."""

from itertools import combinations

import pytest
import torch
from both_ways import both_ways, leaf
from torch import Tensor

from recexp.kernel.bilinear import linear_of_products

KERNELS = ["bilinear", "bilinear_back"]
BY = {"one matrix": (False, False), "by field": (True, False), "by pair": (False, True)}


def loop(e: Tensor, scale: Tensor | None, weight: Tensor, linear: Tensor, by_field: bool, by_pair: bool) -> Tensor:
    v = e if scale is None else scale[:, :, None] * e
    pairs = enumerate(combinations(range(e.shape[1]), 2))
    products = [(v[:, i] @ weight[i * by_field + pair * by_pair]) * v[:, j] for pair, (i, j) in pairs]
    return torch.cat(products, 1) @ linear.t()


def inputs_of(n: int, n_fields: int, dim: int, hidden: int, by: tuple[bool, bool], gaps: bool = False) -> list[Tensor]:
    """e, a scale of each field, the matrices, and the Linear's weight."""
    n_pairs = n_fields * (n_fields - 1) // 2
    n_matrices = {"by field": n_fields, "by pair": n_pairs}.get(next(name for name in BY if BY[name] == by), 1)
    shapes = [(n, n_fields, dim), (n, n_fields), (n_matrices, dim, dim), (hidden, n_pairs * dim)]
    return [leaf(*shape, gaps=gaps, std=shape[-1] ** -0.5) for shape in shapes]


def missing() -> Tensor:
    raise AssertionError("no kernel took these")


@pytest.mark.parametrize("by", BY.values(), ids=BY)
@pytest.mark.parametrize("sizes", [(0, 3, 16, 16), (1, 2, 16, 16), (101, 8, 16, 64), (48, 3, 64, 16), (7, 13, 32, 80)])
@pytest.mark.parametrize("gaps", [False, True])
def test_products_and_gradients_are_those_of_a_loop(gaps, sizes, by, library, threads, used):
    inputs = inputs_of(*sizes, by, gaps)
    both_ways(lambda: linear_of_products(*inputs, *by, lambda: loop(*inputs, *by)), inputs, used, *KERNELS)
    e, _, *weights = inputs
    given = e, None, *weights
    both_ways(lambda: linear_of_products(*given, *by, lambda: loop(*given, *by)), [e, *weights], used, *KERNELS)


def test_what_needs_no_gradient_gets_none(library, used):
    by = BY["one matrix"]
    inputs = inputs_of(5, 4, 16, 16, by)
    for i, wanted in enumerate(inputs):
        others = [x if i == j else x.detach() for j, x in enumerate(inputs)]
        wanted.grad = None
        linear_of_products(*others, *by, missing).sum().backward()
        assert wanted.grad is not None
    assert set(used) == set(KERNELS)


@pytest.mark.parametrize(
    ("dim", "hidden", "dtype"), [(6, 16, torch.float32), (16, 1, torch.float32), (16, 16, torch.float64)]
)
def test_what_no_kernel_takes_is_left_to_torch(dim, hidden, dtype, library, used):
    by, found = BY["by pair"], torch.zeros(())
    inputs = [x.to(dtype) for x in inputs_of(2, 3, dim, hidden, by)]
    assert linear_of_products(*inputs, *by, lambda: found) is found
    assert not used
