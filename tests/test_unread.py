"""An option that was typed and that the run does not read is told, and so are features that a model does not read."""

import json
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from test_options import MODELS

import recexp
from recexp import registry
from recexp.cli import run
from recexp.groups import conf_folder
from recexp.registry import names
from recexp.run.read import read_config
from recexp.unread import features_unread, unread

NEXT_ITEM = "model=sasrec trainer=next_item trainer.loss=cross_entropy dataset.label=implicit"
# What is typed, what the line says it takes, and what makes the run read it.
OPTIONS = [
    ("model=fm dataset.max_history=9", "a model over the history", "model=din"),
    ("model=fm dataset.history=liked", "a model over the history", "dataset.features.derived.last_items=1"),
    ("model=fm dataset.negatives=4", "dataset.label=implicit", "dataset.label=implicit"),
    ("model=fm dataset.n_bins=4", "binned features", "dataset.features.user.age=binned"),
    ("model=fm dataset.n_buckets=400", "hash features", "dataset.features.user.segment=hash"),
    ("model=fm dataset.split.kind=leave_last_out dataset.split.ratios=[0.6,0.2,0.2]", "dataset.split.kind of user_time",
     "dataset.split.kind=time"),
    ("model=fm trainer.ftrl.l1=1", "trainer.optimizer=ftrl", "trainer.optimizer=ftrl"),
    ("model=wide_deep model.optimizers={} trainer.ftrl={l1:1}", "trainer.optimizer=ftrl",
     "model.optimizers={deep:ftrl}"),
    ("model=fm trainer.plateau.factor=0.3", "trainer.schedule=plateau", "trainer.schedule=plateau"),
    ("model=fm trainer.ranking.cutoffs=[7]", "trainer.ranking.candidates other than none",
     "trainer.ranking.candidates=all dataset.label=implicit"),
    (f"{NEXT_ITEM} trainer.negatives.n=7", "a trainer.loss of sampled negatives", "trainer.loss=bce"),
    (f"{NEXT_ITEM} trainer.calibration=0.5", "trainer.loss=gbce", "trainer.loss=gbce"),
    (f"{NEXT_ITEM} trainer.score_l2=0.5", "trainer.loss=bpr_max", "trainer.loss=bpr_max"),
    ("model=als model.alpha=3", "model.feedback=implicit", "model.feedback=implicit"),
    ("model=wide_deep model.n_buckets=99", "model.wide=poly2", "model.wide=poly2"),
    ("model=dcnv2 model.rank=3", "model.cross=mixture", "model.cross=mixture"),
    ("model=mmoe model.attention_hidden_sizes=[4]", "model.encoder=interest", "model.encoder=interest"),
    ("model=dien model.auxiliary=sampled", "model.loss_weights.auxiliary other than 0 or empty",
     "model.loss_weights.auxiliary=0.5"),
]  # fmt: skip


@pytest.mark.parametrize(("typed", "takes", "beside"), OPTIONS, ids=[typed for typed, *_ in OPTIONS])
def test_an_option_that_the_run_does_not_read_is_told_with_what_it_takes(typed: str, takes: str, beside: str) -> None:
    words = typed.split()
    (line,) = unread(recexp.load_config(words), words)
    assert line.startswith(f"{words[-1]}: nothing reads it in this run; it needs {takes}")
    words += beside.split()
    assert [*unread(recexp.load_config(words), words)] == []


def test_every_option_of_a_model_that_waits_for_another_is_known() -> None:
    """The slow test of all options finds which these are."""
    known = {
        (model, item.name)
        for model in names("model")
        for item in fields(registry.get("model", model).Config)
        if "read_if" in item.metadata
    }
    assert known == {(model, option) for model, waiting in MODELS.items() for option in waiting}


@pytest.mark.parametrize("model", names("model"))
def test_recexps_own_search_spaces_hold_nothing_that_is_not_read(model: str) -> None:
    params = yaml.safe_load((conf_folder() / f"sweep/{model}.yaml").read_text())["hydra"]["sweeper"]["params"]
    next_item = NEXT_ITEM.replace("sasrec", model).split()
    config = recexp.load_config(next_item if model == "bert4rec" else [f"model={model}"])
    assert [*unread(config, [f"{key}=x" for key in params])] == []


def test_features_of_a_model_that_reads_ids_alone_are_told() -> None:
    features = recexp.load_config(["dataset.features.derived.last_items=1"]).dataset.features
    line = features_unread("sasrec", features)
    assert line is not None and line.endswith("user.segment, user.age, item.category, item.brand, item.tags, "
                                              "item.price, context.device, context.last_item_1")  # fmt: skip
    assert features_unread("two_tower", features) is None and features_unread("fm", features) is None


def test_it_is_told_by_a_run_and_by_a_sweep(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    typed = ["+experiment=tiny", "trainer.threads=1", "trainer.plateau.factor=0.3"]
    line = "trainer.plateau.factor=0.3: nothing reads it in this run; it needs trainer.schedule=plateau."
    assert run(["model=als", *typed, f"run.dir={tmp_path / 'one'}"]) == 0
    assert line in (tmp_path / "one/log.txt").read_text()
    assert "als reads ids alone, and none of the features: user.segment" in (tmp_path / "one/log.txt").read_text()
    capsys.readouterr()
    assert run(["-m", "model=popularity,fm", *typed, f"run.dir={tmp_path / 'two'}"]) == 0
    said = capsys.readouterr()
    assert f"model=fm: {line}" in said.out + said.err
    assert read_config(next((tmp_path / "two").glob("1-*")))["trainer"]["plateau"]["factor"] == 0.3


def test_a_damaged_list_of_overrides_does_not_end_a_resumed_run(tmp_path: Path) -> None:
    where = [f"run.dir={tmp_path / 'run'}"]
    assert run(["model=fm", "+experiment=tiny", "trainer.threads=1", *where]) == 0
    file = tmp_path / "run/metrics.json"
    before = json.loads(file.read_text())
    (tmp_path / "run/overrides.yaml").write_text("a: [")
    for name in ("metrics.json", "status.json"):
        (tmp_path / "run" / name).unlink()
    assert run(["resume", str(tmp_path / "run")]) == 0
    assert json.loads(file.read_text())["test"] == before["test"]
