"""Optimizers by name, updates by row, and learning rates step by step."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from recexp.config import Config, Optimizer, Schedule
from recexp.trainer.optimizer import optimizer, rate_factor

KINDS = {
    Optimizer.adam: torch.optim.Adam,
    Optimizer.adamw: torch.optim.AdamW,
    Optimizer.sgd: torch.optim.SGD,
    Optimizer.adagrad: torch.optim.Adagrad,
}
N_ROWS = 9


def moved(config: Config, kind: Optimizer, sparse: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """A table of which four steps see only rows 1, 2 and 4, and a dense weight beside it, after those steps."""
    torch.manual_seed(0)
    table, weight = nn.Embedding(N_ROWS, 3, sparse=sparse), nn.Parameter(torch.ones(3))
    trainer = replace(config.trainer, optimizer=kind, sparse=sparse, learning_rate=0.1)
    named = [("table", table.weight), ("weight", weight)]
    optimizers = optimizer(trainer, named, [table])
    assert len(optimizers) == 1 + sparse
    for rows in ([1, 2, 2], [4], [1], [2, 4]):
        for each in optimizers:
            each.zero_grad()
        (table(torch.tensor(rows)) * weight).sigmoid().sum().backward()
        for each in optimizers:
            each.step()
    return table.weight.detach(), weight.detach()


@pytest.mark.parametrize("kind", KINDS)
def test_name_means_the_optimizer_of_torch(kind: Optimizer, compose: Callable[..., Config]) -> None:
    trainer = replace(compose().trainer, optimizer=kind, learning_rate=0.02, weight_decay=0.03)
    (built,) = optimizer(trainer, [("weight", nn.Parameter(torch.ones(3)))], [])
    assert type(built) is KINDS[kind]
    assert built.defaults["lr"] == 0.02
    assert built.defaults["weight_decay"] == 0.03


@pytest.mark.parametrize("kind", [Optimizer.sgd, Optimizer.adagrad])
def test_updates_by_row_equal_those_of_the_whole_table(kind: Optimizer, compose: Callable[..., Config]) -> None:
    by_row, whole = moved(compose(), kind, sparse=True), moved(compose(), kind, sparse=False)
    torch.testing.assert_close(by_row, whole, rtol=1e-6, atol=1e-7)


def test_lazy_adam_is_not_adam(compose: Callable[..., Config]) -> None:
    lazy, _ = moved(compose(), Optimizer.lazy_adam, sparse=True)
    adam, _ = moved(compose(), Optimizer.adam, sparse=False)
    assert not torch.allclose(lazy[1:5], adam[1:5], atol=1e-4)


@pytest.mark.parametrize("kind", [Optimizer.sgd, Optimizer.adagrad, Optimizer.lazy_adam])
def test_row_absent_from_all_batches_stays_to_the_bit(kind: Optimizer, compose: Callable[..., Config]) -> None:
    torch.manual_seed(0)
    start = nn.Embedding(N_ROWS, 3).weight.detach()
    table, _ = moved(compose(), kind, sparse=True)
    assert (table == start).all(1).tolist() == [row not in (1, 2, 4) for row in range(N_ROWS)]


def factors(schedule: Schedule, steps: int, warmup: int = 0) -> list[float]:
    return [rate_factor(schedule, step, steps, warmup) for step in range(steps)]


def test_constant_rate_stays() -> None:
    assert factors(Schedule.constant, 3) == [1, 1, 1]


def test_plateau_is_no_matter_of_steps() -> None:
    assert factors(Schedule.plateau, 3) == [1, 1, 1]


def test_linear_rate_falls_by_equal_steps() -> None:
    assert factors(Schedule.linear, 4) == pytest.approx([1, 0.75, 0.5, 0.25])


def test_cosine_rate_is_half_in_the_middle() -> None:
    assert factors(Schedule.cosine, 4) == pytest.approx([1, 0.8535534, 0.5, 0.1464466])


def test_warmup_rises_from_0_in_equal_steps() -> None:
    assert factors(Schedule.constant, 5, warmup=3) == pytest.approx([0.25, 0.5, 0.75, 1, 1])


def test_decline_starts_after_warmup() -> None:
    assert factors(Schedule.linear, 6, warmup=2) == pytest.approx([1 / 3, 2 / 3, 1, 0.75, 0.5, 0.25])


@pytest.mark.parametrize("schedule", Schedule)
def test_rate_beyond_the_last_step_or_in_a_long_warmup_is_no_error(schedule: Schedule) -> None:
    assert 0 <= rate_factor(schedule, 12, 10, 0) <= 1
    assert rate_factor(schedule, 3, 10, 50) == pytest.approx(4 / 51)
