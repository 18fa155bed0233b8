"""Runs on two labels, from the file of a user's own to reports and later rows."""

import json
import re
import runpy
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.metrics import roc_auc_score

import recexp
from recexp.cli import run
from recexp.compose import parse
from recexp.error import RunError
from recexp.groups import conf_folder
from recexp.verb.rerun import again

LABELS = 'dataset.columns.label={like: "rating>=4", finish: "ratio>.5"}'
TYPED = ["model=shared_bottom", "dataset=csv", "dataset.cache_dir=null", "device=cpu", "trainer.threads=1",
         "trainer.epochs=2", "trainer.batch_size=256", "dataset.split.kind=user_time", LABELS]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of which a third of the ratios is missing, and a run on it."""
    folder = tmp_path_factory.mktemp("labels")
    random = np.random.default_rng(0)
    user, item = random.integers(30, size=900), random.integers(20, size=900)
    ratio = np.where(random.random(900) < 0.3, np.nan, ((item % 5) / 4 + random.random(900)) / 2)
    rating = np.clip(np.round(1 + item / 5 + random.normal(size=900)), 1, 5).astype(int)
    rows = {"user": user, "item": item, "rating": rating, "ratio": ratio, "timestamp": np.arange(900)}
    pd.DataFrame(rows).to_csv(folder / "log.csv", index=False)
    assert run([*TYPED, f"dataset.path={folder / 'log.csv'}", f"run.dir={folder / 'a'}"]) == 0
    return folder


def test_each_label_has_its_losses_and_metrics(folder: Path) -> None:
    line = json.loads((folder / "a/metrics.jsonl").read_text().splitlines()[0])
    metrics = json.loads((folder / "a/metrics.json").read_text())
    assert [*line["losses"]] == [*metrics["train"]] == ["like", "finish"]
    assert {"auc/like", "auc/finish", "gauc/finish", "logloss/like"} <= line["valid"].keys() & metrics["test"].keys()
    assert all("/" in name for name in metrics["test"])


def test_metrics_are_those_of_the_predictions_that_have_the_label(folder: Path) -> None:
    metrics = json.loads((folder / "a/metrics.json").read_text())["test"]
    rows = pd.read_parquet(folder / "a/predictions.parquet")
    assert [*rows.columns[3:]] == ["label/like", "score/like", "label/finish", "score/finish"]
    known = rows[rows["label/finish"] >= 0]
    assert 0 < len(known) < len(rows)
    assert metrics["auc/like"] == pytest.approx(roc_auc_score(rows["label/like"], rows["score/like"]), abs=1e-12)
    assert metrics["auc/finish"] == pytest.approx(
        roc_auc_score(known["label/finish"], known["score/finish"]), abs=1e-12
    )


def test_a_run_of_two_labels_is_used_on_rows_of_its_own_form(folder: Path) -> None:
    trained, rows = recexp.load_run(folder / "a"), pd.read_csv(folder / "log.csv")
    assert trained.evaluate() == {
        name.removeprefix("test."): value for name, value in trained.metrics.items() if name.startswith("test.")
    }
    scores = trained.predict(rows.drop(columns=["rating", "ratio"]))
    assert [*scores.columns] == ["score/like", "score/finish"] and scores.to_numpy().min() > 0
    known = rows.ratio.notna()
    wanted = roc_auc_score(rows.ratio[known] > 0.5, scores["score/finish"][known])
    assert trained.evaluate(rows)["auc/finish"] == pytest.approx(wanted, abs=1e-9)
    assert trained.predict(rows[:0]).shape == (0, 2)
    assert len(trained.recommend([1, 2], k=3, keep_seen=True)) == 6


def test_items_are_ranked_by_the_label_that_is_named(folder: Path, capsys: pytest.CaptureFixture) -> None:
    trained, out = recexp.load_run(folder / "a"), str(folder / "top.csv")
    pairs = pd.DataFrame({"user": 1, "item": range(20), "timestamp": 900})
    scores = trained.predict(pairs, history="saved")
    for typed, label in (([], "like"), (["--label", "like"], "like"), (["--label", "finish"], "finish")):
        assert run(["recommend", str(folder / "a"), "-k", "4", "-o", out, "--keep-seen", *typed]) == 0
        top = pd.read_csv(out).query("user == 1")
        wanted = scores[f"score/{label}"].sort_values(ascending=False).head(4)
        assert top.item.tolist() == wanted.index.tolist() and np.allclose(top.score, wanted)
    assert run(["recommend", str(folder / "a"), "-o", out, "--label", "finsh"]) == 2
    assert "label = finsh: no label of " in (told := capsys.readouterr().err) and "Did you mean 'finish'?" in told


def test_reports_show_each_label(folder: Path, capsys: pytest.CaptureFixture) -> None:
    for words in (
        ["show", "a"],
        ["report", "."],
        ["compare", "a", "a"],
        ["importance", "a", "--metric", "auc/finish"],
        ["importance", "a", "--metric", "auc"],
    ):
        assert (
            run([word if word.startswith(("-", "auc")) or word == words[0] else str(folder / word) for word in words])
            == 0
        )
        shown = capsys.readouterr().out
        assert words[-1] == "auc" or "auc/finish" in shown
        assert words[-1] == "auc/finish" or "auc/like" in shown
    assert run(["report", str(folder), "--format", "html", "-o", str(folder / "page.html")]) == 0
    assert "valid logloss/finish" in (folder / "page.html").read_text()


def test_each_label_has_a_calibration_of_its_own(folder: Path, capsys: pytest.CaptureFixture) -> None:
    trained, rows = recexp.load_run(folder / "a"), pd.read_csv(folder / "log.csv").head(50)
    with pytest.raises(RunError, match="is not calibrated"):
        trained.predict(rows, calibrate=True)
    assert run(["calibrate", str(folder / "a"), "--method", "platt"]) == 0
    kept = json.loads((folder / "a/calibration.json").read_text())
    shown, metrics = capsys.readouterr().out, trained.metrics
    plain, fitted = (trained.predict(rows, calibrate=calibrate) for calibrate in (False, True))
    for label in ("like", "finish"):
        of = kept[label]
        assert of["before"]["ece"] == metrics[f"test.ece/{label}"]
        assert f"ece/{label} " in shown and f"{of['after']['ece']:.4f}" in shown
        logit, wanted = (np.log(p / (1 - p)) for p in (plain[f"score/{label}"], fitted[f"score/{label}"]))
        assert np.allclose(wanted, of["slope"] * logit + of["intercept"])
    predict = ["predict", str(folder / "a"), str(folder / "log.csv"), "-o", str(folder / "out.csv"), "--calibrated"]
    assert run(predict) == 0
    assert np.allclose(pd.read_csv(folder / "out.csv").loc[:49, [*fitted.columns]], fitted)


def test_an_exported_model_gives_a_score_of_each_label(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("onnxscript", reason="recexp[export] is not installed")
    pytest.importorskip("onnxruntime", reason="recexp[export] is not installed")
    out = folder / "out"
    assert run(["export", str(folder / "a"), "--format", "onnx", "-o", str(out)]) == 0
    assert json.loads((out / "model.json").read_text())["labels"] == ["like", "finish"]
    rows = json.loads((out / "rows.json").read_text())["rows"]
    wanted = np.array([row["score"] for row in rows])
    assert wanted.shape == (5, 2) and np.ptp(wanted[0]) > 0.01
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["example.py"])
    runpy.run_path(str(out / "example.py"), run_name="__main__")
    printed = [[float(word) for word in line.split()[2:]] for line in capsys.readouterr().out.splitlines()]
    assert np.allclose(printed, wanted, rtol=0, atol=2e-6)


def test_weights_and_monitor_name_labels(folder: Path) -> None:
    config = recexp.load_config([*TYPED, "dataset.path=x.csv", "+model.loss_weights.finish=0"])
    assert config.loss_weights == {"like": 1.0, "finish": 0.0}
    assert config.trainer.monitor == "auc/like"  # of the first label, if none is named
    assert (
        recexp.load_config([*TYPED, "dataset.path=x.csv", "trainer.monitor=ece/finish"]).trainer.monitor == "ece/finish"
    )


@pytest.mark.parametrize(
    ("typed", "labels"),
    [
        ("dataset.columns.label=seen", []),
        ("dataset.columns.label=[seen, label]", ["seen", "label"]),
        ('dataset.columns.label={like: "rating>=5", seen: seen}', ["like", "seen"]),
    ],
)
def test_a_run_again_forgets_labels_that_are_gone(typed: str, labels: list[str], folder: Path, tmp_path: Path) -> None:
    first = tmp_path / "first"
    shutil.copytree(folder / "a", first)
    tree = yaml.safe_load((first / "config.yaml").read_text())
    assert tree["model"]["loss_weights"] == {"target": 1.0}  # as typed
    tree["model"]["loss_weights"]["finish"], tree["objective"] = 0.5, "gauc/finish"
    (first / "config.yaml").write_text(yaml.safe_dump(tree))
    config, overrides = again(first, [typed])
    assert config.dataset.tasks == labels
    assert config.loss_weights == dict.fromkeys(labels or ["target"], 1.0)
    first_label = f"/{labels[0]}" if labels else ""
    assert (config.trainer.monitor, config.objective) == (f"auc{first_label}", f"gauc{first_label}")
    assert (
        recexp.load_config([word for word in overrides if not word.startswith("run.")]).loss_weights
        == config.loss_weights
    )


@pytest.mark.parametrize("reader", ["csv", "json", "parquet"])
def test_labels_can_be_typed_as_the_options_of_a_reader_show_them(reader: str) -> None:
    (shown,) = re.findall(r"or several, as (\{.*\})", (conf_folder() / f"dataset/{reader}.yaml").read_text())
    assert parse(f"dataset.columns.label={shown}")[1] == {"like": "rating>=4", "finish": "ratio>=.9"}


@pytest.mark.parametrize(
    ("typed", "fault"),
    [
        ("trainer.monitor=auc/finsh", "trainer.monitor = auc/finsh: no such metric. Did you mean 'auc/finish'"),
        ("+model.loss_weights.finsh=1", "model.loss_weights.finsh: unknown key. Did you mean 'finish'"),
        ("model=popularity", "model = popularity: predicts one label; dataset.columns.label names like, finish"),
        ("model=din", "model = din: predicts one label; dataset.columns.label names like, finish"),
        ("model=esmm", "model = esmm: of like, finish each can be 1 only where the one before is; "),
    ],
)
def test_a_mistake_is_one_line(typed: str, fault: str, folder: Path, capsys: pytest.CaptureFixture) -> None:
    path = folder / "mistake"
    assert run([*TYPED, f"dataset.path={folder / 'log.csv'}", f"run.dir={path}", typed]) == 2
    assert fault in capsys.readouterr().err and not path.exists()
