"""The half-steps of alternating least squares against numpy, a row at a time, and their objectives."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from recexp.layer import factorise
from recexp.layer.factorise import Rows, confident_ridge, weighted_ridge

R, M, D, STRENGTH = 9, 12, 3, 0.3


@pytest.fixture
def drawn() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows, columns, values of observations and the columns' factors; row 0 has none, row 1 one, row 2 all twice."""
    random = np.random.default_rng(0)
    row = np.concatenate([[1], np.repeat(2, 2 * M), random.integers(3, R, 40)])
    column = np.concatenate([[4], np.tile(np.arange(M), 2), random.integers(M, size=40)])
    order = random.permutation(len(row))
    value = random.normal(size=len(row)) + 1
    factors = random.normal(size=(M, D))
    return torch.tensor(row[order]), torch.tensor(column[order]), torch.tensor(value), torch.tensor(factors)


def unique(row: Tensor, column: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each pair once, with a confidence above 1."""
    pairs, first = np.unique(row * M + column, return_index=True)
    pairs = torch.tensor(pairs)
    return pairs // M, pairs % M, 1 + value[first].abs()


def dense(row: Tensor, column: Tensor, confidence: Tensor) -> np.ndarray:
    """Confidences of all cells: 1 where nothing is observed."""
    c = np.ones((R, M))
    c[row, column] = confidence
    return c


def test_weighted_half_step_is_the_ridge_regression_of_each_row(drawn: tuple) -> None:
    row, column, value, factors = drawn
    factors_of_rows = weighted_ridge(Rows(row, column, R), factors, value, STRENGTH)
    for i in range(R):
        y, r = factors[column[row == i]].numpy(), value[row == i].numpy()
        if len(r):  # ridge as least squares over the observations and D rows sqrt(l n) I of value 0
            stacked = np.concatenate([y, np.sqrt(STRENGTH * len(r)) * np.eye(D)])
            wanted = np.linalg.lstsq(stacked, np.concatenate([r, np.zeros(D)]), rcond=None)[0]
            np.testing.assert_allclose(factors_of_rows[i], wanted, rtol=1e-9)


def test_confident_half_step_is_the_dense_solve_over_all_cells(drawn: tuple) -> None:
    row, column, value, factors = drawn
    row, column, confidence = unique(row, column, value)
    factors_of_rows = confident_ridge(Rows(row, column, R), factors, confidence, STRENGTH)
    c, y = dense(row, column, confidence), factors.numpy()
    for i in range(R):
        observed = np.zeros(M)
        observed[column[row == i]] = 1
        wanted = np.linalg.solve(y.T @ np.diag(c[i]) @ y + STRENGTH * np.eye(D), y.T @ (c[i] * observed))
        np.testing.assert_allclose(factors_of_rows[i], wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("half_step", [weighted_ridge, confident_ridge])
def test_row_without_observations_is_0(half_step: Callable[..., Tensor], drawn: tuple) -> None:
    row, column, value, factors = drawn
    solution = half_step(Rows(row, column, R), factors, value.abs() + 1, STRENGTH)
    assert (solution[0] == 0).all() and solution[1:].any(1).all()


def test_no_observations_at_all_leave_0(drawn: tuple) -> None:
    none = torch.zeros(0, dtype=torch.long)
    assert torch.equal(weighted_ridge(Rows(none, none, R), drawn[3], none.double(), 1.0), torch.zeros(R, D).double())


def test_pair_observed_twice_counts_twice() -> None:
    one = torch.zeros(1, dtype=torch.long)
    y = torch.tensor([[2.0]], dtype=torch.double)
    twice = weighted_ridge(Rows(one.repeat(2), one.repeat(2), 1), y, torch.tensor([1.0, 2.0]).double(), 0.5)
    assert twice.item() == pytest.approx(2 * (1 + 2) / (4 + 4 + 0.5 * 2))


def test_order_of_observations_and_size_of_chunks_change_nothing(drawn: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    row, column, value, factors = drawn
    whole = weighted_ridge(Rows(row, column, R), factors, value, STRENGTH)
    shuffled = torch.randperm(len(row), generator=torch.Generator().manual_seed(0))
    again = weighted_ridge(Rows(row[shuffled], column[shuffled], R), factors, value[shuffled], STRENGTH)
    torch.testing.assert_close(again, whole)
    monkeypatch.setattr(factorise, "LARGEST", 1)  # a row at a time
    torch.testing.assert_close(weighted_ridge(Rows(row, column, R), factors, value, STRENGTH), whole)


def test_as_many_rows_at_a_time_as_their_observations_and_matrices_leave_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = torch.arange(26).repeat_interleave(torch.tensor([1] * 20 + [8] * 6))
    rows = Rows(row, torch.zeros_like(row), 26)
    own, met = rows._observations, []

    def watched(part: Tensor, length: int) -> tuple[Tensor, Tensor]:
        met.append((len(part), length))
        return own(part, length)

    monkeypatch.setattr(rows, "_observations", watched)
    monkeypatch.setattr(factorise, "LARGEST", 50)
    weighted_ridge(rows, torch.ones(1, D, dtype=torch.double), torch.ones(len(row), dtype=torch.double), STRENGTH)
    assert met == [(5, 1)] * 4 + [(2, 8)] * 3  # 5 of D x D, 2 of 8 x D


def test_rows_gathered_together_differ_by_less_than_twice() -> None:
    count = torch.tensor([0, 1, 2, 3, 4, 5, 8, 9, 17])
    rows = Rows(torch.arange(9).repeat_interleave(count), torch.zeros(int(count.sum()), dtype=torch.long), 9)
    assert {length: count[group].tolist() for length, group in rows.groups} == {
        1: [1], 2: [2], 4: [3, 4], 8: [5, 8], 16: [9], 32: [17],
    }  # fmt: skip


def test_weighted_loss_never_rises(drawn: tuple) -> None:
    row, column, value, y = drawn
    by_row, by_column = Rows(row, column, R), Rows(column, row, M)

    def loss(x: Tensor, y: Tensor) -> float:
        error = sum(float(value[k] - x[row[k]] @ y[column[k]]) ** 2 for k in range(len(row)))
        norms = sum(float(x[i] @ x[i]) for i in row) + sum(float(y[j] @ y[j]) for j in column)  # once an observation
        return error + STRENGTH * norms

    x = torch.zeros(R, D, dtype=torch.double)
    losses = [loss(x, y)]
    for _ in range(8):
        x = weighted_ridge(by_row, y, value, STRENGTH)
        losses.append(loss(x, y))
        y = weighted_ridge(by_column, x, value, STRENGTH)
        losses.append(loss(x, y))
    assert np.diff(losses).max() <= 1e-9 and losses[-1] < 0.9 * losses[2]


def test_confident_loss_never_rises(drawn: tuple) -> None:
    row, column, value, y = drawn
    row, column, confidence = unique(row, column, value)
    by_row, by_column = Rows(row, column, R), Rows(column, row, M)
    c, p = dense(row, column, confidence), np.zeros((R, M))
    p[row, column] = 1

    def loss(x: Tensor, y: Tensor) -> float:
        error = (c * (p - x.numpy() @ y.numpy().T) ** 2).sum()
        return float(error + STRENGTH * (x.square().sum() + y.square().sum()))

    x = torch.zeros(R, D, dtype=torch.double)
    losses = [loss(x, y)]
    for _ in range(8):
        x = confident_ridge(by_row, y, confidence, STRENGTH)
        losses.append(loss(x, y))
        y = confident_ridge(by_column, x, confidence, STRENGTH)
        losses.append(loss(x, y))
    assert np.diff(losses).max() <= 1e-9 and losses[-1] < 0.9 * losses[2]


def test_planted_matrix_of_low_rank_is_recovered_from_half_of_its_cells() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, D, generator=generator, dtype=torch.double) for n in (40, 30))
    planted = x @ y.T
    row, column = torch.nonzero(torch.rand(40, 30, generator=generator) < 0.5).unbind(1)
    by_row, by_column = Rows(row, column, 40), Rows(column, row, 30)
    y = torch.randn(30, D, generator=generator, dtype=torch.double)
    for _ in range(100):
        x = weighted_ridge(by_row, y, planted[row, column], 1e-6)
        y = weighted_ridge(by_column, x, planted[row, column], 1e-6)
    torch.testing.assert_close(x @ y.T, planted, rtol=0, atol=1e-3)
