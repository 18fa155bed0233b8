"""The trainer: against a loop by hand, repeated, interrupted and resumed to the bit, and stage by stage."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from recorder import Recorder, Stopped, checkpoint, same, state, stop_after, trained_states, untimed
from torch import Tensor, nn

import recexp
from recexp.config import Config, L2Rows, Optimizer, Precision, Schedule
from recexp.dataset.batch import Batch, Batches
from recexp.dataset.log import Dataset
from recexp.error import Failure
from recexp.layer.activation import Activation
from recexp.layer.embedding import FeatureEmbedding, Linear, SideEmbedding
from recexp.layer.interaction import bi_interaction
from recexp.layer.loss import bce
from recexp.metric import scoring
from recexp.metric.binary import Metrics, evaluate
from recexp.model import Fit, Output, Stage, Train, losses, reads_history
from recexp.model.dien import Auxiliary
from recexp.run.directory import Run
from recexp.run.read import read_epochs
from recexp.trainer import step as step_module
from recexp.trainer.default import Result, Trainer
from recexp.trainer.loop import set_mode
from recexp.trainer.optimizer import learning_rate_factor

CPU = torch.device("cpu")
Make = Callable[..., nn.Module]


@pytest.fixture
def fit(compose: Callable[..., Config], batches: Batches, tmp_path: Path) -> Callable[..., tuple[Result, Recorder]]:
    """fit(model, epochs=2): the result, and what was recorded. Options are the trainer's, apart from those named."""

    def fit(
        model: nn.Module,
        recorder: Recorder | None = None,
        weights: dict[str, float] | None = None,
        l2: float = 0.0,
        seed: int = 0,
        data: Batches = batches,
        **options: Any,
    ) -> tuple[Result, Recorder]:
        recorder = recorder or Recorder(tmp_path / f"checkpoints-{len(list(tmp_path.iterdir()))}")
        config = replace(compose().trainer, **{"epochs": 2, "patience": None, **options})
        result = Trainer(config, CPU, seed).fit(model, data, weights or {"target": 1.0}, l2, recorder)
        return result, recorder

    return fit


@pytest.fixture
def valid_auc(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """valid_auc(0.6, 0.7): what the monitored metrics are said to be in each epoch; the last value stays."""

    def script(*values: float | None) -> None:
        left = list(values)

        def scripted(*arguments: Any) -> Metrics:
            value = left.pop(0) if len(left) > 1 else left[0]
            found = evaluate(*arguments)
            return replace(found, values={**found.values, "auc": value, "logloss": value})

        monkeypatch.setattr(scoring, "evaluate", scripted)

    return script


# One step after another


def by_hand(model: nn.Module, batches: Batches, config: Any, l2: float, made: torch.optim.Optimizer) -> nn.Module:
    """One epoch as one would write it without a trainer."""
    seed = int(np.random.SeedSequence((0, 0, 0)).generate_state(1)[0])
    torch.manual_seed(seed)
    n_steps = batches.steps("train", config.batch_size)
    model.train()
    for step, batch in enumerate(batches.epoch("train", config.batch_size, seed, reads_history(model))):
        made.zero_grad()
        tables = [module.table.weight for module in model.modules() if isinstance(module, SideEmbedding)]
        loss = losses(model, model(batch), batch)["target"]
        (loss + l2 / 2 * sum(table.square().sum() for table in tables)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        for group in made.param_groups:
            group["lr"] = config.learning_rate * learning_rate_factor(
                config.schedule, step, n_steps, config.warmup_steps
            )
        made.step()
    assert step == 4
    return model


@pytest.mark.parametrize(
    ("kind", "built"),
    [(Optimizer.adam, torch.optim.Adam), (Optimizer.sgd, torch.optim.SGD), (Optimizer.adagrad, torch.optim.Adagrad)],
)
def test_five_steps_equal_a_loop_by_hand(
    kind: Optimizer, built: type, make: Make, fit: Callable, batches: Batches, compose: Callable[..., Config]
) -> None:
    options = {"learning_rate": 0.02, "clip_norm": 0.2, "schedule": Schedule.cosine, "warmup_steps": 2}
    model, plain = make("deepfm"), make("deepfm")
    fit(model, epochs=1, optimizer=kind, l2=0.01, **options)
    config = replace(compose().trainer, **options)
    by_hand(plain, batches, config, 0.01, built(plain.parameters(), lr=0.02))
    torch.testing.assert_close(model.state_dict(), plain.state_dict(), rtol=1e-5, atol=1e-6)
    assert not same(model.state_dict(), make("deepfm").state_dict())


@pytest.mark.parametrize("l2", [0.0, 0.05])
@pytest.mark.parametrize("kind", [Optimizer.sgd, Optimizer.adagrad])
def test_updates_by_row_equal_those_of_whole_tables(kind: Optimizer, l2: float, make: Make, fit: Callable) -> None:
    # AdaGrad divides a gradient by its own size: of seed 0 some nearly cancel, and their rounding moves a weight.
    whole, rows = make("seq_pooling", seed=1), make("seq_pooling", seed=1)
    options = {"optimizer": kind, "learning_rate": 0.01, "l2": l2, "l2_rows": L2Rows.batch}
    fit(whole, sparse=False, **options)
    fit(rows, sparse=True, **options)
    torch.testing.assert_close(rows.state_dict(), whole.state_dict(), rtol=1e-4, atol=1e-5)


def test_lazy_adam_leaves_other_weights_than_adam(make: Make, fit: Callable) -> None:
    adam, lazy = make("fm"), make("fm")
    fit(adam, optimizer=Optimizer.adam, batch_size=32)
    fit(lazy, optimizer=Optimizer.lazy_adam, sparse=True, batch_size=32)
    assert not torch.allclose(lazy.embed.sides["user"].table.weight, adam.embed.sides["user"].table.weight, atol=1e-4)


def test_bfloat16_trains_weights_of_32_bits(make: Make, fit: Callable) -> None:
    model = make("dien")
    _, recorder = fit(model, weights={"target": 1.0, "auxiliary": 1.0}, precision=Precision.bf16)
    assert all(np.isfinite(value) for line in recorder.lines for value in line["losses"].values())
    assert {each.dtype for each in model.parameters()} == {torch.float32}


def test_loss_of_weight_0_is_not_recorded(make: Make, fit: Callable) -> None:
    weights = {"target": 0.0, "auxiliary": 1.0}
    _, recorder = fit(make("dien", loss_weights=weights), weights=weights, epochs=1)
    assert recorder.lines[0]["losses"].keys() == {"auxiliary"}


def test_each_epoch_shuffles_anew_and_by_the_seed(make: Make, fit: Callable, batches: Batches) -> None:
    orders: dict[tuple[int, int], list[int]] = {}
    for seed in (0, 1):
        model = make("linear")
        met: list[Tensor] = []
        model.register_forward_hook(lambda module, inputs, output, met=met: met.append(inputs[0].target))
        fit(model, seed=seed, batch_size=2000)
        training = [each for each in met if len(each) == batches.size("train")]
        orders |= {(seed, epoch): each.tolist() for epoch, each in enumerate(training)}
    assert len(orders) == 4
    assert len({tuple(order) for order in orders.values()}) == 4
    assert len({tuple(sorted(order)) for order in orders.values()}) == 1


def test_recorded_loss_is_the_mean_over_rows(make: Make, fit: Callable, batches: Batches) -> None:
    model = make("linear")
    _, recorder = fit(model, epochs=1, learning_rate=1e-12, batch_size=500)
    every = next(batches.epoch("train", 10**6))
    loss = losses(model, model(every), every)["target"].item()
    assert recorder.lines[0]["losses"]["target"] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("broken", ["target", "extra"])
def test_loss_that_is_not_finite_stops_the_run_and_is_named(broken: str, make: Make, fit: Callable) -> None:
    model = make("linear")

    def with_extra(output: Output, batch: Batch) -> dict[str, Tensor]:
        parts = {"target": bce(output.logits, batch.label), "extra": output.logits.mean()}
        return {**parts, broken: parts[broken] * float("nan")}

    model.losses = with_extra
    with pytest.raises(Failure, match=f"epoch 1, step 1: loss '{broken}' is nan"):
        fit(model, weights={"target": 1.0, "extra": 1.0})


def test_settings_of_torch_are_as_before_also_after_an_error(make: Make, fit: Callable, tmp_path: Path) -> None:
    before = (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled())
    seen = []

    def look(lines: int) -> None:
        seen.append((torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()))
        raise Stopped

    with pytest.raises(Stopped):
        fit(make("linear"), Recorder(tmp_path / "checkpoints", look), threads=2, deterministic=True)
    assert seen == [(2, True)]
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before


def test_table_is_trained_on_without_users(
    make: Make, fit: Callable, table: Dataset, compose: Callable[..., Config]
) -> None:
    result, _ = fit(make("fm", schema=table.schema), data=Batches(table, compose().dataset))
    assert result.test_scores.users is None
    assert result.test.values["auc"] is not None and result.test.values["gauc"] is None


# The best epoch


def test_training_stops_after_patience_and_the_best_epoch_is_reloaded(
    make: Make, fit: Callable, valid_auc: Callable[..., None], tmp_path: Path
) -> None:
    model = make("deepfm")
    recorder, states = trained_states(model, tmp_path / "checkpoints")
    valid_auc(0.6, 0.7, 0.69, 0.7, 0.9)
    result, _ = fit(model, recorder, epochs=10, patience=2)
    assert [line["epoch"] for line in recorder.lines] == [1, 2, 3, 4]  # 0.7 again is no improvement
    assert (result.progress.best_epoch, result.progress.epoch) == (2, 4)
    assert same(state(model), states[1])
    assert result.progress.losses == recorder.lines[1]["losses"]


def test_monitored_logloss_is_better_when_lower(
    make: Make, fit: Callable, valid_auc: Callable[..., None], tmp_path: Path
) -> None:
    model = make("deepfm")
    recorder, states = trained_states(model, tmp_path / "checkpoints")
    valid_auc(0.6, 0.5, 0.55, 0.7)
    result, _ = fit(model, recorder, epochs=4, monitor="logloss")
    assert result.progress.best_epoch == 2
    assert same(state(model), states[1])


def test_epoch_whose_metric_cannot_be_computed_is_not_the_best(
    make: Make, fit: Callable, valid_auc: Callable[..., None]
) -> None:
    valid_auc(None, 0.6, None, 0.5)
    result, _ = fit(make("linear"), epochs=4)
    assert (result.progress.best_epoch, result.progress.bad_epochs) == (2, 2)


def test_figures_are_those_of_the_best_epoch(make: Make, fit: Callable, dataset: Dataset) -> None:
    model = make("deepfm")
    result, recorder = fit(model, epochs=4)
    best = max(recorder.lines, key=lambda line: line["valid"]["auc"])
    assert result.progress.best_epoch == best["epoch"]
    assert result.valid.values == best["valid"]
    assert np.array_equal(result.test_scores.labels, dataset.log.label[dataset.log.rows("test")])
    assert result.test.values["auc"] == evaluate(result.test_scores.labels, result.test_scores.logits).values["auc"]


def test_epoch_is_not_chosen_by_the_test_part(
    make: Make, fit: Callable, dataset: Dataset, compose: Callable[..., Config]
) -> None:
    label = np.where(dataset.log.split == 2, 1 - dataset.log.label, dataset.log.label)
    other = replace(dataset, log=replace(dataset.log, label=label))
    lines = [fit(make("linear"), data=Batches(each, compose().dataset))[1].told for each in (dataset, other)]
    assert lines[0] == lines[1]


def test_last_epoch_is_the_best_without_a_valid_part(
    make: Make, fit: Callable, dataset: Dataset, compose: Callable[..., Config], tmp_path: Path
) -> None:
    split = np.where(dataset.log.split == 1, 0, dataset.log.split).astype(np.int8)
    data = Batches(replace(dataset, log=replace(dataset.log, split=split)), compose().dataset)
    model = make("deepfm")
    recorder, states = trained_states(model, tmp_path / "checkpoints")
    result, _ = fit(model, recorder, data=data, epochs=3, patience=1)
    assert result.valid is None and result.progress.best_epoch == 3
    assert result.test.values["f1@best"] is None
    assert [line["valid"] for line in recorder.lines] == [{}, {}, {}]
    assert same(state(model), states[2])


@pytest.fixture
def rates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Recorder, list[float]]:
    """A recorder, and the list to which it adds the learning rate of each epoch's last step."""
    built: list[torch.optim.Optimizer] = []
    real = step_module.make_optimizers
    monkeypatch.setattr(step_module, "make_optimizers", lambda *arguments: built.extend(real(*arguments)) or built)
    found: list[float] = []
    return Recorder(tmp_path / "rates", lambda lines: found.append(built[0].param_groups[0]["lr"])), found


def test_rate_is_a_tenth_after_an_epoch_without_improvement(
    make: Make, fit: Callable, valid_auc: Callable[..., None], rates: tuple[Recorder, list[float]]
) -> None:
    valid_auc(0.6, 0.5, 0.7, 0.6, 0.6)
    fit(make("linear"), rates[0], epochs=5, schedule=Schedule.plateau, learning_rate=0.01)
    assert rates[1] == pytest.approx([0.01, 0.01, 0.001, 0.001, 0.0001])


def test_schedule_runs_over_all_epochs(make: Make, fit: Callable, rates: tuple[Recorder, list[float]]) -> None:
    fit(make("linear"), rates[0], epochs=3, schedule=Schedule.linear, learning_rate=0.15, batch_size=256)
    assert rates[1] == pytest.approx([0.11, 0.06, 0.01])  # after 4, 9 and 14 of 15 steps


# Repeated, interrupted, resumed


ADAM = {"optimizer": Optimizer.adam, "schedule": Schedule.cosine, "warmup_steps": 3}
ADAGRAD = {"optimizer": Optimizer.adagrad, "schedule": Schedule.plateau, "learning_rate": 0.5}
LAZY_ADAM = {"optimizer": Optimizer.lazy_adam, "sparse": True, "learning_rate": 0.05}


@pytest.mark.parametrize(
    ("options", "every", "stop"),
    [(ADAM, 1, 2), (ADAM, 1, 4), (ADAM, 2, 2), (ADAM, 2, 4), (ADAGRAD, 1, 3), (LAZY_ADAM, 1, 3)],
)
def test_resumed_run_equals_one_never_interrupted(
    options: dict, every: int, stop: int, make: Make, fit: Callable, tmp_path: Path
) -> None:
    options = {**options, "epochs": 4, "checkpoint_every": every, "weights": {"target": 1.0, "auxiliary": 0.5}}

    def new(seed: int = 0) -> nn.Module:
        sizes = {"hidden_sizes": [8], "auxiliary_hidden_sizes": [8], "state_size": 8, "embedding_dim": 4}
        return make("dien", seed=seed, auxiliary=Auxiliary.sampled, **sizes)

    whole = new()
    wanted, recorder = fit(whole, **options)
    other = Recorder(tmp_path / "stopped", stop_after(stop))
    with pytest.raises(Stopped):
        fit(new(), other, **options)  # in the epoch of the last line, which no checkpoint knows
    assert len(other.lines) == stop
    other.then = lambda lines: None
    resumed = new(seed=9 if stop > every else 0)  # weights come from the checkpoint, where one was written
    found, _ = fit(resumed, other, **options)
    assert other.told == recorder.told
    assert same(state(resumed), state(whole))
    assert (found.test, found.valid) == (wanted.test, wanted.valid)
    assert replace(found.progress, seconds=0, speeds=[]) == replace(wanted.progress, seconds=0, speeds=[])


def test_run_killed_at_any_moment_of_writing_resumes_to_the_same_bits(
    make: Make, fit: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make("deepfm")
    wanted, recorder = fit(whole)
    real = os.replace
    kills = 0
    for moment in range(100):
        left = moment

        def dying(source: str, target: str) -> None:
            nonlocal left
            if not left:
                raise Stopped
            left -= 1
            real(source, target)

        monkeypatch.setattr(os, "replace", dying)
        other = Recorder(tmp_path / f"killed-{moment}")
        resumed = make("deepfm")
        try:
            fit(resumed, other)
        except Stopped:
            kills += 1
        else:
            break
        monkeypatch.setattr(os, "replace", real)
        resumed = make("deepfm")
        found, _ = fit(resumed, other)
        assert other.told == recorder.told
        assert same(state(resumed), state(whole))
        assert found.test == wanted.test
    assert kills >= 8  # tensors and JSON of best and last in the first epoch, of last in the second, and of the end


def test_finished_run_is_not_trained_again(make: Make, fit: Callable, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "checkpoints")
    model = make("deepfm")
    wanted, _ = fit(model, recorder)
    lines = recorder.told
    again = make("deepfm", seed=5)
    found, _ = fit(again, recorder)
    assert recorder.told == lines
    assert found.test == wanted.test
    assert same(state(again), state(model))


def test_checkpoint_to_resume_from_is_written_as_often_as_asked(make: Make, fit: Callable, tmp_path: Path) -> None:
    seen = []

    def look(lines: int) -> None:
        there = (tmp_path / "checkpoints/last.json").is_file()
        seen.append(checkpoint(tmp_path / "checkpoints", "last")[1]["epoch"] if there else None)

    fit(make("linear"), Recorder(tmp_path / "checkpoints", look), epochs=5, checkpoint_every=2)
    assert seen == [None, None, 2, 2, 4]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, compose: Callable[..., Config]) -> Iterator[dict[str, Path]]:
    """Whole runs: two of the same seed, one of another, and one that was interrupted in epoch 2 and resumed."""
    folder = tmp_path_factory.mktemp("runs")
    paths = {name: folder / name for name in ("first", "second", "other", "resumed")}

    def train(name: str, seed: int = 1, resume: bool = False) -> None:
        sampled = ("model.auxiliary=sampled", "model.loss_weights.auxiliary=0.5")
        config = compose("model=dien", *sampled, "trainer.epochs=3", f"seed={seed}")
        recexp.train(replace(config, run=replace(config.run, dir=str(paths[name]), resume=resume)))

    train("first")
    train("second")
    train("other", seed=2)
    with pytest.MonkeyPatch.context() as patch:
        real = Run.epoch

        def interrupted(self: Run, line: dict[str, Any]) -> None:
            real(self, line)
            if line["epoch"] == 2:
                raise KeyboardInterrupt

        patch.setattr(Run, "epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train("resumed")
    assert json.loads((paths["resumed"] / "status.json").read_text())["state"] == "interrupted"
    train("resumed", resume=True)
    yield paths


def contents(path: Path) -> tuple[dict, list[dict], pd.DataFrame, dict[str, Tensor]]:
    metrics = untimed(json.loads((path / "metrics.json").read_text()))
    lines = [untimed(line) for line in read_epochs(path)[0]]
    tensors, _ = checkpoint(path / "checkpoints", "best")
    return metrics, lines, pd.read_parquet(path / "predictions.parquet"), tensors


@pytest.mark.parametrize("name", ["second", "resumed"])
def test_run_of_the_same_seed_equals_the_first_to_the_bit(name: str, runs: dict[str, Path]) -> None:
    metrics, lines, predictions, tensors = contents(runs["first"])
    found = contents(runs[name])
    assert found[0] == metrics
    assert found[1] == lines
    assert found[2].equals(predictions)
    assert same(found[3], tensors)


def test_run_of_another_seed_differs(runs: dict[str, Path]) -> None:
    first, other = contents(runs["first"]), contents(runs["other"])
    assert first[0]["test"]["auc"] != other[0]["test"]["auc"]
    assert not first[2]["score"].equals(other[2]["score"])
    assert first[2].drop(columns="score").equals(other[2].drop(columns="score"))


# Stopped before its time


def asking_after(n: int, folder: Path) -> Recorder:
    """A recorder that asks to stop when it has n lines; from the beginning for 0."""
    recorder = Recorder(folder)
    recorder.then = lambda lines: setattr(recorder, "asked_to_stop", lines >= n)
    recorder.asked_to_stop = n == 0
    return recorder


def test_run_asked_to_stop_ends_after_the_epoch_at_its_best_so_far_and_leaves_test_alone(
    make: Make, fit: Callable, valid_auc: Callable[..., None], tmp_path: Path
) -> None:
    valid_auc(0.7, 0.6, 0.8, 0.5)
    whole, stopped = make("linear"), make("linear")
    two, _ = fit(whole, epochs=2)
    valid_auc(0.7, 0.6, 0.8, 0.5)
    result, recorder = fit(stopped, asking_after(2, tmp_path / "stopped"), epochs=4)
    assert [line["epoch"] for line in recorder.lines] == [1, 2]
    assert (result.test, result.test_scores, result.progress.stopped) == (None, None, True)
    assert result.progress.best_epoch == two.progress.best_epoch == 1
    assert same(state(stopped), state(whole))


def test_run_asked_to_stop_trains_one_epoch_at_least(make: Make, fit: Callable, tmp_path: Path) -> None:
    result, recorder = fit(make("linear"), asking_after(0, tmp_path / "stopped"), epochs=4)
    assert len(recorder.lines) == 1 and result.test is None and result.valid.values["auc"] > 0


def test_run_asked_to_stop_after_its_last_epoch_is_finished(make: Make, fit: Callable, tmp_path: Path) -> None:
    wanted, _ = fit(make("linear"), epochs=2)
    result, _ = fit(make("linear"), asking_after(2, tmp_path / "stopped"), epochs=2)
    assert result.test == wanted.test and not result.progress.stopped


def test_run_asked_to_stop_in_an_earlier_stage_gives_the_figures_of_that_stage(
    dataset: Dataset, fit: Callable, tmp_path: Path
) -> None:
    result, recorder = fit(Staged(dataset.schema), asking_after(1, tmp_path / "stopped"))
    assert [(line["stage"], line["last_stage"]) for line in recorder.lines] == [("wide", False)]
    assert result.test is None and result.valid.values == recorder.lines[0]["valid"]


# Stages


class Staged(nn.Module):
    """First the linear part, with epochs of its own; then an offset in closed form; then all but the offset."""

    offset: Tensor

    def __init__(self, schema: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = Linear(schema)
        self.embed = FeatureEmbedding(schema, 4, 0.1)
        self.drop = nn.Dropout(0.3)
        self.register_buffer("offset", torch.zeros(()))

    def forward(self, batch: Batch) -> Output:
        return Output(self.offset + self.linear(batch) + bi_interaction(self.drop(self.embed.fields(batch))).sum(-1))

    def losses(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        return {"target": bce(output.logits, batch.label)}

    def stages(self) -> list[Stage]:
        return [
            Train(name="wide", model=self, trained=("linear",), epochs=2),
            Fit(name="count", model=self, fit=self.count),
            Train(name="all", model=self),
        ]

    def count(self, training: Batch) -> None:
        self.offset.copy_(training.label.mean())


class Nested(nn.Module):
    """Its first stage trains a part that is a model too; its second what stands beside it."""

    def __init__(self, schema: Any, part: nn.Module) -> None:
        super().__init__()
        self.part = part
        self.own = Linear(schema)

    def forward(self, batch: Batch) -> Output:
        return Output(self.part(batch).logits + self.own(batch))

    def losses(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        return {"target": bce(output.logits, batch.label)}

    def stages(self) -> list[Stage]:
        return [
            Train(name="part", model=self.part, epochs=1),
            Train(name="own", model=self, trained=("own.",)),
        ]


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """The parts of a model, by the first word of their names, of which a tensor is not what it was."""
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


def test_stage_trains_its_parameters_and_leaves_the_others_to_the_bit(
    dataset: Dataset, fit: Callable, tmp_path: Path
) -> None:
    model = Staged(dataset.schema)
    recorder, states = trained_states(model, tmp_path / "checkpoints")
    start = state(model)
    fit(model, recorder, epochs=3, l2=0.01)
    assert [(line["stage"], line["epoch"]) for line in recorder.lines] == [
        ("wide", 1), ("wide", 2), ("count", 1), ("all", 1), ("all", 2), ("all", 3),
    ]  # fmt: skip
    assert [line["losses"].keys() for line in recorder.lines] == [{"target"}, {"target"}, set(), *[{"target"}] * 3]
    assert changed(start, states[0]) == changed(states[0], states[1]) == {"linear"}
    assert changed(states[1], states[2]) <= {"linear", "offset"}  # linear: back to its best epoch
    assert states[2]["offset"] == pytest.approx(dataset.log.label[dataset.log.rows("train")].mean())
    assert changed(states[2], states[3]) == changed(states[3], states[4]) == {"linear", "embed"}


def test_stage_starts_from_the_best_epoch_of_the_one_before(
    dataset: Dataset, fit: Callable, valid_auc: Callable[..., None], tmp_path: Path
) -> None:
    model = Staged(dataset.schema)
    recorder, states = trained_states(model, tmp_path / "checkpoints")
    valid_auc(0.8, 0.7, 0.6, 0.5, 0.6)  # the second stage's best is judged by itself
    result, _ = fit(model, recorder, epochs=2)
    assert changed(states[0], states[2]) == {"offset"}
    assert result.progress.best_epoch == 2
    assert same(state(model), states[4])


def test_stage_may_train_a_part_that_is_a_model(make: Make, dataset: Dataset, fit: Callable, tmp_path: Path) -> None:
    model = Nested(dataset.schema, make("deepfm"))
    recorder, states = trained_states(model, tmp_path / "checkpoints")
    start = state(model)
    fit(model, recorder, epochs=2)
    assert changed(start, states[0]) == {"part"}
    assert changed(states[0], states[1]) == changed(states[1], states[2]) == {"own"}


@pytest.mark.parametrize("stop", range(1, 7))
def test_run_of_stages_resumes_from_the_middle_of_any(
    stop: int, dataset: Dataset, fit: Callable, tmp_path: Path
) -> None:
    whole = Staged(dataset.schema)
    wanted, recorder = fit(whole, epochs=3)
    other = Recorder(tmp_path / "stopped", stop_after(stop))
    with pytest.raises(Stopped):
        fit(Staged(dataset.schema), other, epochs=3)
    other.then = lambda lines: None
    resumed = Staged(dataset.schema)
    found, _ = fit(resumed, other, epochs=3)
    assert other.told == recorder.told
    assert same(state(resumed), state(whole))
    assert found.test == wanted.test


def test_model_fitted_in_closed_form_leaves_both_checkpoints(make: Make, fit: Callable, tmp_path: Path) -> None:
    model = make("popularity")
    result, recorder = fit(model)
    assert recorder.lines[0]["stage"] == "count"
    assert (result.progress.epoch, result.progress.best_epoch) == (1, 1)
    for name in ("best", "last"):
        tensors, _ = checkpoint(recorder.checkpoints, name)
        assert torch.equal(tensors["model.score"], model.score)


def test_each_stage_leaves_its_own_best_checkpoint(
    dataset: Dataset, fit: Callable, valid_auc: Callable[..., None], tmp_path: Path
) -> None:
    model = Staged(dataset.schema)
    recorder, states = trained_states(model, tmp_path / "checkpoints")
    valid_auc(0.8, 0.7, 0.6, 0.5, 0.6)
    fit(model, recorder, epochs=2)
    for name, index in (("wide", 0), ("count", 2), ("best", 4)):  # its lines' places, the best of each
        tensors, _ = checkpoint(recorder.checkpoints, name)
        assert same({key.removeprefix("model."): each for key, each in tensors.items()}, states[index]), name


class Frozen(Nested):
    """A part with batch statistics beside what its last stage trains."""

    def stages(self) -> list[Stage]:
        return [Train(name="own", model=self, trained=("own.",))]


def test_part_that_is_not_trained_keeps_its_statistics_and_draws_nothing(
    make: Make, dataset: Dataset, fit: Callable
) -> None:
    model = Frozen(dataset.schema, make("deepfm", activation=Activation.dice, dropout=0.5))
    start = state(model)
    fit(model)
    assert changed(start, state(model)) == {"own"}
    assert not model.part.training
    set_mode(Train(name="all", model=model))
    assert model.part.deep.hidden[0].dropout.training
