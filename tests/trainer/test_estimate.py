"""What training will take: every model can be measured, and the arithmetic is that of an epoch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from recexp.cli import run
from recexp.config import Config, Relevant
from recexp.dataset.batch import Batches
from recexp.dataset.log import Dataset
from recexp.experiment import resolve_device
from recexp.metric.full_ranking import ranked_users
from recexp.model import Train, stages
from recexp.trainer import estimate
from recexp.trainer.default import Trainer
from recexp.trainer.estimate import Estimate, estimates
from recexp.trainer.memory import training_bytes


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WARM_UP": 1, "MIN_STEPS": 2, "MAX_STEPS": 2}.items():
        monkeypatch.setattr(estimate, name, value)


def measured(config: Config, dataset: Dataset, model: nn.Module, take: Any = None) -> list[Estimate]:
    trainer = Trainer(config.trainer, resolve_device("cpu"), seed=0)
    if take:
        trainer.step_function = lambda step: take  # type: ignore[method-assign]
    options = config.model
    batches = Batches(dataset, config.dataset)
    return estimates(trainer, model, batches, options.loss_weights, options.embedding_l2, options.optimizers)


@pytest.mark.parametrize("name", ["popularity", "fnn", "rnn_als", "dien"])
def test_every_stage_is_measured_but_those_fitted_in_closed_form(
    name: str, compose: Callable[..., Config], dataset: Dataset, make: Callable[..., nn.Module]
) -> None:
    model = make(name)
    found = measured(compose(f"model={name}"), dataset, model)
    assert [one.stage for one in found] == [stage.name for stage in stages(model)]
    for one, stage in zip(found, stages(model), strict=True):
        assert bool(one.n_steps) == isinstance(stage, Train)
        assert not one.n_steps or (one.seconds > 0 and min((one.memory or {}).values()) > 0)


def test_validation_counts_the_ranking_of_items_for_all_users(
    compose: Callable[..., Config],
    dataset: Dataset,
    make: Callable[..., nn.Module],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter(range(10**6))
    monkeypatch.setattr(estimate.time, "perf_counter", lambda: float(next(clock)))  # each look takes a second
    monkeypatch.setattr(estimate, "RANKED_USERS", 10)
    monkeypatch.setattr(estimate, "SECONDS", 1.0)
    implicit = ("model=fm", "dataset.label=implicit", "trainer.eval_batch_size=100000")
    found = [
        measured(compose(*implicit, f"trainer.ranking.candidates={candidates}"), dataset, make("fm"))[0].validation
        for candidates in ("none", "all")
    ]
    n_users = len(ranked_users(Batches(dataset, compose(*implicit).dataset), "valid", Relevant.all))
    assert found[1] - found[0] == pytest.approx(n_users / 10)


def test_memory_is_that_of_weights_gradients_and_state(
    compose: Callable[..., Config], dataset: Dataset, make: Callable[..., nn.Module]
) -> None:
    model = make("deepfm")
    (one,) = measured(compose("model=deepfm", "trainer.optimizer=adagrad"), dataset, model)
    assert one.memory
    weights = sum(parameter.nbytes for parameter in model.parameters())
    assert one.memory["gradients"] == weights
    counters = 4 * len(list(model.parameters()))  # a step count for each
    assert one.memory["optimizer state"] == weights + counters
    assert training_bytes(model, compose("model=deepfm", "trainer.optimizer=adagrad")) == pytest.approx(
        sum(one.memory[name] for name in ("weights", "gradients", "optimizer state")), rel=0.01
    )


def test_of_sparse_tables_only_rows_of_a_batch_have_gradients(
    compose: Callable[..., Config], dataset: Dataset, make: Callable[..., nn.Module]
) -> None:
    config = compose("model=fm", "trainer.optimizer=sgd", "trainer.sparse=true", "trainer.l2_rows=batch",
                     "trainer.batch_size=8")  # fmt: skip
    (one,) = measured(config, dataset, make("fm"))
    assert one.memory and one.memory["gradients"] < one.memory["weights"] / 2


def test_an_epoch_takes_its_batches_times_the_median_step_after_the_warm_up(
    compose: Callable[..., Config], dataset: Dataset, make: Callable[..., nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    now, steps = [0.0], iter([60.0, 1.0, 3.0])
    monkeypatch.setattr(estimate.time, "perf_counter", lambda: now[0])

    def take(samples: Any, progress: Any) -> dict[str, Any]:
        now[0] += next(steps)
        return {}

    config = compose("model=fm", "trainer.batch_size=100", "trainer.epochs=7")
    (one,) = measured(config, dataset, make("fm"), take)
    n_rows = len(dataset.log.rows("train"))
    assert one.n_steps == -(-n_rows // 100)
    assert (one.step, one.epoch, one.validation) == (2.0, 2.0 * n_rows / 100, 0.0)
    assert one.seconds == 7 * one.epoch


def test_plan_prints_parameters_memory_and_time_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["plan", "+experiment=tiny", "model=als_mlp", "trainer.threads=1", "trainer.epochs=3"]) == 0
    told = capsys.readouterr().out
    lines = {line.split()[0]: line.split() for line in told.splitlines() if line.strip()}
    assert lines["als.embed.user"][1] == "table" and lines["als.embed.user"][2:5] == ["102", "x", "16"]
    assert "fitted in closed form: not measured" in told and "optimizer state" in told
    assert list(tmp_path.iterdir()) == []
    assert run(["plan", "model=dinn"]) == 2
    assert "Did you mean 'din'?" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["sasrec", "bert4rec"])
def test_plan_of_next_items_counts_windows_and_the_ranking_of_all_users(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    typed = ["+experiment=tiny", f"model={model}", "trainer=next_item", "dataset.label=implicit", "trainer.threads=1"]
    assert run(["plan", *typed, "trainer.batch_size=16"]) == 0
    told = capsys.readouterr().out
    (row,) = (line.split() for line in told.splitlines() if line.startswith("train  "))
    assert row[1] == "7"  # steps of 16 of the 100 users' windows
    assert float(row[6]) > 0 and "optimizer state" in told  # seconds of ranking
    assert list(tmp_path.iterdir()) == []
