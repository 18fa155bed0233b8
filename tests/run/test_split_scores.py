"""A run's model and held-out rows loaded back score as they did after training, to the bit."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import recexp
from recexp.cli import run
from recexp.error import ConfigError
from recexp.storage import write_json


@pytest.mark.parametrize("typed", [["model=fm", "dataset.label=implicit"], ["model=rnn_als"]], ids=" ".join)
def test_scores_are_those_of_the_run_to_the_bit(
    typed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["+experiment=tiny", *typed, "trainer.threads=1", "run.dir=a"]) == 0
    path = Path("a")
    trained = recexp.load_run(path)
    scores, wanted = trained.split_scores("test"), pd.read_parquet(path / "predictions.parquet")
    assert np.array_equal(1 / (1 + np.exp(-scores.logits)), wanted["score"])
    assert np.array_equal(scores.labels, wanted["label"])
    with pytest.raises(ConfigError, match="Choices: test, valid"):
        trained.split_scores("train")
    write_json(path / "status.json", {"state": "interrupted", "error": None})
    assert run(["calibrate", "a"]) == 2
    assert "has not ended" in capsys.readouterr().err
