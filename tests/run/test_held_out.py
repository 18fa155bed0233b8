"""A run's model and held-out rows loaded back score as they did after training, to the bit."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from recexp.cli import run
from recexp.error import RunError
from recexp.run.held_out import HeldOut
from recexp.storage import write_json
from recexp.validate import read


@pytest.mark.parametrize("typed", [["model=fm", "dataset.label=implicit"], ["model=rnn_als"]], ids=" ".join)
def test_scores_are_those_of_the_run_to_the_bit(
    typed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["+experiment=tiny", *typed, "trainer.threads=1", "run.dir=a"]) == 0
    path = Path("a")
    held = HeldOut.of(path, read(path), torch.device("cpu"))
    scores, wanted = held.scores("test"), pd.read_parquet(path / "predictions.parquet")
    assert np.array_equal(1 / (1 + np.exp(-scores.logits)), wanted["score"])
    assert np.array_equal(scores.labels, wanted["label"])
    with pytest.raises(RunError, match="Choices: test, valid"):
        held.require_rows("train")
    write_json(path / "status.json", {"state": "interrupted", "error": None})
    with pytest.raises(RunError, match="has not ended"):
        HeldOut.of(path, read(path), torch.device("cpu"))
