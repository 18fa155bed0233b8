"""The verbs `runs` and `show` from outside."""

import io
import json
import subprocess
import sys

import pandas as pd
import pytest

import recexp
from recexp.cli import run

LINE = {"epoch": 1, "stage": "train", "losses": {}, "valid": {"auc": 0.6}, "samples_per_second": 9.0}


@pytest.fixture
def folder(write_run, tmp_path, monkeypatch):
    """Two finished runs, one that is at it, and one that failed; in a folder outputs of the working directory."""
    monkeypatch.chdir(tmp_path)
    write_run("outputs/a", model="din", seed=0, auc=0.7)
    write_run("outputs/b", model="fm", seed=1, auc=0.8)
    path = write_run("outputs/c", model="bst", state="running")
    lines = [{**LINE, "epoch": epoch, "valid": {"auc": auc}} for epoch, auc in ((1, 0.65), (2, 0.6))]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_run("outputs/d", model="cnn", state="failed")


def listed(capsys, *typed: str) -> list[list[str]]:
    assert run(["runs", *typed]) == 0
    return [line.split() for line in capsys.readouterr().out.splitlines()]


def test_runs_are_a_line_each_with_the_best_epoch_so_far_of_those_at_it(folder, capsys):
    lines = listed(capsys)
    assert lines[0] == ["state", "model", "dataset", "seed", "best_epoch", "epochs", "valid.auc", "test.auc", "seconds",
                        "directory"]  # fmt: skip
    assert lines[1] == ["finished", "din", "synthetic", "0", "2", "3", "0.7000", "0.7000", "1.5", "outputs/a"]
    assert lines[3] == ["running", "bst", "synthetic", "0", "-", "2", "0.6500", "-", "-", "outputs/c"]
    assert lines[4][0] == "failed" and len(lines) == 5


def test_runs_show_the_metric_that_chooses_where_it_is_none_of_one_label(folder, write_run, capsys):
    rank = {"valid": {"ndcg@10/all": 0.2}, "figures": {"ndcg@10/all": 0.1}, "auc": None}
    write_run("outputs/e", model="sasrec", **rank, **{"trainer.monitor": "ndcg@10/all"})
    shown = ["valid.auc", "test.auc", "valid.ndcg@10/all", "test.ndcg@10/all"]
    lines = listed(capsys)
    assert lines[0][6:-2] == shown and lines[5][6:-2] == ["-", "-", "0.2000", "0.1000"]
    assert lines[1][6:-2] == ["0.7000", "0.7000", "-", "-"]
    assert listed(capsys, "outputs/e")[0][6:-2] == shown[2:]


def test_runs_are_filtered_and_sorted(folder, capsys):
    lines = listed(capsys, "outputs", "--filter", "state=finished", "--sort", "auc", "--columns", "model,test.auc")
    assert lines == [["state", "model", "test.auc", "directory"], ["finished", "fm", "0.8000", "outputs/b"],
                     ["finished", "din", "0.7000", "outputs/a"]]  # fmt: skip


def test_runs_are_data_for_programs_too(folder, capsys):
    assert run(["runs", "--format", "csv", "--columns", "model,auc"]) == 0
    frame = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert frame["test.auc"].dropna().tolist() == [0.7, 0.8] and frame["model"].tolist() == ["din", "fm", "bst", "cnn"]


def test_no_runs_are_said_to_be_none(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["runs"]) == run(["runs", "."]) == 0
    assert capsys.readouterr().out == "no runs: there is no folder outputs here\nno runs\n"


@pytest.mark.parametrize(
    "typed", ["nowhere", "--sort modle", "--filter modle=din", "--columns modle", "--format html", "--metric auc"]
)
def test_a_mistake_is_one_line_with_exit_code_2(folder, typed, capsys):
    assert run(["runs", *typed.split()]) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.startswith("recexp: ") and told.err.count("\n") == 1


@pytest.mark.parametrize(
    ("file", "content"),
    [("metrics.json", "[1]"), ("status.json", "{"), ("environment.json", "{"), ("config.yaml", "a: ["),
     ("overrides.yaml", "a: ["), ("metrics.jsonl", "}\n"), ("predictions.parquet", "PAR1")],
)  # fmt: skip
def test_a_damaged_run_spoils_no_other_and_shows_what_is_readable(folder, tmp_path, file, content, capsys):
    path = tmp_path / "outputs" / "a"
    (path / "metrics.jsonl").write_text(json.dumps(LINE) + "\n")
    (path / file).write_text(content)
    hides = file in ("metrics.json", "status.json", "environment.json", "config.yaml")
    assert run(["runs"]) == 0
    told = capsys.readouterr()
    assert told.out.splitlines()[1].split()[0] == ("damaged" if hides else "finished")
    assert told.err.count(f"a/{file}: ") == hides
    assert run(["report", "outputs", "--format", "html"]) == 0
    told = capsys.readouterr()
    assert "outputs/b" in told.out and ("1 damaged" in told.out) == hides
    assert told.err.count(f"outputs/a/{file}: ") == (file != "overrides.yaml")
    assert len(recexp.load_runs(tmp_path)) == 4
    capsys.readouterr()
    assert run(["show", "outputs/a"]) == 0
    told = capsys.readouterr()
    assert told.err.count(f"outputs/a/{file}: ") == (file not in ("environment.json", "predictions.parquet"))
    assert ("embedding_dim: 16" in told.out) == (file != "config.yaml")
    assert ("best epoch 2 of 3" in told.out) == (file != "metrics.json")


def test_reading_imports_no_torch(folder, tmp_path):
    code = """
import sys
from recexp.cli import run
for typed in (["runs", "outputs"], ["report", "outputs"], ["compare", "outputs/a", "outputs/b"], ["show", "outputs/a"]):
    run(typed)
assert "torch" not in sys.modules, "torch"
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
