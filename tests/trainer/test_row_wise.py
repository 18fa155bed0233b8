"""Adam and AdaGrad with one second moment for each row of a table, against plain loops over whole tables."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from recexp.config import Config, Optimizer
from recexp.layer.lookup import Table
from recexp.trainer import tensors as tensor_files
from recexp.trainer.checkpoint import load_optimizers, optimizer_tensors
from recexp.trainer.deferred_adam import DeferredAdam
from recexp.trainer.optimizer import make_optimizers
from recexp.trainer.row_wise import RowWiseAdagrad

N, D, STEPS, LR = 60, 5, 400, 0.01
Gradients = Iterable[tuple[Tensor, Tensor]]


def start(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(N, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(dtype)


def gradients(dtype: torch.dtype, steps: range = range(STEPS)) -> Gradients:
    """The rows and the gradients of each step; some rows come back after hundreds."""
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        rows = (torch.rand(5, generator=generator) ** 4 * N).long().unique()
        yield rows, torch.randn(len(rows), D, dtype=torch.float64, generator=generator).to(dtype) * 1e-3


def whole(rows: Tensor, values: Tensor) -> Tensor:
    return values.new_zeros(N, D).index_add(0, rows, values)


def sparse(rows: Tensor, values: Tensor) -> Tensor:
    return torch.sparse_coo_tensor(rows[None], values, (N, D), check_invariants=True)


def adam(dtype: torch.dtype, decay: float = 0.0) -> Tensor:
    weight, m, v = start(dtype), torch.zeros(N, D, dtype=dtype), torch.zeros(N, 1, dtype=dtype)
    for step, (rows, values) in enumerate(gradients(dtype), 1):
        grad = whole(rows, values) + decay * weight
        m = 0.9 * m + 0.1 * grad
        v = 0.999 * v + 0.001 * grad.square().mean(1, keepdim=True)
        weight = weight - LR * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
    return weight


def adagrad(dtype: torch.dtype, decay: float = 0.0) -> Tensor:
    weight, total = start(dtype), torch.zeros(N, dtype=dtype)
    for rows, values in gradients(dtype):
        grad = whole(rows, values) + decay * weight
        total = total + grad.square().mean(1)
        weight = weight - LR * grad / (total.sqrt() + 1e-10)[:, None]
    return weight


def trained(
    table: nn.Parameter, optimizer: torch.optim.Optimizer, form: Callable[..., Tensor], steps: range = range(STEPS)
) -> Tensor:
    for rows, values in gradients(table.dtype, steps):
        if isinstance(optimizer, DeferredAdam):
            optimizer.catch_up(table, rows)
        table.grad = form(rows, values)
        optimizer.step()
    return table.detach()


def made(kind: str, dtype: torch.dtype = torch.float32, decay: float = 0.0) -> tuple[nn.Parameter, DeferredAdam]:
    table = nn.Parameter(start(dtype))
    if kind == "adagrad":
        return table, RowWiseAdagrad([table], LR, decay)  # type: ignore[return-value]
    return table, DeferredAdam([{"params": [table]}], LR, decay, row_wise=True)


@pytest.mark.parametrize("form", [whole, sparse])
@pytest.mark.parametrize(("kind", "loop"), [("adam", adam), ("adagrad", adagrad)])
def test_weights_equal_those_of_a_plain_loop(kind: str, loop: Callable[..., Tensor], form: Callable) -> None:
    """In doubles to 10 digits, in floats as nearly as the loop's own floats are."""
    exact = loop(torch.float64)
    error = max(float((loop(torch.float32) - exact).abs().max()), 1e-6)
    for dtype, allowed in ((torch.float64, 1e-10), (torch.float32, 2 * error)):
        table, optimizer = made(kind, dtype)
        trained(table, optimizer, form)
        if isinstance(optimizer, DeferredAdam):
            optimizer.catch_up_all()
        assert float((table.detach() - exact).abs().max()) < allowed
        assert {tensor.numel() for name, tensor in optimizer.state[table].items() if name in ("sum", "exp_avg_sq")} == {
            N
        }


@pytest.mark.parametrize(("kind", "loop"), [("adam", adam), ("adagrad", adagrad)])
def test_weight_decay_is_that_of_a_plain_loop(kind: str, loop: Callable[..., Tensor]) -> None:
    table, optimizer = made(kind, torch.float64, decay=0.1)
    torch.testing.assert_close(trained(table, optimizer, whole), loop(torch.float64, 0.1), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", ["adam", "adagrad"])
def test_training_goes_on_to_the_bit(kind: str, tmp_path: Path) -> None:
    wanted = trained(*made(kind), sparse, range(100))
    stopped, resumed = made(kind), made(kind)
    trained(*stopped, sparse, range(60))
    written = tensor_files.write(tmp_path / "a", optimizer_tensors([stopped[1]]))
    load_optimizers([resumed[1]], tensor_files.read(tmp_path / "a", written, torch.device("cpu")))
    resumed[0].data.copy_(stopped[0].detach())
    assert torch.equal(trained(*resumed, sparse, range(60, 100)), wanted)


@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize(
    ("kind", "of_tables", "of_others"),
    [
        (Optimizer.row_wise_adam, DeferredAdam, torch.optim.Adam),
        (Optimizer.row_wise_adagrad, RowWiseAdagrad, torch.optim.Adagrad),
    ],
)
def test_tables_alone_have_a_number_for_each_row(
    kind: Optimizer, of_tables: type, of_others: type, by_row: bool, compose: Callable[..., Config]
) -> None:
    table, weight = Table(N, D), nn.Parameter(torch.ones(3))
    table.sparse = by_row
    others, tables = make_optimizers(replace(compose().trainer, optimizer=kind), [table.weight, weight], [table])
    assert type(others) is of_others and others.param_groups[0]["params"] == [weight]
    assert type(tables) is of_tables and tables.param_groups[0]["params"][0] is table.weight
