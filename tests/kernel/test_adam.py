"""Steps that rows have missed, and steps of rows: by kernels, and by the reference one by one."""

import functools
from dataclasses import replace

import pytest
import torch

from recexp.kernel import adam
from recexp.kernel.adam import (
    COLUMNS,
    EPS,
    Rows,
    Step,
    fading,
    missed,
    missed_reference,
    powers,
    remember,
    update,
    update_reference,
)

BETAS, N = (0.9, 0.999), 100
each_width = pytest.mark.parametrize("width", [1, 5, 16, 37])


def rows_of(width: int, scale: float, last: torch.Tensor) -> Rows:
    """Weights with moments as of gradients of this scale."""
    torch.manual_seed(0)
    mean = torch.randn(N, width) * scale
    return Rows(torch.randn(N, width), mean, (mean / torch.empty(N, width).uniform_(0.1, 3)).square(), last, BETAS)


def copied(rows: Rows, dtype: torch.dtype = torch.float64) -> Rows:
    tensors = [tensor.to(dtype, copy=True) for tensor in (rows.weight, rows.mean, rows.square)]
    return Rows(*tensors, rows.last.clone(), BETAS)


@functools.cache
def remembered(first: int, n: int, decay: float = 0.0, shrink: float = 1.0) -> torch.Tensor:
    """n past steps from `first` on, with a learning rate that changes."""
    past, table = torch.zeros(n, len(COLUMNS), dtype=torch.float64), fading(BETAS)
    for i in range(n):
        remember(past, i, Step.of(first + i, 0.01 / (1 + i % 7), BETAS, 1e-8, decay, shrink), table)
    return past


@pytest.mark.parametrize(("first", "width"), [(2, 16), (2, 5), (40, 37), (5000, 16), (5000, 1)])
def test_missed_steps_at_once_equal_those_one_by_one(first, width, library, threads, used):
    """Gaps of 0 to 300 steps, moments from far below eps to far above, from the first steps on."""
    past = remembered(first, 300)
    step = first + 299
    last = step - torch.arange(N, dtype=torch.int32) * 300 // (N - 1)
    last[:3] = 0  # never had a gradient
    rows = rows_of(width, 1.0, last)
    scale = 10 ** torch.linspace(-13, -1, N)[torch.randperm(N), None]
    rows.mean.mul_(scale), rows.square.mul_(scale.square())
    wanted = copied(rows)
    missed(rows, None, past, step, powers(300, BETAS), decays=False)
    assert used == ["adam_missed"]
    missed_reference(wanted, torch.arange(N), past, step, decays=False)
    for name in ("weight", "mean", "square"):
        mine, theirs = getattr(rows, name).double(), getattr(wanted, name)
        torch.testing.assert_close(mine, theirs, rtol=3e-6, atol=1e-37 if name != "weight" else 3e-7)
    assert torch.equal(rows.last, wanted.last) and rows.last.unique().tolist() == [0, step]


@each_width
@pytest.mark.parametrize(("decay", "shrink"), [(1e-3, 1.0), (0.0, 0.999), (0.1, 0.99)])
def test_steps_under_decay_equal_those_of_the_reference(decay, shrink, width, library, threads, used):
    past = remembered(1, 50, decay, shrink)
    rows = rows_of(width, 1e-4, 50 - torch.arange(N, dtype=torch.int32) // 2)
    index, wanted = torch.arange(0, N, 3), copied(rows)
    missed(rows, index, past, 50, powers(50, BETAS), decays=True)
    missed_reference(wanted, index, past, 50, decays=True)
    torch.testing.assert_close(rows.weight.double(), wanted.weight, rtol=1e-5, atol=1e-6)
    assert torch.equal(rows.last, wanted.last) and rows.last[index].eq(50).all()
    assert used == ["adam_missed"]


@each_width
def test_update_equals_that_of_torch(width, library, threads, used):
    torch.manual_seed(0)
    rows = rows_of(width, 0.0, torch.zeros(N, dtype=torch.int32))
    rows.square.zero_()
    whole = torch.nn.Parameter(rows.weight.clone())
    dense = torch.optim.Adam([whole], lr=0.01, weight_decay=0.1)
    for number in range(1, 4):
        whole.grad = torch.randn(N, width)
        dense.step()
        update(rows, torch.arange(N), whole.grad, Step.of(number, 0.01, BETAS, 1e-8, 0.1, 1.0))
    torch.testing.assert_close(rows.weight, whole.detach(), rtol=1e-5, atol=1e-6)
    assert rows.last.eq(3).all() and set(used) == {"adam_update"}


@each_width
def test_one_second_moment_of_a_row_equals_that_of_the_reference(width, library, threads, used):
    rows = rows_of(width, 1e-3, 301 - torch.arange(N, dtype=torch.int32))
    rows = replace(rows, square=rows.square.mean(1, keepdim=True))
    index, grad, wanted = torch.arange(0, N, 3), torch.randn(34, width), copied(rows)
    past, step = remembered(2, 300), Step.of(302, 0.01, BETAS, 1e-8, 0.1, 0.99)
    missed(rows, None, past, 301, powers(300, BETAS), decays=False)
    missed_reference(wanted, torch.arange(N), past, 301, decays=False)
    update(rows, index, grad, step)
    update_reference(wanted, index, grad.double(), step)
    assert used == ["adam_missed", "adam_update"]
    for name in ("weight", "mean", "square"):
        torch.testing.assert_close(getattr(rows, name).double(), getattr(wanted, name), rtol=1e-5, atol=1e-6)
    assert torch.equal(rows.last, wanted.last)


def test_a_learning_rate_of_0_moves_nothing(library):
    past = torch.zeros(5, len(COLUMNS), dtype=torch.float64)
    past[:, EPS] = 1e-8
    rows = rows_of(16, 1e-3, torch.ones(N, dtype=torch.int32))
    before = rows.weight.clone()
    missed(rows, None, past, 6, powers(5, BETAS), decays=False)
    assert torch.equal(rows.weight, before) and rows.last.eq(6).all()


def test_moments_of_0_move_nothing(library):
    rows = rows_of(16, 0.0, torch.ones(N, dtype=torch.int32))
    before = rows.weight.clone()
    rows.square.zero_()
    missed(rows, None, remembered(2, 5), 6, powers(5, BETAS), decays=False)
    assert torch.equal(rows.weight, before)


def test_doubles_are_left_to_torch(used):
    rows = copied(rows_of(16, 1e-3, torch.ones(N, dtype=torch.int32)))
    assert not adam.available(rows.weight)
    missed(rows, None, remembered(2, 5), 6, powers(5, BETAS), decays=False)
    assert not used and rows.last.eq(6).all()
