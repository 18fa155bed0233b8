"""Attention among fields by the kernel equals a loop over heads and fields, dropout included."""

import pytest
import torch
from both_ways import assert_close, both_ways, kept, leaf, results, seeds
from torch import Tensor

from recexp.kernel.field_attention import attend_fields

KERNELS = ["field_attention", "field_attention_back"]
P = 0.3


def by_pair(x: Tensor, weights, residual, n_heads: int, scale: float, relu: bool, factors: Tensor) -> Tensor:
    """Eq. 5 to 8 with dropout's factors (B, h, F, F)."""
    q, k, v = ((x @ weight.t()).unflatten(2, (n_heads, -1)) for weight in weights)  # (B, F, h, d)
    rows = []
    for i in range(x.shape[1]):
        scores = torch.stack([scale * (q[:, i] * k[:, j]).sum(2) for j in range(x.shape[1])], 2)  # (B, h, F)
        kept_weights = scores.softmax(2) * factors[:, :, i]
        rows.append(sum(kept_weights[:, :, j, None] * v[:, j] for j in range(x.shape[1])).flatten(1))
    y = torch.stack(rows, 1) + (x if residual is None else x @ residual.t())
    return torch.relu(y) if relu else y


@pytest.mark.parametrize("n_rows", [1, 16, 53])
@pytest.mark.parametrize("n_fields", [1, 5, 8])
@pytest.mark.parametrize(("size", "n_heads"), [(16, 1), (16, 4), (48, 16)])
@pytest.mark.parametrize(("relu", "gaps"), [(True, False), (False, True)])
def test_heads_and_residual_equal_a_loop(relu, gaps, size, n_heads, n_fields, n_rows, library, threads, used):
    x, weights = leaf(n_rows, n_fields, 16, gaps=gaps), [leaf(size, 16, gaps=gaps, seed=seed) for seed in range(3)]
    residual = None if size == 16 else leaf(size, 16, gaps=gaps, seed=4)
    factors = torch.ones(n_rows, n_heads, n_fields, n_fields)
    inputs = [x, *weights, *([] if residual is None else [residual])]
    both_ways(
        lambda: attend_fields(x, weights, residual, n_heads, 0.3, relu, 0.0),
        inputs, used, *KERNELS,
        reference=lambda: by_pair(x, weights, residual, n_heads, 0.3, relu, factors),
    )  # fmt: skip


@pytest.mark.parametrize("n_heads", [1, 2])
def test_dropout_multiplies_the_softmax_by_its_factors(n_heads, library, threads, used):
    x, weights = leaf(37, 5, 16), [leaf(16, 16, seed=seed) for seed in range(3)]
    factors = kept(seeds(1)[0], (37, n_heads, 5, 5), P)

    def kernel() -> Tensor:
        return attend_fields(x, weights, None, n_heads, 0.3, True, P)

    inputs = [x, *weights]
    mine = results(kernel, inputs)
    assert_close(mine, results(lambda: by_pair(x, weights, None, n_heads, 0.3, True, factors), inputs))
    assert set(used) == set(KERNELS)
    assert all(map(torch.equal, mine, results(kernel, inputs)))


def test_scores_of_any_size_are_finite(library):
    x, weights = 1e3 * leaf(20, 4, 16).detach(), [leaf(16, 16, seed=seed) for seed in range(3)]
    out = attend_fields(x, weights, None, 2, 1.0, False, 0.0)
    assert out.isfinite().all()
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(out.sum(), weights))


def test_no_rows(library):
    x, weights = leaf(0, 4, 16), [leaf(16, 16, seed=seed) for seed in range(3)]
    out = attend_fields(x, weights, None, 2, 1.0, True, 0.0)
    assert out.shape == (0, 4, 16)
    assert not any(grad.any() for grad in torch.autograd.grad(out.sum(), weights))


@pytest.mark.parametrize(("n_in", "size"), [(7, 16), (16, 12)])
def test_widths_that_no_kernel_takes_are_left_to_torch(n_in, size, library, used):
    weights = [leaf(size, n_in, seed=seed) for seed in range(3)]
    out = attend_fields(leaf(5, 3, n_in), weights, leaf(size, n_in), 2, 1.0, True, 0.0)
    assert out.shape == (5, 3, size) and "field_attention" not in used
