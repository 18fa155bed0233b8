"""The verb `report` from outside."""

import io
import json
from pathlib import Path

import pandas as pd
import pytest

from recexp.cli import run
from recexp.report.leaderboard import Choice, leaderboard
from recexp.report.table import to_table
from recexp.run.record import read_all


@pytest.fixture
def folder(write_run, tmp_path):
    """Three seeds of two models, one of a third, and one that failed."""
    for seed in range(3):
        write_run(f"runs/din-{seed}", model="din", seed=seed, auc=0.80 + seed / 100)
        write_run(f"runs/fm-{seed}", model="fm", seed=seed, auc=0.75 + seed**2 / 100, figures={"gauc": 0.7})
    write_run("runs/cnn", model="cnn", auc=0.7)
    write_run("runs/failed", state="failed")
    return str(tmp_path / "runs")


def report(capsys, *typed: str) -> str:
    assert run(["report", *typed]) == 0
    return capsys.readouterr().out


def test_the_table_shows_rows_intervals_differences_and_notes(folder, capsys):
    title, *lines = report(capsys, folder).splitlines()
    assert title == "Ranked by valid.auc, the mean over seeds."
    assert lines[0].split() == ["model", "n", "valid.auc", "test.auc", "95", "%", "difference", "p",
                                                         "test.gauc", "seconds"]  # fmt: skip
    assert lines[1].startswith("din    3  0.8100 ± 0.0100  0.8100 ± 0.0100  [0.7852, 0.8348]  baseline")
    assert lines[2].startswith("fm     3  0.7667 ± 0.0208  0.7667 ± 0.0208  [0.7150, 0.8184]  -0.0433 [")
    assert lines[3].split() == ["cnn", "1", "0.7000", "0.7000", "-", "-0.1100", "-", "-", "1.5"]  # one seed
    assert "Left out: 1 failed." in lines


def test_csv_has_the_full_figures(folder, capsys):
    frame = pd.read_csv(io.StringIO(report(capsys, folder, "--format", "csv")))
    assert frame["model"].tolist() == ["din", "fm", "cnn"]
    assert frame["test.auc"].iloc[1] == (0.75 + 0.76 + 0.79) / 3
    assert frame["test.auc.n"].tolist() == [3, 3, 1] and frame["test.auc.low"].isna().tolist() == [False, False, True]
    assert frame["difference.pairing"].fillna("").tolist() == ["", "paired by seed", "one seed"]
    assert frame["difference.p_corrected"].notna().tolist() == [False, True, False]
    assert frame["test.gauc"].isna().tolist() == [True, False, True]


def test_json_says_what_the_rows_are_compared_with(folder, capsys):
    found = json.loads(report(capsys, folder, "--format", "json"))
    assert found["metric"] == "test.auc" and found["baseline"] == "model=din" and found["ranked_by"] == "valid.auc"
    assert [row["difference"] is None for row in found["rows"]] == [True, False, False]
    assert found["rows"][2]["directories"] == [f"{folder}/cnn"]
    assert found["rows"][2]["test.gauc"] is None


def test_the_best_mean_of_each_column_is_bold_and_ties_are_not(folder, capsys):
    told = report(capsys, folder, "--format", "latex", "--columns", "test.gauc,seconds,parameters")
    (din,) = (line for line in told.splitlines() if "0.8100" in line)
    (cnn,) = (line for line in told.splitlines() if "0.7000" in line and "0.7667" not in line)
    assert r"\textbf{0.8100 $\pm$ 0.0100}" in din and r"\textbf{1.5}" in cnn
    assert "1,000" in din and r"\textbf{1,000}" not in told


def test_markdown_is_bold_where_the_best_is(folder, capsys):
    assert "| din | 3 | **0.8100 ± 0.0100** | **0.8100 ± 0.0100** |" in report(capsys, folder, "--format", "markdown")


def test_a_file_gets_the_format_of_its_ending(folder, tmp_path, capsys):
    assert report(capsys, folder, "-o", str(tmp_path / "board.csv")) == ""
    assert pd.read_csv(tmp_path / "board.csv")["model"].tolist() == ["din", "fm", "cnn"]
    report(capsys, folder, "--format", "json", "-o", str(tmp_path / "board.txt"))
    assert json.loads((tmp_path / "board.txt").read_text())["rows"]


def test_filter_sort_metric_and_columns_reach_the_table(folder, capsys):
    typed = (
        "--filter model=din,fm --filter seed>0 --sort model --metric valid.auc --columns model,test.auc --baseline fm"
    )
    told = report(capsys, folder, *typed.split())
    title, *lines = told.splitlines()
    assert title == "Sorted by model.name."
    assert lines[0].split() == ["model", "n", "valid.auc", "95", "%", "difference", "p", "test.auc"]
    assert (
        lines[1].startswith("din    2  0.8150") and lines[2].startswith("fm     2  0.7750") and "baseline" in lines[2]
    )


def test_several_folders_are_one_table(folder, write_run, tmp_path, capsys):
    write_run("more/bst", model="bst", auc=0.9)
    assert "\nbst " in report(capsys, folder, str(tmp_path / "more"))


def test_ranked_by_test_the_head_says_so_in_every_format(folder, capsys):
    said = "Ranked by test: test.auc chose the order, and flatters the rows on top."
    for kind in ("table", "markdown"):
        assert report(capsys, folder, "--sort", "test.auc", "--format", kind).splitlines()[0] == said
    assert report(capsys, folder, "--sort", "test.auc", "--format", "latex").startswith(f"% {said}")
    assert json.loads(report(capsys, folder, "--sort", "test.auc", "--format", "json"))["ranked_by"] == "test.auc"
    assert said in report(capsys, folder, "--sort", "test.auc", "--format", "html")
    assert "Ranked by valid.auc" in report(capsys, folder, "--sort", "auc")


def test_a_run_reached_by_a_link_too_counts_once(folder, tmp_path, capsys):
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "din").symlink_to(f"{folder}/din-1")
    alone = report(capsys, folder)
    assert report(capsys, folder, str(tmp_path / "link"), str(tmp_path / "more")) == alone
    assert report(capsys, str(tmp_path / "more")).splitlines()[2].split()[:2] == ["model=din", "1"]


MISTAKES = {  # typed after the folder: what the one line must say
    "--fromat csv": "Did you mean '--format'?",
    "--format cvs": "Did you mean 'csv'?",
    "--sort": "--sort: expected one argument",
    "--sort modle": "Did you mean 'model'?",
    "--metric ack": "--metric ack: no run has such a key",
    "--columns auc,modle": "Did you mean 'model'?",
    "--filter model": "must be KEY=VALUE",
    "--filter model=x": "--filter model=x: leaves none of 8 runs",
    "--baseline dim": "--baseline dim: is no row",
    "-o no/such/file": "-o no/such/file: cannot be written",
    "nowhere": "nowhere: no such directory",
}


@pytest.mark.parametrize("typed", MISTAKES)
def test_a_mistake_is_one_line_with_exit_code_2(folder, typed, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    before = sorted(Path().rglob("*"))
    assert run(["report", folder, *typed.split()]) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.startswith("recexp: ") and told.err.count("\n") == 1
    assert MISTAKES[typed] in told.err
    assert sorted(Path().rglob("*")) == before


def test_runs_on_other_data_are_refused_in_one_line_and_mixed_on_request(folder, write_run, capsys):
    write_run("runs/other", events="others", fingerprint="f", **{"dataset.name": "ml-100k"})
    assert run(["report", folder]) == 2
    told = capsys.readouterr().err
    assert "dataset is synthetic or ml-100k" in told and "--mix" in told and told.count("\n") == 1
    assert "Mixed by request" in report(capsys, folder, "--mix")
    assert "ml-100k" not in report(capsys, folder, "--filter", "dataset=synthetic")


def test_a_folder_without_runs_is_a_mistake(tmp_path, capsys):
    assert run(["report", str(tmp_path)]) == 2
    assert "no run at all" in capsys.readouterr().err
    assert run(["report"]) == 2


@pytest.mark.parametrize("verb", ["report", "runs", "show", "compare", "models", "resume", "check"])
def test_help_after_a_verb_is_its_usage(verb, capsys):
    assert run([verb, "--help"]) == run([verb, "x", "-h"]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"recexp {verb} ")
    assert ("--filter EXPR" in told) == (verb in ("report", "runs"))


def test_a_cell_without_value_is_a_dash(write_run, tmp_path):
    write_run("a", model="din", auc=None)
    write_run("b", model="fm", auc=None, **{"model.rank": 3})
    write_run("c", model="fm", auc=0.5, **{"model.rank": 4})
    table = to_table(leaderboard(read_all([tmp_path]), Choice()))
    assert table.head[:5] == ["model", "model.rank", "n", "valid.auc", "test.auc"]
    assert sorted(row[:5] for row in table.cells) == [
        ["din", "-", "0", "-", "-"],
        ["fm", "3", "0", "-", "-"],
        ["fm", "4", "1", "0.5000", "0.5000"],
    ]
