"""Run directories read back, in every state they may be in."""

import json

import pandas as pd
import pytest

import recexp
from recexp.error import DamagedFile
from recexp.run.record import read, read_all
from recexp.run.status import write_status

LINE = {"stage": "train", "epoch": 1, "losses": {}, "valid": {}, "samples_per_second": 9.0}


def test_a_record_holds_configuration_and_figures_by_dotted_name(write_run):
    record = read(write_run("a", model="din", seed=3, auc=0.81, **{"trainer.learning_rate": 0.1}))
    assert record.state == "finished" and record.fingerprint == "prepared" and record.events == "events"
    assert record.config["model.name"] == "din" and record.config["seed"] == 3
    assert record.config["trainer.learning_rate"] == 0.1 and record.config["model.hidden_sizes"] == [64, 32]
    assert record.metrics["test.auc"] == 0.81 and record.metrics["parameters"] == 1000
    assert not {"model", "dataset", "seed", "status"} & record.metrics.keys()


def test_a_run_that_goes_on_has_no_figures_yet(write_run, caplog):
    path = write_run("a", state="running")
    (path / "metrics.jsonl").write_text(json.dumps(LINE) + '\n{"epo')
    record = read(path)
    assert record.state == "running" and record.metrics == {}
    assert [line["epoch"] for line in record.epochs()] == [1] and not caplog.records
    assert record.predictions() is None


def test_a_damaged_line_is_named_once_and_the_others_are_used(write_run, caplog):
    path = write_run("a")
    (path / "metrics.jsonl").write_text("".join(
        json.dumps({**LINE, "epoch": epoch}) + "\n" for epoch in (1, 2, 3)
    ).replace('"epoch": 2', '"epoch": ?'))  # fmt: skip
    record = read(path)
    for _ in range(2):
        assert [line["epoch"] for line in record.epochs()] == [1, 3]
    assert [warning.message for warning in caplog.records] == [
        f"{path}/metrics.jsonl: damaged in line 2, which is left out."
    ]


def test_damaged_predictions_are_named_and_count_as_none(write_run, caplog):
    path = write_run("a")
    pd.DataFrame({"label": [0, 1], "score": [0.2, 0.7]}).to_parquet(path / "predictions.parquet")
    write_status(path, "finished")
    assert read(path).predictions() is not None and not caplog.records
    content = bytearray((path / "predictions.parquet").read_bytes())
    content[8] ^= 1
    (path / "predictions.parquet").write_bytes(content)
    assert read(path).predictions() is None
    (path / "status.json").unlink()  # as of a version without checksums
    (path / "predictions.parquet").write_bytes(content[:-9])
    assert read(path).predictions() is None
    assert all("predictions.parquet: damaged" in warning.message for warning in caplog.records)
    assert len(caplog.records) == 2


def test_a_flipped_digit_of_the_metrics_is_damage(write_run):
    path = write_run("a", auc=0.75)
    write_status(path, "finished")
    assert read(path).metrics["test.auc"] == 0.75
    (path / "metrics.json").write_text((path / "metrics.json").read_text().replace("0.75", "0.85"))
    with pytest.raises(DamagedFile, match=r"metrics\.json: damaged"):
        read(path)


def test_a_run_that_failed_before_its_data_has_no_fingerprint(write_run):
    path = write_run("a", state="failed")
    (path / "environment.json").unlink()
    assert (read(path).fingerprint, read(path).events) == (None, None)


def test_without_a_digest_of_the_events_the_fingerprint_stands_for_them(write_run):
    path = write_run("a")
    (path / "environment.json").write_text(json.dumps({"data": {"fingerprint": "f"}}))
    assert read(path).events == "f"


DAMAGES = [("metrics.json", "{"), ("metrics.json", "[1]"), ("metrics.json", "{}"), ("metrics.json", '{"test": 3}'),
           ("status.json", "{}"), ("status.json", '{"state": 3}'), ("status.json", '{"state": "finished", "files": 1}'),
           ("environment.json", '{"data": 1}'), ("config.yaml", "a: ["), ("config.yaml", ""), ("config.yaml", "a: 1"),
           ("config.yaml", "model: {name: din}\nseed: 0\n# checksum: 0"), ("config.yaml", "\x00")]  # fmt: skip


@pytest.mark.parametrize(("file", "content"), DAMAGES)
def test_one_damaged_file_hides_no_other_run(write_run, tmp_path, file, content, caplog):
    (write_run("a") / file).write_text(content)
    write_run("b")
    assert [(record.path.name, record.state) for record in read_all([tmp_path])] == [
        ("a", "damaged"),
        ("b", "finished"),
    ]
    with pytest.raises(DamagedFile, match=f"{file}: damaged"):
        read(tmp_path / "a")
    assert len(caplog.records) == 1 and f"a/{file}: damaged" in caplog.text


def test_load_runs_is_a_row_a_run(write_run, tmp_path):
    write_run("a", auc=0.7)
    write_run("b", state="failed")
    frame = recexp.load_runs(tmp_path)
    assert frame["state"].tolist() == ["finished", "failed"] and frame["directory"].iloc[1] == str(tmp_path / "b")
    assert frame["test.auc"].iloc[0] == 0.7 and frame["test.auc"].isna().tolist() == [False, True]
    assert frame["fingerprint"].tolist() == ["prepared"] * 2 and frame["model.name"].tolist() == ["din"] * 2


def test_no_runs_are_an_empty_frame(tmp_path):
    assert len(recexp.load_runs(tmp_path)) == 0
