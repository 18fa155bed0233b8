"""What a finished run leaves, read back with other tools than those that wrote it."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.metrics import log_loss, roc_auc_score

import recexp
from recexp.kernel.library import installed
from recexp.run.result import epoch_reason

SMOKE = ["+experiment=smoke", "model=seq_pooling", "trainer.threads=1", "trainer.epochs=2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "a"
    recexp.train(recexp.load_config([*SMOKE, f"run.dir={path}"]))
    return path


def test_metrics_json_has_the_agreed_keys(run):
    metrics = json.loads((run / "metrics.json").read_text())
    assert set(metrics) == {
        "model", "dataset", "seed", "status", "best_epoch", "epochs", "parameters", "seconds", "samples_per_second",
        "peak_memory_mb", "train", "valid", "test", "oracle", "share_of_oracle",
    }  # fmt: skip
    assert (metrics["model"], metrics["dataset"], metrics["seed"], metrics["status"]) == (
        "seq_pooling",
        "synthetic",
        0,
        "finished",
    )
    assert set(metrics["train"]) == {"target"}
    assert {"auc", "gauc", "gauc_users", "logloss", "f1@best", "ece", "predicted_observed"} <= set(metrics["test"])


def test_test_metrics_are_those_of_the_predictions(run):
    metrics = json.loads((run / "metrics.json").read_text())["test"]
    rows = pd.read_parquet(run / "predictions.parquet")
    assert list(rows.columns) == ["user", "item", "timestamp", "label", "score"]
    assert metrics["auc"] == pytest.approx(roc_auc_score(rows.label, rows.score), abs=1e-12)
    assert metrics["logloss"] == pytest.approx(log_loss(rows.label, rows.score), abs=1e-9)
    assert metrics["accuracy"] == pytest.approx(((rows.score >= 0.5) == rows.label).mean(), abs=1e-12)
    assert metrics["predicted_observed"] == pytest.approx(rows.score.mean() / rows.label.mean(), abs=1e-9)


def test_predictions_are_the_last_events_of_each_user_in_raw_ids(run):
    from recexp.dataset.reader.synthetic import Synthetic

    config = recexp.load_config(SMOKE)
    raw = Synthetic(config.dataset).read()
    events = pd.DataFrame({"user": raw.user, "item": raw.item, "timestamp": raw.timestamp, "label": raw.label})
    rows = pd.read_parquet(run / "predictions.parquet")
    merged = rows.merge(events, on=["user", "item", "timestamp", "label"], how="left", indicator=True)
    assert (merged["_merge"] == "both").all()
    latest = events.groupby("user")["timestamp"].max()
    assert (rows.groupby("user")["timestamp"].max() == latest[rows.user.unique()]).all()


def test_the_oracle_is_the_score_of_the_true_probabilities(run):
    from recexp.dataset.prepare import load

    log = load(recexp.load_config(SMOKE).dataset).log
    metrics = json.loads((run / "metrics.json").read_text())
    test = log.rows("test")
    oracle = roc_auc_score(log.label[test], log.probability[test])
    assert metrics["oracle"]["auc"] == pytest.approx(oracle, abs=1e-12)
    assert metrics["share_of_oracle"] == pytest.approx((metrics["test"]["auc"] - 0.5) / (oracle - 0.5), abs=1e-12)


def test_metrics_jsonl_has_a_line_an_epoch_with_every_named_loss(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    for line in lines:
        assert set(line) == {"stage", "last_stage", "epoch", "losses", "valid", "seconds", "samples_per_second",
                             "check"}  # fmt: skip
        assert np.isfinite(line["losses"]["target"]) and 0 < line["valid"]["auc"] < 1


def test_the_environment_tells_versions_hardware_and_data(run):
    environment = json.loads((run / "environment.json").read_text())
    assert environment["packages"]["torch"] and environment["hardware"]["device"] == "cpu"
    assert environment["hardware"]["kernels"] == [each.name for each in installed()]
    assert environment["data"]["rows"]["train"] > 2000 and environment["data"]["fingerprint"]
    (warning,) = environment["data"]["warnings"]
    assert warning.startswith("test has 3") and f"WARNING data: {warning}" in (run / "log.txt").read_text()


def test_the_configuration_alone_gives_the_same_figures(run, tmp_path):
    from omegaconf import OmegaConf

    from recexp.validate import check

    raw = OmegaConf.create(yaml.safe_load((run / "config.yaml").read_text()))
    raw.run.dir = str(tmp_path / "again")
    again = recexp.train(check(raw))
    first = json.loads((run / "metrics.json").read_text())
    for part in ("train", "valid", "test", "best_epoch", "parameters"):
        assert again[part] == first[part]


def test_load_runs_gives_a_row_a_run_with_configuration_and_figures(run):
    frame = recexp.load_runs(run.parent)
    assert len(frame) == 1
    row = frame.iloc[0]
    assert row["state"] == "finished" and row["model.name"] == "seq_pooling" and row["trainer.epochs"] == 2
    assert row["test.auc"] == json.loads((run / "metrics.json").read_text())["test"]["auc"]


def test_the_picture_is_a_png_of_a_size_to_look_at(run, draw):
    draw(run)
    content = (run / "curves.png").read_bytes()
    assert content.startswith(b"\x89PNG") and len(content) > 10_000


def test_what_cannot_be_computed_is_null_with_its_reason(tmp_path):
    Path(tmp_path / "log.csv").write_text(
        "user,item,label,timestamp\n" + "".join(f"u{n % 4},i{n % 5},{int(n < 60 and n % 2)},{n}\n" for n in range(80))
    )
    metrics = recexp.train(recexp.load_config([
        "model=popularity", "dataset=csv", f"dataset.path={tmp_path}/log.csv", "dataset.cache_dir=null",
        f"run.dir={tmp_path}/run", "trainer.threads=1",
    ]))  # fmt: skip
    assert metrics["test"]["auc"] is None
    assert metrics["reasons"]["test.auc"].startswith("one class only")


def test_the_choice_among_equal_epochs_is_stated():
    epochs = [(1, False, 0.9), (1, True, 0.5), (2, True, 0.7), (3, True, 0.6), (4, True, 0.7)]
    lines = [{"epoch": epoch, "last_stage": last, "valid": {"auc": auc}} for epoch, last, auc in epochs]
    assert epoch_reason(lines, "auc", 2) == "valid auc is the same in epochs 2, 4, so the first counts"
    assert epoch_reason(lines[:4], "auc", 2) is None
    assert epoch_reason(lines, "gauc", 4) == "valid gauc cannot be computed, so the last epoch counts"
