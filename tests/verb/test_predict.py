"""The verbs `predict` and `evaluate` from outside, on the files of a run on a log of one's own."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recexp.cli import run
from recexp.storage import write_json

OPTIONS = ["model=din", "model.history_labels=true", "dataset=csv", "dataset.path=log.csv", "dataset.columns.user=uid",
           "dataset.cache_dir=null", "dataset.label_threshold=3", "dataset.features.context={place: categorical}",
           "device=cpu", "trainer.threads=1", "trainer.epochs=1", "run.dir=run"]  # fmt: skip


def make_log() -> pd.DataFrame:
    random = np.random.default_rng(0)
    n = 600
    return pd.DataFrame({
        "uid": [f"u{user:02}" for user in random.integers(20, size=n)], "item": random.integers(30, size=n),
        "label": random.integers(1, 6, size=n), "timestamp": np.sort(random.integers(10**6, size=n)),
        "place": random.choice(["home", "away"], size=n), "note": "not read",
    })  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with log.csv, a run trained on it, and its last tenth as test.csv."""
    folder = tmp_path_factory.mktemp("own")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_log().to_csv("log.csv", index=False)
        assert run(OPTIONS) == 0
        saved = pd.read_parquet("run/predictions.parquet").rename(columns={"user": "uid"})
        rows = make_log().merge(saved[["uid", "item", "timestamp"]].drop_duplicates().astype({"item": int}))
        assert len(rows) == len(saved)
        rows.to_csv("test.csv", index=False)
    return folder


@pytest.fixture(autouse=True)
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(folder)
    yield


def test_a_file_is_scored_in_its_order_with_the_columns_that_the_data_name(capsys: pytest.CaptureFixture) -> None:
    saved = pd.read_parquet("run/predictions.parquet").rename(columns={"user": "uid"}).astype({"item": int})
    given = pd.read_csv("test.csv")
    for written in ("out.csv", "out.parquet"):
        assert run(["predict", "run", "test.csv", "-o", written]) == 0
        found = pd.read_csv(written) if written.endswith("csv") else pd.read_parquet(written)
        assert list(found) == ["uid", "item", "label", "timestamp", "place", "score"]
        assert found.uid.tolist() == given.uid.tolist() and found.item.astype(int).tolist() == given.item.tolist()
        both = found.astype({"item": int, "timestamp": int}).merge(saved, on=["uid", "item", "timestamp"])
        assert np.allclose(both.score_x, both.score_y, rtol=0, atol=1e-7)
    assert "out.parquet: " in capsys.readouterr().out


def test_of_rows_in_the_order_of_the_runs_own_predictions_the_scores_are_the_same_to_the_bit() -> None:
    saved = pd.read_parquet("run/predictions.parquet").rename(columns={"user": "uid"}).astype({"item": int})
    rows = saved.drop(columns=["label", "score"]).merge(make_log().drop(columns="label"))
    rows.drop(columns="note").to_parquet("own.parquet")  # no labels, and item ids are integers here
    assert run(["predict", "run", "own.parquet", "-o", "out.csv", "--history", "saved"]) == 0
    lines = Path("out.csv").read_text().splitlines()[1:]
    assert [float(line.rpartition(",")[2]) for line in lines] == saved.score.tolist()


def test_json_lines_words_as_labels_and_rows_without_one_are_read() -> None:
    rows = pd.read_csv("test.csv").astype({"item": str})
    rows["label"] = np.where(rows.label >= 3, "Yes", "no")
    rows.to_json("rows.json", orient="records", lines=True)
    rows.loc[[0, 3], "label"] = None
    rows.to_csv("words.csv", index=False)
    for file in ("rows.json", "words.csv"):
        assert run(["predict", "run", file, "-o", "words.parquet"]) == 0
        assert run(["predict", "run", "test.csv", "-o", "out.parquet"]) == 0
        found, expected = (pd.read_parquet(name).score for name in ("words.parquet", "out.parquet"))
        assert np.allclose(found, expected, rtol=0, atol=1e-7)


def test_metrics_are_those_of_the_run_and_of_any_labelled_rows(capsys: pytest.CaptureFixture) -> None:
    for split in ("test", "valid"):
        assert run(["evaluate", "run", "--split", split]) == 0
        assert "the same as in metrics.json" in capsys.readouterr().out.splitlines()
    assert run(["evaluate", "run", "--rows", "test.csv", "-o", "metrics.json"]) == 0
    found, saved = (json.loads(Path(name).read_text()) for name in ("metrics.json", "run/metrics.json"))
    assert found == pytest.approx(saved["test"], abs=1e-6)


def test_a_run_without_metrics_yet_has_nothing_to_compare_with(capsys: pytest.CaptureFixture) -> None:
    shutil.copytree("run", "stopped")
    Path("stopped/metrics.json").unlink()
    write_json(Path("stopped/status.json"), {"state": "interrupted", "error": None})
    assert run(["evaluate", "stopped"]) == 0
    assert "auc" in (told := capsys.readouterr().out) and "metrics.json" not in told


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["predict", "run", "few.csv", "-o", "x.csv"], "few.csv: no column 'item' (dataset.columns.item)"),
        (["predict", "run", "wrong.csv", "-o", "x.csv"], "wrong.csv:3: column 'timestamp' = 'soon': must be a number"),
        (["predict", "run", "none.csv", "-o", "x.csv"], "FILE = none.csv: no such file"),
        (["predict", "run", "test.csv", "-o", "x.csv", "seed=1"], "seed=1: a trained model is used as it is"),
        (["predict", "run", "test.csv", "-o", "x.csv", "--history", "all"], "history = all: no such choice"),
        (["evaluate", "run", "--rows", "wrong.csv"], "wrong.csv: no column 'label' (dataset.columns.label)"),
        (["evaluate", "run", "--split", "train"], "split = train: no split with metrics. Choices: test, valid"),
        (["evaluate", "run", "device=cuda:77"], "device = cuda:77: this machine has"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_file(typed: list[str], told: str, capsys: pytest.CaptureFixture) -> None:
    Path("few.csv").write_text("uid,timestamp,place\nu01,5,home\n")
    Path("wrong.csv").write_text("uid,item,timestamp,place\nu01,1,5,home\nu01,1,soon,home\n")
    if "timestamp" not in told:
        Path("wrong.csv").write_text("uid,item,timestamp,place\nu01,1,5,home\n")
    assert run(typed) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and told in lines[0], lines
    assert not Path("x.csv").exists()


def test_rows_of_a_run_on_files_of_another_form_are_given_as_csv(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    log = tmp_path / "log.txt"
    log.write_text("".join(f"{user} {' '.join(str((user + n) % 12) for n in range(8))}\n" for user in range(40)))
    typed = ["model=fm", "dataset=sequence", f"dataset.path={log}", "dataset.cache_dir=null", "device=cpu"]
    assert run([*typed, "trainer.threads=1", "trainer.epochs=1", f"run.dir={tmp_path / 'run'}"]) == 0
    (tmp_path / "rows.csv").write_text("user,item,timestamp\n1,3,20\nnew,4,20\n")
    code = run(["predict", str(tmp_path / "run"), str(tmp_path / "rows.csv"), "-o", str(tmp_path / "scores.csv")])
    assert code == 0, capsys.readouterr().err
    assert pd.read_csv(tmp_path / "scores.csv").columns.tolist() == ["user", "item", "timestamp", "score"]
