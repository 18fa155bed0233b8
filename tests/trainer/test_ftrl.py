"""FTRL against the paper's own variables in plain numpy, and its limiting cases."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import nn

from recexp.trainer.ftrl import FTRL

N = 5
OPTIONS = {"lr": 0.3, "beta": 0.7, "l1": 0.4, "l2": 0.2}


def gradients(n_steps: int) -> np.ndarray:
    """Gradients (n_steps, N) of which a third is 0; each coordinate leans to one side."""
    random = np.random.default_rng(0)
    drawn = random.normal(size=(n_steps, N)) + np.array([-0.5, 0, 0, 0.2, 1])
    return drawn * (random.random((n_steps, N)) < 0.67)


def by_optimizer(start: Sequence[float], steps: np.ndarray, rates: Sequence[float], **options: float) -> np.ndarray:
    """The weights after each step, in double precision."""
    weight = nn.Parameter(torch.tensor(start, dtype=torch.float64))
    made = FTRL([weight], **{**OPTIONS, **options})
    found = []
    for grad, rate in zip(steps, rates, strict=True):
        made.param_groups[0]["lr"] = rate
        weight.grad = torch.tensor(grad)
        made.step()
        found.append(weight.detach().numpy().copy())
    return np.stack(found)


def by_paper(start: Sequence[float], steps: np.ndarray, rates: Sequence[float]) -> np.ndarray:
    """Algorithm 1 with z, a coordinate at a time; sigma is the change of 1 / eta, also where alpha changes."""
    beta, l1, l2 = OPTIONS["beta"], OPTIONS["l1"], OPTIONS["l2"]
    found = np.empty_like(steps)
    for i, w in enumerate(start):
        n, inverse = 0.0, beta / rates[0]
        z = -(w * (inverse + l2) + np.sign(w) * l1)
        for t, rate in enumerate(rates):
            g = steps[t, i]
            n += g * g
            sigma = (beta + math.sqrt(n)) / rate - inverse
            inverse += sigma
            z += g - sigma * w
            w = 0.0 if abs(z) <= l1 else -(z - np.sign(z) * l1) / (inverse + l2)
            found[t, i] = w
    return found


@pytest.mark.parametrize("start", [[0.0] * N, [0.5, -0.3, 1e-3, 0.0, -2.0]])
def test_weights_are_those_of_the_paper(start: list[float]) -> None:
    steps, rates = gradients(60), [0.3] * 60
    found = by_optimizer(start, steps, rates)
    np.testing.assert_allclose(found, by_paper(start, steps, rates), rtol=1e-9, atol=1e-12)
    assert (found == 0).any() and (found != 0).any(0).all()


def test_learning_rate_may_change_between_steps() -> None:
    start, steps, rates = [0.5, -0.3, 0.0, 0.0, -2.0], gradients(60), [0.3 * (1 - t / 61) for t in range(60)]
    rates[:3] = [0.1, 0.2, 0.3]  # a warmup
    np.testing.assert_allclose(by_optimizer(start, steps, rates), by_paper(start, steps, rates), rtol=1e-9, atol=1e-12)


def test_without_l1_and_l2_it_is_sgd_with_a_step_for_each_coordinate() -> None:
    steps = np.array([[0.5, -2.0], [1.0, 0.0], [-0.25, 1.0]])
    found = by_optimizer([1.0, -1.0], steps, [0.3, 0.3, 0.1], l1=0.0, l2=0.0)
    first = 1.0 - 0.3 / (0.7 + 0.5) * 0.5
    second = first - 0.3 / (0.7 + math.sqrt(1.25)) * 1.0
    third = second + 0.1 / (0.7 + math.sqrt(1.3125)) * 0.25
    other = -1.0 + 0.3 / (0.7 + 2.0) * 2.0
    last = other - 0.1 / (0.7 + math.sqrt(5.0)) * 1.0
    np.testing.assert_allclose(found, [[first, other], [second, other], [third, last]], rtol=1e-12)


def test_large_l1_gives_exact_zeros() -> None:
    steps = gradients(60)
    assert (by_optimizer([0.0] * N, steps, [0.3] * 60, l1=1e3) == 0).all()
    assert (by_optimizer([0.0] * N, steps, [0.3] * 60, l1=0.0)[-1] != 0).all()


def test_weight_leaves_0_once_its_gradients_add_up_to_more_than_l1() -> None:
    found = by_optimizer([0.0], np.full((5, 1), -0.1), [0.3] * 5, l1=0.25)[:, 0]
    assert (found[:2] == 0).all() and (np.diff(found[1:]) > 0).all()


def test_weight_that_crosses_0_stops_at_exactly_0() -> None:
    found = by_optimizer([0.5], np.full((30, 1), 0.1), [0.3] * 30, l1=1e3)[:, 0]
    assert found[-1] == 0 and 0 < found[0] < 0.5 and (np.diff(found) <= 0).all()


def test_larger_l2_leaves_smaller_weights() -> None:
    small, large = (abs(by_optimizer([0.0] * N, gradients(60), [0.3] * 60, l2=l2)[-1]) for l2 in (0.2, 5.0))
    assert (large < small).all()


def test_gradient_of_0_leaves_a_weight_to_the_bit_whatever_the_learning_rate() -> None:
    weight = nn.Parameter(torch.randn(1000, generator=torch.Generator().manual_seed(0)))
    made = FTRL([weight], **OPTIONS)
    weight.grad = torch.zeros(1000)
    before = weight.detach().clone()
    made.step()
    assert torch.equal(weight, before)  # its start
    weight.grad = torch.randn(1000, generator=torch.Generator().manual_seed(1))
    made.step()
    before = {name: tensor.clone() for name, tensor in {"w": weight.detach(), **made.state[weight]}.items()}
    weight.grad = torch.zeros(1000)
    for rate in (0.3, 0.01, 2.0):
        made.param_groups[0]["lr"] = rate
        made.step()
    for name, tensor in {"w": weight.detach(), **made.state[weight]}.items():
        assert torch.equal(tensor, before[name]), name


def test_updates_by_row_equal_those_of_the_whole_table_to_the_bit() -> None:
    tables = []
    for sparse in (False, True):
        torch.manual_seed(0)
        table = nn.Embedding(9, 3, sparse=sparse)
        made = FTRL(table.parameters(), **OPTIONS)
        for rows in ([1, 2, 2], [4], [1], [2, 4, 4, 1]):  # a row met twice has the sum of both gradients
            made.zero_grad()
            table(torch.tensor(rows)).sigmoid().square().sum().backward()
            assert table.weight.grad.is_sparse == sparse
            made.step()
        tables.append(table.weight)
    assert torch.equal(*tables)


def test_single_number_is_trained_and_a_parameter_without_gradient_is_not() -> None:
    bias, other = nn.Parameter(torch.zeros(())), nn.Parameter(torch.ones(2))
    made = FTRL([bias, other], **{**OPTIONS, "l1": 0.0})
    bias.grad = torch.tensor(-1.0)
    made.step()
    assert bias.item() == pytest.approx(1 / ((0.7 + 1) / 0.3 + 0.2))
    assert torch.equal(other, torch.ones(2)) and not made.state[other]
