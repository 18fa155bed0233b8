"""The verb `compare` from outside."""

import numpy as np
import pandas as pd
import pytest

from recexp.cli import run
from recexp.report.bootstrap import compare as bootstrap


def predict(path, scores, **columns):
    frame = pd.DataFrame({**columns, "score": scores})
    frame.to_parquet(path / "predictions.parquet")


@pytest.fixture
def rows():
    random = np.random.default_rng(0)
    return {
        "user": random.integers(20, size=300),
        "item": random.integers(9, size=300),
        "timestamp": np.arange(300),
        "label": random.integers(2, size=300).astype(np.int8),
    }


@pytest.fixture
def pair(write_run, rows):
    """Two runs of two models, with predictions of the same rows."""
    random = np.random.default_rng(1)
    a = write_run("a", model="din", auc=0.8, figures={"gauc": 0.7, "logloss": 0.5}, **{"model.gates": 2})
    b = write_run("b", model="fm", seed=1, auc=0.75, figures={"gauc": None, "logloss": 0.6})
    for path in (a, b):
        predict(path, random.random(300), **rows)
    return a, b


def compared(capsys, *typed) -> list[str]:
    assert run(["compare", *map(str, typed)]) == 0
    return capsys.readouterr().out.splitlines()


def test_configurations_and_figures_stand_side_by_side(pair, capsys):
    lines = [line.split() for line in compared(capsys, *pair)]
    assert lines[0] == ["A", f"{pair[0]}:", "finished"] and lines[1] == ["B", f"{pair[1]}:", "finished"]
    assert lines[3:8] == [["configuration", "A", "B"], ["model", "din", "fm"], ["model.gates", "2", "-"],
                          ["seed", "0", "1"], []]  # fmt: skip
    assert lines[8] == ["A", "B", "B", "-", "A", "95", "%", "p"]
    assert ["parameters", "1,000", "1,000", "+0"] in lines and ["seconds", "1.5", "2.5", "+1.0"] in lines
    assert not any(line[:1] == ["run.dir"] for line in lines)


def test_test_figures_have_the_interval_and_p_of_the_bootstrap(pair, rows, capsys):
    lines = compared(capsys, *pair, "--draws", "100")
    first, second = (pd.read_parquet(path / "predictions.parquet")["score"].to_numpy() for path in pair)
    change = bootstrap(rows["label"], first, second, rows["user"], 100)["auc"]
    (auc,) = (line.split() for line in lines if line.startswith("test.auc"))
    assert auc == [
        "test.auc",
        "0.8000",
        "0.7500",
        "-0.0500",
        f"[{change.low:.4f},",
        f"{change.high:.4f}]",
        f"{change.p:.3f}",
    ]
    assert any("100 draws of the 20 users" in line for line in lines)


def test_the_same_run_does_not_differ(pair, capsys):
    lines = compared(capsys, pair[0], pair[0])
    assert "the configurations are the same" in lines
    assert any(
        line.split() == ["test.auc", "0.8000", "0.8000", "+0.0000", "[0.0000,", "0.0000]", "1.000"] for line in lines
    )


def test_a_figure_that_one_lacks_has_no_difference(write_run, capsys):
    a, b = write_run("a", figures={"gauc": 0.7}), write_run("b", figures={"gauc": None})
    lines = compared(capsys, a, b)
    assert any(line.split() == ["test.gauc", "0.7000", "-", "-"] for line in lines)
    assert any("no p: " in line and "has no predictions.parquet" in line for line in lines)


def test_an_unfinished_run_is_compared_as_far_as_it_goes(write_run, capsys):
    lines = compared(capsys, write_run("a"), write_run("b", state="running"))
    assert lines[1].endswith("b: running") and any(line.split() == ["test.auc", "0.8000", "-", "-"] for line in lines)


def test_a_tables_rows_are_drawn_one_by_one(pair, rows, capsys):
    for path in pair:
        predict(path, np.linspace(0.1, 0.9, 300), row=np.arange(300), label=rows["label"])
    assert any("2,000 draws of the 300 rows" in line for line in compared(capsys, *pair))


def test_predictions_of_other_rows_are_refused_and_named(pair, rows, capsys):
    item = rows["item"].copy()
    item[7] = 77
    predict(pair[1], np.full(300, 0.5), **{**rows, "item": item})
    assert run(["compare", *map(str, pair)]) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1
    assert f"row 7 is user={rows['user'][7]} item={rows['item'][7]} timestamp=7" in told.err and "item=77" in told.err
    predict(pair[1], np.full(9, 0.5), **{name: values[:9] for name, values in rows.items()})
    assert run(["compare", *map(str, pair)]) == 2
    assert "300 in " in capsys.readouterr().err
    predict(pair[1], np.full(300, 0.5), row=np.arange(300), label=rows["label"])
    assert run(["compare", *map(str, pair)]) == 2


def test_runs_on_other_data_are_compared_on_request_without_a_test(pair, write_run, capsys):
    other = write_run("c", events="others", **{"dataset.max_history": 9, "dataset.label_threshold": 3})
    assert run(["compare", str(pair[0]), str(other)]) == 2
    told = capsys.readouterr().err
    assert "dataset.label_threshold is null or 3" in told and "--mix" in told and "max_history" not in told
    lines = compared(capsys, pair[0], other, "--mix")
    assert any(line.split() == ["dataset.label_threshold", "-", "3"] for line in lines)
    assert "no p: asked to mix" in lines


@pytest.mark.parametrize(
    "typed", [[], ["a"], ["a", "b", "c"], ["a", "nope"], ["a", "b", "--draws", "9"], ["a", "b", "--drws", "999"]]
)
def test_a_mistake_is_one_line_with_exit_code_2(pair, typed, capsys, monkeypatch):
    monkeypatch.chdir(pair[0].parent)
    assert run(["compare", *typed]) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.startswith("recexp: ") and told.err.count("\n") == 1
