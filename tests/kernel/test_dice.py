"""Dice and the linear layer after it: by kernels, by torch, and as eq. 9 says."""

import pytest
import torch
import torch.nn.functional as F
from both_ways import assert_close, both_ways, leaf, results
from torch import Tensor

from recexp.kernel import library as kernels
from recexp.kernel.dice import Running, dice, dice_in_evaluation, reference

C, EPS = 48, 1e-8  # channels, which every library takes
KERNELS = ["moments", "dice", "dice_back"]


def running() -> Running:
    return Running(torch.full((C,), 0.5), torch.full((C,), 2.0), EPS, 0.1)


def formula(x: Tensor, alpha: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Eq. 9 of the batch's statistics, or the running ones if there are fewer than two rows."""
    if len(x) < 2:
        out = reference(x, alpha, running().mean, running().var, EPS)
    else:
        out = reference(x, alpha, x.mean(0), x.var(0, unbiased=False), EPS)
    return out if weight is None else F.linear(out, weight, bias)


@pytest.mark.parametrize("n_out", [None, 1, 16])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("n_rows", [0, 1, 49, 500])
@pytest.mark.parametrize("gaps", [False, True])
def test_dice_and_the_linear_after_it(gaps, n_rows, biased, n_out, library, threads, used):
    x, alpha = leaf(n_rows, C, gaps=gaps), leaf(C, gaps=gaps)
    weight = None if n_out is None else leaf(n_out, C, gaps=gaps)
    bias = leaf(n_out, gaps=gaps) if n_out and biased else None
    inputs = [tensor for tensor in (x, alpha, weight, bias) if tensor is not None]
    both_ways(
        lambda: dice(3 + 2 * x, None, alpha, running(), weight, bias),
        inputs,
        used,
        *KERNELS,
        reference=lambda: formula(3 + 2 * x, alpha, weight, bias),
        rtol=1e-3,
        atol=1e-4,
    )


def test_leading_axes_stay_and_a_mask_is_left_to_torch(library, used):
    x, alpha, weight = leaf(7, 7, C), leaf(C), leaf(16, C)
    out = dice(x, None, alpha, running(), weight)
    assert out.shape == (7, 7, 16) and set(used) == {"moments", "dice"}
    used.clear()
    masked = dice(x, torch.ones(7, 7, dtype=torch.bool), alpha, running(), weight)
    assert not used
    assert_close([out], [masked])


def test_running_statistics(library, threads, used, monkeypatch):
    x, alpha = 3 + 2 * leaf(500, C).detach(), torch.zeros(C)

    def updated() -> list[Tensor]:
        statistics = running()
        for n_rows in (500, 1, 0):  # the last two update nothing
            dice(x[:n_rows], None, alpha, statistics)
        return [statistics.mean, statistics.var]

    mine = updated()
    assert set(used) == {"moments", "dice"}
    monkeypatch.setattr(kernels, "installed", lambda: [])
    assert_close(mine, updated())
    assert_close(mine, [0.9 * 0.5 + 0.1 * x.mean(0), 0.9 * 2 + 0.1 * x.var(0)])


@pytest.mark.parametrize("n_rows", [0, 1, 49])
def test_dice_in_evaluation(n_rows, library, threads, used):
    x, alpha = 3 + leaf(3, n_rows, C), leaf(C)
    with torch.no_grad():
        mine = dice_in_evaluation(x, alpha, running())
    assert used == ["dice"]
    alone = lambda: dice_in_evaluation(x, alpha, running())  # noqa: E731
    theirs = results(alone, [alpha])
    assert used == ["dice"]  # torch computes what has a gradient
    assert_close([mine], theirs[:1])
    wanted = results(lambda: reference(x, alpha, running().mean, running().var, EPS), [alpha])
    assert_close(theirs, wanted)


def test_large_numbers_and_broken_ones(library):
    x, alpha = torch.randn(60, C), torch.zeros(C)
    x[3] *= 1e15
    assert dice(x, None, alpha, running()).isfinite().all()
    x[4, 5] = float("nan")
    assert dice(x, None, alpha, running()).isnan().any()
