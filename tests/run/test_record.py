"""Run directories read back, in every state they may be in."""

import json

import pytest

import recexp
from recexp.error import RunError
from recexp.run.record import read, read_all


def test_a_record_holds_configuration_and_figures_by_dotted_name(write_run):
    record = read(write_run("a", model="din", seed=3, auc=0.81, **{"trainer.learning_rate": 0.1}))
    assert record.state == "finished" and record.fingerprint == "prepared" and record.events == "events"
    assert record.config["model.name"] == "din" and record.config["seed"] == 3
    assert record.config["trainer.learning_rate"] == 0.1 and record.config["model.hidden_sizes"] == [64, 32]
    assert record.metrics["test.auc"] == 0.81 and record.metrics["parameters"] == 1000
    assert not {"model", "dataset", "seed", "status"} & record.metrics.keys()


def test_a_run_that_goes_on_has_no_figures_yet(write_run):
    path = write_run("a", state="running")
    (path / "metrics.jsonl").write_text('{"epoch": 1}\n{"epo')
    record = read(path)
    assert record.state == "running" and record.metrics == {} and record.epochs() == [{"epoch": 1}]
    assert record.predictions() is None


def test_a_run_that_failed_before_its_data_has_no_fingerprint(write_run):
    path = write_run("a", state="failed")
    (path / "environment.json").unlink()
    assert (read(path).fingerprint, read(path).events) == (None, None)


def test_without_a_digest_of_the_events_the_fingerprint_stands_for_them(write_run):
    path = write_run("a")
    (path / "environment.json").write_text(json.dumps({"data": {"fingerprint": "f"}}))
    assert read(path).events == "f"


@pytest.mark.parametrize(("file", "content"), [("metrics.json", "{"), ("config.yaml", "a: ["), ("config.yaml", "")])
def test_one_damaged_file_hides_no_other_run(write_run, tmp_path, file, content):
    (write_run("a") / file).write_text(content)
    write_run("b")
    assert [(record.path.name, record.state) for record in read_all([tmp_path])] == [
        ("a", "damaged"),
        ("b", "finished"),
    ]
    with pytest.raises(RunError, match=f"{file}: damaged"):
        read(tmp_path / "a")


def test_load_runs_is_a_row_a_run(write_run, tmp_path):
    write_run("a", auc=0.7)
    write_run("b", state="failed")
    frame = recexp.load_runs(tmp_path)
    assert frame["state"].tolist() == ["finished", "failed"] and frame["directory"].iloc[1] == str(tmp_path / "b")
    assert frame["test.auc"].iloc[0] == 0.7 and frame["test.auc"].isna().tolist() == [False, True]
    assert frame["fingerprint"].tolist() == ["prepared"] * 2 and frame["model.name"].tolist() == ["din"] * 2


def test_no_runs_are_an_empty_frame(tmp_path):
    assert len(recexp.load_runs(tmp_path)) == 0
