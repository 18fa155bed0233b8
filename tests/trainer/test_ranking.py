"""Models trained on labels rank too: metrics of rankings stand beside those of labels."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import recexp
from recexp.cli import run
from recexp.error import ConfigError
from recexp.metric.table import rank_names

TYPED = (
    "+experiment=tiny",
    "dataset.label=implicit",
    "device=cpu",
    "trainer.threads=1",
    "trainer.ranking.cutoffs=[3,5]",
)
DIN = ("model=din", "model.history_labels=false")


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_ranks_are_beside_labels_and_choose_the_best_epoch(capsys: pytest.CaptureFixture) -> None:
    typed = ("trainer.ranking.candidates=all", "trainer.monitor=ndcg@3/all", "trainer.epochs=2", "run.dir=run")
    metrics = recexp.train(recexp.load_config([*TYPED, *DIN, *typed]))
    assert set(rank_names([3, 5])) < metrics["test"].keys() and metrics["test"]["auc"] > 0
    values = recexp.load_run("run").epochs["valid.ndcg@3/all"]
    assert metrics["valid"]["ndcg@3/all"] == values.max() == values[metrics["best_epoch"] - 1]
    assert recexp.load_run("run").evaluate() == metrics["test"]
    assert metrics["groups"]["popularity"]["head"].keys() == {
        "users",
        *(f"{n}@{k}/all" for k in (3, 5) for n in ("hr", "ndcg")),
    }
    assert run(["show", "run"]) == 0
    shown = capsys.readouterr().out
    assert "coverage@5/all" in shown and "history" in shown and "popularity" in shown


def test_the_best_items_written_are_those_recommended_at_the_first_test_event() -> None:
    typed = ("~dataset.features.context.device", "trainer.ranking.candidates=all", "run.dir=run")
    recexp.train(recexp.load_config([*TYPED, *DIN, *typed]))
    first = pd.read_parquet("run/predictions.parquet").drop_duplicates("user")[["user", "timestamp"]]
    expected = recexp.load_run("run").recommend(first, k=5).drop(columns="timestamp")
    found = pd.read_parquet("run/recommendations.parquet")
    found["score"] = 1 / (1 + np.exp(-found.score))  # of logits
    columns = ["user", "rank"]
    found, expected = (frame.sort_values(columns).reset_index(drop=True) for frame in (found, expected))
    pd.testing.assert_frame_equal(found, expected, check_dtype=False, atol=1e-6)


def test_sampled_candidates_are_named() -> None:
    typed = ("model=popularity", "trainer.ranking.candidates=7", "trainer.monitor=hr@5/sampled7", "run.dir=run")
    metrics = recexp.train(recexp.load_config([*TYPED, *typed]))
    assert set(rank_names([3, 5], "sampled7")) < metrics["test"].keys()
    assert not Path("run/recommendations.parquet").exists()  # the answers would be among few others
    assert 0.3 < metrics["test"]["hr@5/sampled7"] <= 1  # of 8 items and more, the relevant ones included


REFUSED = {
    "trainer.monitor=ndcg@3/all": "trainer.monitor = ndcg@3/all: trainer.ranking.candidates = none ranks nothing",
    "trainer.ranking.candidates=some": "trainer.ranking.candidates = some: must be all, none, or a number",
}


@pytest.mark.parametrize("typed", REFUSED)
def test_what_cannot_be_ranked_is_refused_in_one_line(typed: str) -> None:
    with pytest.raises(ConfigError) as told:
        recexp.load_config([*TYPED, *DIN, typed])
    assert REFUSED[typed] in str(told.value) and "\n" not in str(told.value)


def test_explicit_labels_are_not_ranked() -> None:
    with pytest.raises(ConfigError, match="a ranking takes every event for a positive"):
        recexp.load_config(["model=din", "trainer.ranking.candidates=all"])
