"""Training on next items: what is learnt, recorded, written, resumed and refused."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pandas as pd
import pytest
import torch
from ring import RING, write
from torch import Tensor, nn

import recexp
from recexp.cli import run
from recexp.config import Config, NextItemLoss
from recexp.dataset.batch import Batches
from recexp.dataset.sample import Samples
from recexp.dataset.schema import FIRST
from recexp.dataset.window import Windows
from recexp.error import ConfigError
from recexp.experiment import build
from recexp.kernel.library import installed
from recexp.layer.lookup import Origin, Table
from recexp.metric.table import rank_names
from recexp.model import Ranker
from recexp.model.backbone import Backbone
from recexp.trainer.loop import set_mode
from recexp.trainer.optimizer import ids_of_batch, rowwise_tables, updated_by_row
from recexp.trainer.state import Progress
from recexp.trainer.step import Step

TYPED = ("model=sasrec", "trainer=next_item", "dataset.label=implicit", "device=cpu", "trainer.threads=1")


@pytest.fixture
def ring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """The overrides of a run on a log in which item n is followed by n + 1 around a ring."""
    monkeypatch.chdir(tmp_path)
    write()
    return (*TYPED, *RING, "model.embedding_dim=16", "trainer.learning_rate=2e-2", "trainer.negatives.n=8")


def test_what_follows_is_learnt_ranked_and_recommended(ring: tuple[str, ...], capsys: pytest.CaptureFixture) -> None:
    metrics = recexp.train(recexp.load_config([*ring, "trainer.epochs=8", "run.dir=run"]))
    assert metrics["test"]["hr@1/all"] > 0.9
    assert metrics["train"].keys() == {"sampled_softmax"}
    assert list(metrics["valid"]) == rank_names([1, 3])
    top = pd.read_parquet("run/recommendations.parquet")
    assert list(top.columns) == ["user", "item", "rank", "score"]
    assert top.groupby("user").size().eq(3).all() and top.user.nunique() == 60
    assert top.groupby("user")["score"].apply(lambda score: score.is_monotonic_decreasing).all()
    last = pd.read_csv("ring.csv").groupby("user").item.last()
    first = top[top["rank"] == 1].set_index("user").item
    assert (first == last).mean() == pytest.approx(metrics["test"]["hr@1/all"])
    assert not Path("run/predictions.parquet").exists()
    assert run(["importance", "run"]) == 2
    assert "is of rankings; importance is of metrics of labels, such as auc" in capsys.readouterr().err
    assert run(["importance", "run", "--metric", "auc", "--repeats", "2"]) == run(["calibrate", "run"]) == 0
    assert recexp.load_run("run").evaluate() == metrics["test"]


@pytest.mark.parametrize("flags", [["run.dir=run"], ["-m", "run.dir=sweep"]])
def test_a_small_test_is_no_fault_of_auc_which_is_not_computed(
    flags: list[str], ring: tuple[str, ...], capfd: pytest.CaptureFixture
) -> None:
    assert run([*ring, "trainer.epochs=1", *flags]) == 0
    assert "standard error" not in "".join(capfd.readouterr())
    (environment,) = Path().glob("**/environment.json")
    assert json.loads(environment.read_text())["data"]["warnings"] == []
    words = [word for word in ring if not word.startswith(("trainer.", "trainer=next_item", "model"))]
    assert run(["model=popularity", *words, *flags[:-1], "run.dir=labels"]) == 0
    assert "the standard error of auc is about" in "".join(capfd.readouterr())


def test_a_sweep_closes_with_the_metric_that_chooses(ring: tuple[str, ...], capsys: pytest.CaptureFixture) -> None:
    assert run(["-m", *ring, "trainer.epochs=1", "seed=0,1", "run.dir=sweep"]) == 0
    (header,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("setting"))
    assert " ".join(header.split()) == "setting n valid hr@1/all test hr@1/all parameters seconds"


def test_a_run_on_data_without_labels_is_evaluated_on_rows_that_have_some(
    ring: tuple[str, ...], capsys: pytest.CaptureFixture
) -> None:
    assert run([*ring, "dataset.columns.label=null", "trainer.epochs=1", "run.dir=run"]) == 0
    rows = pd.DataFrame({"user": ["u1", "u2", "u3", "u4"], "item": ["i1", "i2", "i3", "i4"], "timestamp": 99})
    for label in ([1, 0, 1, 0], [3, 0, 5, 0], None):
        rows.assign(label=label).to_csv("rows.csv", index=False)
        if label is None:
            rows.to_csv("rows.csv", index=False)
        code = run(["evaluate", "run", "--rows", "rows.csv", "-o", "metrics.json"])
        told = capsys.readouterr().err
        assert code == (0 if label == [1, 0, 1, 0] else 2), told
    assert told == "recexp: rows.csv: no column 'label' (the label of each row). Choices: item, timestamp, user.\n"
    score = recexp.load_run("run").predict(rows)
    won = [(score[good] > score[bad]) + (score[good] == score[bad]) / 2 for good in (0, 2) for bad in (1, 3)]
    assert json.loads(Path("metrics.json").read_text())["auc"] == pytest.approx(sum(won) / 4)


@pytest.mark.parametrize("loss", NextItemLoss)
def test_each_loss_is_named_finite_and_reaches_every_weight(loss: NextItemLoss, compose: Callable) -> None:
    config = compose(*TYPED, f"trainer.loss={loss.name}", "trainer.negatives.n=8")
    experiment = build(config)
    windows = Windows(Batches(experiment.dataset, config.dataset))
    (stage,) = experiment.trainer.stages(experiment.model)
    batch = windows.gather(Samples(torch.arange(windows.size("train"))))
    losses = stage.model.losses(stage.model(batch), batch)
    assert losses.keys() == experiment.trainer.weights(config).keys() == {loss.name}
    losses[loss.name].backward()
    assert losses[loss.name].isfinite()
    for name, parameter in experiment.model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_going_on_ends_as_one_run(ring: tuple[str, ...]) -> None:
    whole = recexp.train(recexp.load_config([*ring, "trainer.epochs=2", "run.dir=whole"]))
    recexp.train(recexp.load_config([*ring, "trainer.epochs=1", "run.dir=parts"]))
    assert run(["resume", "parts", "trainer.epochs=2"]) == 0
    parts = json.loads(Path("parts/metrics.json").read_text())
    assert (parts["test"], parts["train"]) == (whole["test"], whole["train"])


def test_a_step_that_diverges_is_kept_and_run_again(ring: tuple[str, ...], capsys: pytest.CaptureFixture) -> None:
    assert run([*ring, "trainer.learning_rate=1e30", "run.dir=run"]) == 1
    assert "recexp replay run" in capsys.readouterr().err
    assert run(["replay", "run"]) == 0
    assert "damaged" not in capsys.readouterr().err


REFUSED = {
    "dataset.label=explicit": "trainer=next_item takes every event for a positive; set dataset.label=implicit",
    "model=din": "model = din: scores rows, not the vectors of all items",
    "trainer.monitor=auc": "trainer.monitor = auc: trainer=next_item does not compute it",
    "trainer.ranking.candidates=none": "trainer.ranking.candidates = none: trainer=next_item validates by ranking",
    "trainer.ranking.candidates=some": "trainer.ranking.candidates = some: must be all, none, or a number of",
    "trainer.monitor=ndgc@10/all": "no such metric. Did you mean 'ndcg@10/all'?",
    "trainer.monitor=coverage@10/all": "trainer.monitor = coverage@10/all: is of test alone, and valid chooses",
    "objective=ndcg@7/all": "objective = ndcg@7/all: trainer=next_item does not compute it",
    "trainer.sparse=true trainer.loss=cross_entropy": "sparse = true: trainer.loss=cross_entropy scores whole tables",
    "trainer.optimizer=lazy_adam trainer.loss=cross_entropy": "trainer.optimizer = lazy_adam: updates rows alone",
    "trainer.negatives.popular=2": "trainer.negatives.popular = 2.0: must be 0 to 1",
    "trainer.ranking.cutoffs=[]": "trainer.ranking.cutoffs = []: must be a list of one or more K",
    "trainer.loss=hinge": "trainer.loss = hinge",
}


@pytest.mark.parametrize("typed", REFUSED)
def test_what_cannot_be_trained_is_refused_in_one_line(typed: str) -> None:
    overrides = [word for word in TYPED if word.partition("=")[0] != typed.partition("=")[0]]
    options = ("model.history_labels=false", "model.embedding_l2=0") if typed == "model=din" else ()
    with pytest.raises(ConfigError) as told:
        recexp.load_config([*overrides, *typed.split(), *options])
    assert REFUSED[typed] in str(told.value) and "\n" not in str(told.value)


def test_a_ranker_also_predicts_labels(compose: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = recexp.load_config(["+experiment=tiny", "model=sasrec", "device=cpu", "trainer.threads=1", "run.dir=run"])
    assert 0 < recexp.train(config)["test"]["auc"] < 1


# Steps by row


def trained(config: Config, sparse: bool, n_steps: int = 6) -> tuple[Tensor, Tensor]:
    """Queries and item vectors after some steps, the same ones whatever `sparse` is.

    Not all weights are compared: what is added to all keys has no gradient but by rounding, which Adam magnifies.
    """
    config = replace(config, trainer=replace(config.trainer, sparse=sparse))
    experiment = build(config)
    windows = Windows(Batches(experiment.dataset, config.dataset))
    (stage,) = experiment.trainer.stages(experiment.model)
    options, weights = config.trainer, experiment.trainer.weights(config)
    step = Step(stage, weights, config.model.embedding_l2, options, cast("Batches", windows), 1)
    assert {table.sparse for table in rowwise_tables(experiment.model)} == {sparse}
    set_mode(stage)
    torch.manual_seed(3)
    for number in range(n_steps):
        samples = Samples(torch.arange(number, windows.size("train"), n_steps))
        step(windows.gather(samples), Progress(step=number))
        assert all(table.weight.grad.is_sparse == sparse for table in rowwise_tables(experiment.model))
    step.catch_up()
    step.release()
    model = cast("Ranker", experiment.model.eval())
    with torch.no_grad():
        return model.query(next(windows.batches.epoch("train", 64))), model.item_vectors()


SAMPLED = [loss.name for loss in NextItemLoss if loss is not NextItemLoss.cross_entropy]
FEW = ("trainer.batch_size=8", "trainer.negatives.n=5", "trainer.learning_rate=1e-2")


@pytest.mark.parametrize("shared", ["false", "true"])
@pytest.mark.parametrize("loss", SAMPLED)
def test_steps_by_row_equal_those_of_whole_tables(loss: str, shared: str, compose: Callable) -> None:
    config = compose(*TYPED, *FEW, "model.dropout=0", f"trainer.loss={loss}", f"trainer.negatives.shared={shared}")
    whole, by_row = (trained(config, sparse) for sparse in (False, True))
    torch.testing.assert_close(by_row, whole, rtol=1e-3, atol=1e-5)


OTHERS = {
    "bert4rec": ["model.dropout=0", "model.mask_rate=0.5"],
    "bpr_mf": ["model.embedding_l2=1e-2"],
    "gru4rec": ["model.dropout=0", "trainer.optimizer=adamw", "trainer.weight_decay=0.1"],
    "esasrec": ["model.dropout=0", "trainer.clip_norm=0.01", "model.embedding_l2=1e-2"],
    "hstu": ["model.dropout=0", "trainer.optimizer=sgd", "model.embedding_l2=0"],
}


@pytest.mark.parametrize("name", OTHERS)
def test_steps_of_other_rankers_by_row_equal_those_of_whole_tables(name: str, compose: Callable) -> None:
    config = compose(f"model={name}", *TYPED[1:], *FEW, *OTHERS[name])
    whole, by_row = (trained(config, sparse) for sparse in (False, True))
    torch.testing.assert_close(by_row, whole, rtol=1e-3, atol=1e-5)


def test_a_run_by_row_learns_what_follows_and_goes_on_to_the_same_bits(
    ring: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped within an epoch, when rows have missed steps."""
    typed = [*ring, "trainer.sparse=true", "trainer.epochs=8", "model.item_dropout=0.1", "trainer.negatives.n=3"]
    whole = recexp.train(recexp.load_config([*typed, "run.dir=whole"]))
    assert whole["test"]["hr@1/all"] > 0.9
    update, taken = Step.update, iter(range(1, 10**6))

    def stopped(self: Step, norm: Tensor | None) -> None:
        update(self, norm)
        if next(taken) == 6:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Step, "update", stopped)
        assert run([*typed, "run.dir=parts"]) == 130
    assert json.loads(Path("parts/checkpoints/last.json").read_text())["progress"]["taken"] == 2
    assert run(["resume", "parts"]) == 0
    parts = json.loads(Path("parts/metrics.json").read_text())
    assert (parts["test"], parts["train"]) == (whole["test"], whole["train"])
    weights = [next(Path(name, "checkpoints").glob("best*.safetensors")).read_bytes() for name in ("parts", "whole")]
    assert weights[0] == weights[1]


def test_a_diverged_step_by_row_is_run_again(ring: tuple[str, ...]) -> None:
    assert run([*ring, "trainer.sparse=true", "trainer.learning_rate=1e30", "run.dir=run"]) == 1
    assert run(["replay", "run"]) == 0


def test_lazy_adam_trains_rankers_too(compose: Callable) -> None:
    config = compose(*TYPED, *FEW, "model.embedding_l2=0", "trainer.optimizer=lazy_adam")
    before, after = build(config).model.item_vectors(), trained(config, True)[1]
    assert (after != before)[FIRST:].all() and not (after != before)[:FIRST].any()


def test_a_ranker_that_gives_no_vectors_by_id_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backbone, "item_vectors", lambda self: self.item.table.weight)
    with pytest.raises(ConfigError, match=r"model = sasrec: .*item_vectors\(self, ids=None\)"):
        recexp.load_config(list(TYPED))


@pytest.mark.parametrize(
    ("typed", "n_items", "by_row"),
    [
        ([], 1_000_000, True),  # 7 events and targets a window, and 256 negatives for each target: 230 thousand ids
        ([], 100_000, False),
        (["trainer.negatives.shared=true"], 100_000, True),
        (["trainer.negatives.shared=true"], 20_000, True),
        (["trainer.negatives.shared=true"], 12_101, False),  # fits the cache
        (["trainer.loss=cross_entropy"], 1_000_000, False),
        (["trainer.sparse=false"], 1_000_000, False),
    ],
)
def test_tables_are_updated_by_row_where_a_step_reads_few_of_them(
    typed: list[str], n_items: int, by_row: bool, compose: Callable
) -> None:
    config, table = compose(*TYPED, "trainer.batch_size=128", *typed).trainer, Table(n_items, 64)
    table.n_ids, table.origin = 1, Origin("item", (range(n_items),))
    n_ids = ids_of_batch(config, nn.Identity(), table, 7)
    assert updated_by_row(config, config.optimizer, table, n_ids, 0.0) == (by_row and bool(installed()))
