"""Adam of the rows that batches hold equals torch's Adam of whole tables, under clipping too, and when resumed."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from recexp.config import Config, Optimizer, Schedule, TrainerConfig
from recexp.dataset.batch import Batches, Features
from recexp.dataset.log import Dataset
from recexp.dataset.schema import Side
from recexp.kernel.adam import Rows, missed, update
from recexp.kernel.library import installed
from recexp.layer.lookup import Table
from recexp.model import Train
from recexp.trainer import deferred_adam
from recexp.trainer import step as step_module
from recexp.trainer import tensors as tensor_files
from recexp.trainer.checkpoint import load_optimizers, optimizer_tensors
from recexp.trainer.deferred_adam import DeferredAdam
from recexp.trainer.optimizer import rowwise_tables, updated_by_row
from recexp.trainer.state import Progress
from recexp.trainer.step import Step

N, D, STEPS = 60, 4, 2000
Pair = tuple[nn.Parameter, torch.optim.Optimizer]


def deferred(dtype: torch.dtype, l2: float = 0.0, decay: float = 0.0, decoupled: bool = False) -> Pair:
    table = start(dtype)
    return table, DeferredAdam([{"params": [table], "l2": l2}], 1e-3, decay, decoupled)


def start(dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(torch.randn(N, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(dtype))


def train(pair: Pair, l2: float = 0.0, steps: range = range(STEPS)) -> Tensor:
    """Steps that see a few rows, some of which come back after hundreds, at a learning rate that falls."""
    table, optimizer = pair
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        rows = (torch.rand(5, generator=generator) ** 4 * N).long().unique()
        grad = torch.randn(len(rows), D, dtype=torch.float64, generator=generator).to(table.dtype) * 1e-3
        clipping = 0.5 if step % 5 == 0 else 1.0
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / STEPS)
        if isinstance(optimizer, DeferredAdam):
            optimizer.catch_up(table, rows)
            values = clipping * (grad + l2 * table.detach()[rows])
            table.grad = torch.sparse_coo_tensor(rows[None], values, table.shape, check_invariants=True)
            optimizer.clipping = clipping
        else:
            table.grad = clipping * (l2 * table.detach()).index_add(0, rows, grad)
        optimizer.step()
    if isinstance(optimizer, DeferredAdam):
        optimizer.catch_up_all()
    return table.detach()


@pytest.mark.parametrize(
    ("options", "steps"),
    [({}, STEPS), ({"l2": 1e-4}, STEPS), ({"decay": 1e-4}, 300), ({"decay": 1e-2, "decoupled": True}, 300)],
)
def test_weights_equal_those_of_dense_adam(options: dict, steps: int) -> None:
    """In floats as nearly as dense Adam's own floats are; in doubles to 12 digits, by the reference."""
    kind = torch.optim.AdamW if options.get("decoupled") else torch.optim.Adam
    dense = {}
    for dtype in (torch.float64, torch.float32):
        table = start(dtype)
        pair = table, kind([table], weight_decay=options.get("decay", 0.0))
        dense[dtype] = train(pair, options.get("l2", 0.0), range(steps))
    exact = dense[torch.float64]
    error = max(float((dense[torch.float32] - exact).abs().max()), 1e-6)
    single = train(deferred(torch.float32, **options), options.get("l2", 0.0), range(steps))
    assert float((single - exact).abs().max()) < 2 * error
    double, table = deferred(torch.float64, **options), start(torch.float64)
    found = train(double, options.get("l2", 0.0), range(200))
    exact = train((table, kind([table], weight_decay=options.get("decay", 0.0))), options.get("l2", 0.0), range(200))
    torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-12)


def test_training_goes_on_to_the_bit_in_the_midst_of_missed_steps(tmp_path: Path) -> None:
    whole, stopped, resumed = (deferred(torch.float32, 1e-4) for _ in range(3))
    wanted = train(whole, 1e-4, range(300))
    table, optimizer = stopped
    for_now = optimizer.catch_up_all  # the state is saved before
    optimizer.catch_up_all = lambda: None  # type: ignore[method-assign]
    train(stopped, 1e-4, range(137))
    written = tensor_files.write(tmp_path / "a", optimizer_tensors([optimizer]))
    load_optimizers([resumed[1]], tensor_files.read(tmp_path / "a", written, torch.device("cpu")))
    resumed[0].data.copy_(table.detach())
    assert torch.equal(train(resumed, 1e-4, range(137, 300)), wanted)
    for_now()
    assert not torch.equal(table.detach(), wanted)


@pytest.mark.parametrize("threads", [2, 3])
def test_any_number_of_threads_gives_the_same(threads: int) -> None:
    before = torch.get_num_threads()
    found = []
    for n in (1, threads):
        torch.set_num_threads(n)
        found.append(train(deferred(torch.float32, 1e-4), 1e-4, range(50)))
    torch.set_num_threads(before)
    assert torch.equal(*found)


Make = Callable[..., nn.Module]


@pytest.mark.parametrize("name", ["deepfm", "seq_pooling"])
@pytest.mark.parametrize("clip_norm", [None, 1e-3, 10.0])
@pytest.mark.parametrize("l2", [0.0, 0.02])
@pytest.mark.parametrize("options", [{"network_l2": 1e-3}, {"optimizer": Optimizer.adamw, "weight_decay": 0.1}])
def test_step_by_row_equals_that_of_whole_tables(
    options: dict,
    l2: float,
    clip_norm: float | None,
    name: str,
    make: Make,
    compose: Callable[..., Config],
    batches: Batches,
) -> None:
    found = []
    for sparse in (False, True):
        model = make(name, dropout=0.0)
        schedule = {"schedule": Schedule.cosine, "clip_norm": clip_norm, "sparse": sparse}
        trainer = replace(compose().trainer, learning_rate=0.01, **schedule, **options)
        step = Step(Train(name="t", model=model), {"target": 1.0}, l2, trainer, batches, 2)
        assert bool(step.deferred) == sparse
        for index, batch in enumerate(list(batches.epoch("train", 64, 0))[:8]):
            step(batch, Progress(step=index))
        step.catch_up()
        step.release()
        assert all(table.before_read is None for table in rowwise_tables(model))
        found.append(model.state_dict())
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("l2", "most", "told"), [(0.02, 1, True), (0.0, 1, False), (0.02, step_module.MANY, False)])
def test_a_decay_of_many_rows_in_every_step_is_told(
    l2: float,
    most: int,
    told: bool,
    make: Make,
    compose: Callable[..., Config],
    batches: Batches,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(step_module, "MANY", most)
    trainer = replace(compose().trainer, sparse=True)
    with caplog.at_level("INFO"):
        Step(Train(name="t", model=make("deepfm")), {"target": 1.0}, l2, trainer, batches, 1)
    assert ("trainer.l2_rows=batch decays those of the batch alone" in caplog.text) == told


ROWS_ALONE = (torch.ops.aten.index_select.default, torch.ops.aten.new_empty.default)  # whatever their first argument is


class Largest(TorchDispatchMode):
    """The most numbers that an operation of torch reads or writes; looking up rows reads those alone."""

    n = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        touched = [out] if func in ROWS_ALONE else [args, out]
        tensors = [each for each in tree_leaves(touched) if isinstance(each, Tensor) and each.layout is torch.strided]
        if not func.is_view:
            self.n = max([self.n, *(each.numel() for each in tensors)])
        return out


def work(model: nn.Module, batches: Batches, trainer: TrainerConfig, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of each step after the first, the rows that the optimizer updates, and the most numbers that torch touches."""
    rows: list[int] = []

    def counted(kernel: Callable[..., None], table: Rows, index: Tensor | None, *rest: Any) -> None:
        rows.append(len(table.weight if index is None else index))
        kernel(table, index, *rest)

    monkeypatch.setattr(deferred_adam, "missed", partial(counted, missed))
    monkeypatch.setattr(deferred_adam, "update", partial(counted, update))
    step = Step(Train(name="t", model=model), {"target": 1.0, "auxiliary": 1.0}, 0.0, trainer, batches, 1)
    assert step.deferred
    found = []
    for index, batch in enumerate(list(batches.epoch("train", 64, 0))[:4]):
        with Largest() as largest:
            step(batch, Progress(step=index))
        found += [sum(rows), largest.n] if index else []
        rows.clear()
    return found


@pytest.mark.skipif(not installed(), reason="torch's own work on rows is counted otherwise")
@pytest.mark.parametrize("name", ["din", "dien", "bst", "rnn", "deepfm"])
def test_a_step_does_not_depend_on_the_size_of_the_catalogue(
    name: str, make: Make, compose: Callable[..., Config], dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, found = replace(compose().trainer, sparse=True), []
    for absent in (0, 50_000):
        batches = Batches(dataset, compose().dataset)
        items, item = batches.catalogue.items, dataset.schema.item
        more = Features(items.ids[:1].repeat(absent, 1), items.values[:1].repeat(absent, 1))
        items = Features(torch.cat([items.ids, more.ids]), torch.cat([items.values, more.values]))
        batches.catalogue = replace(batches.catalogue, items=items)
        last = max((field for field in item.fields if not field.numeric), key=lambda field: field.offset)
        fields = tuple(replace(field, size=field.size + absent * (field is last)) for field in item.fields)
        schema = replace(dataset.schema, item=Side(fields=fields))
        model = make(name, schema, dropout=0.0)
        assert sum(weight.numel() for weight in model.parameters()) > 4 * absent
        found.append(work(model, batches, trainer, monkeypatch))
    assert found[0] == found[1] and len(found[0]) == 6


def test_large_tables_are_updated_by_row_and_small_ones_whole(compose: Callable[..., Config]) -> None:
    trainer, plain = compose().trainer, partial(updated_by_row, l2=0.0)
    small, large = Table(1000, 16), Table(100_000, 16)
    assert not plain(trainer, Optimizer.adam, small, 10)
    assert not plain(trainer, Optimizer.adam, large, 90_000)  # a batch reads most of it
    assert not plain(trainer, Optimizer.adam, large, 0)
    assert not updated_by_row(trainer, Optimizer.sgd, large, 1000, l2=0.1)
    assert plain(trainer, Optimizer.lazy_adam, small, 10)
    assert plain(replace(trainer, sparse=True), Optimizer.adam, small, 10)
    for kind in (Optimizer.adam, Optimizer.adamw, Optimizer.sgd, Optimizer.adagrad):
        assert plain(trainer, kind, large, 1000) == bool(installed())
