"""The crosses of DCN v2 by the kernel are eq. 1, cross after cross."""

import pytest
import torch
from both_ways import both_ways, leaf

from recexp.kernel.cross import crosses

KERNELS = ["cross", "cross_back"]


def parameters(n_layers: int, dim: int, gaps: bool = False) -> tuple[list, list]:
    weights = [leaf(dim, dim, gaps=gaps, seed=i, std=0.2) for i in range(n_layers)]
    return weights, [leaf(dim, gaps=gaps, seed=i) for i in range(n_layers)]


@pytest.mark.parametrize("with_last", [False, True])
@pytest.mark.parametrize("n_layers", [1, 2, 3])
@pytest.mark.parametrize("n_rows", [0, 1, 49, 150])
@pytest.mark.parametrize("gaps", [False, True])
def test_crosses_equal_equation_1(gaps, n_rows, n_layers, with_last, library, threads, used):
    x0, (weights, biases) = leaf(n_rows, 48, gaps=gaps), parameters(n_layers, 48, gaps)
    last = leaf(1, 48, gaps=gaps) if with_last else None

    def one_by_one():
        x = x0
        for weight, bias in zip(weights, biases, strict=True):
            x = x0 * (x @ weight.t() + bias) + x
        return x @ last.t() if with_last else x

    inputs = [x0, *weights, *biases, *([last] if with_last else [])]
    both_ways(lambda: crosses(x0, weights, biases, last), inputs, used, *KERNELS, reference=one_by_one)


def test_what_takes_no_gradient_changes_no_other(library, used):
    x0, (weights, biases) = leaf(50, 16).detach(), parameters(2, 16)
    weights[0].requires_grad_(False)
    both_ways(lambda: crosses(x0, weights, biases), [weights[1], *biases], used, *KERNELS)


@pytest.mark.parametrize(("dim", "dtype"), [(7, torch.float32), (16, torch.float64)])
def test_what_no_kernel_takes_is_left_to_torch(dim, dtype, library, used):
    weights, biases = parameters(2, dim)
    given = [[array.to(dtype) for array in arrays] for arrays in (weights, biases)]
    assert crosses(leaf(5, dim).to(dtype), *given).shape == (5, dim) and not used
