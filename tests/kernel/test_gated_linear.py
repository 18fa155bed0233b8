"""Two gates and the products after them by the kernel equal those of torch."""

import pytest
import torch
from both_ways import both_ways, indices, leaf

from recexp.kernel.gated_linear import gated_linear

KERNELS = ["gated_linear", "gated_linear_back", "scatter_beside"]


def linear(n_out: int, dim: int, gaps: bool = False) -> tuple:
    return leaf(n_out, dim, gaps=gaps), leaf(n_out, gaps=gaps)


@pytest.mark.parametrize(("n_first", "n_second"), [(1, 60), (7, 3)])
@pytest.mark.parametrize("n_rows", [0, 1, 49, 150])
@pytest.mark.parametrize("gaps", [False, True])
def test_gates_and_products_equal_torchs(gaps, n_rows, n_first, n_second, library, threads, used):
    e, first, second = leaf(n_rows, 32, gaps=gaps), leaf(n_first, 32, gaps=gaps), leaf(n_second, 32, gaps=gaps)
    gates = [(first, indices(n_rows, n=n_first)), (second, indices(n_rows, n=n_second))]
    linears = [linear(48, 32, gaps), linear(16, 32, gaps)]

    def one_by_one():
        return tuple((2 * s[i] * e) @ w.t() + b for (s, i), (w, b) in zip(gates, linears, strict=True))

    inputs = [e, first, second, *(array for pair in linears for array in pair)]
    both_ways(lambda: gated_linear(e, gates, linears), inputs, used, *KERNELS, reference=one_by_one)


def test_what_takes_no_gradient_changes_no_other(library, used):
    e, s, index = leaf(50, 16).detach(), leaf(3, 16), indices(50, n=3)
    both_ways(lambda: gated_linear(e, [(s, index), (s, index)], [linear(16, 16)] * 2), [s], used, *KERNELS)


def test_a_gate_without_a_product_is_left_to_torch(library, used):
    e, s, index = leaf(50, 16), leaf(3, 16), indices(50, n=3)
    first, second = gated_linear(e, [(s, index), (s, index)], [None, linear(16, 16)])
    torch.testing.assert_close(first, 2 * s[index] * e)
    assert second.shape == (50, 16) and "gated_linear" not in used


@pytest.mark.parametrize(("dim", "n_out"), [(7, 16), (16, 7)])
def test_widths_that_no_kernel_takes_are_left_to_torch(dim, n_out, library, used):
    s, index = leaf(3, dim), indices(5, n=3)
    outs = gated_linear(leaf(5, dim), [(s, index), (s, index)], [linear(n_out, dim)] * 2)
    assert [out.shape for out in outs] == [(5, n_out)] * 2 and "gated_linear" not in used


def test_an_index_out_of_range_is_refused(library):
    s, index = leaf(3, 16), torch.tensor([3])
    with pytest.raises(IndexError, match="none of the 3 rows"):
        gated_linear(leaf(1, 16), [(s, index), (s, index)], [linear(16, 16)] * 2)
