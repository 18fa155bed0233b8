"""Calibration: a fitted map is what scikit-learn says, it mends scores that were distorted, and it is kept."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.isotonic import IsotonicRegression

import recexp
from recexp.cli import run
from recexp.error import DamagedFile, RunError
from recexp.metric.binary import evaluate
from recexp.run.calibration import calibrated, fit, require_calibration
from recexp.storage import write_json


@pytest.fixture
def distorted() -> tuple[np.ndarray, np.ndarray]:
    """Logits three times too sure and shifted by 1, and labels."""
    rng = np.random.default_rng(0)
    true = rng.normal(size=20_000)
    labels = (rng.random(len(true)) < 1 / (1 + np.exp(-true))).astype(np.float32)
    return 3 * true + 1, labels


def test_platt_finds_the_line_that_distorted_the_scores(distorted: tuple[np.ndarray, np.ndarray]) -> None:
    found = fit("platt", *distorted)
    assert (found["slope"], found["intercept"]) == pytest.approx((1 / 3, -1 / 3), abs=0.03)


def test_isotonic_is_scikit_learns_within_its_bounds(distorted: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = distorted
    found = fit("isotonic", logits, labels)
    asked = np.append(np.linspace(-20, 20, 999), logits[:99])
    wanted = IsotonicRegression(out_of_bounds="clip").fit(logits, labels).predict(asked)
    least = 1 / (len(logits) + 2)
    p = 1 / (1 + np.exp(-calibrated(asked, found)))
    assert np.allclose(p, wanted.clip(least, 1 - least), atol=1e-3)
    assert p.min() > 0 and p.max() < 1


@pytest.mark.parametrize("method", ["isotonic", "platt"])
def test_calibrated_scores_of_other_rows_are_right_and_in_the_same_order(
    method: str, distorted: tuple[np.ndarray, np.ndarray]
) -> None:
    logits, labels = distorted
    fitted = fit(method, logits[:10_000], labels[:10_000])
    before = evaluate(labels[10_000:], logits[10_000:]).values
    after = evaluate(labels[10_000:], calibrated(logits[10_000:], fitted)).values
    assert before["ece"] and after["ece"] and after["ece"] < 0.02 < before["ece"] / 5
    assert after["logloss"] and before["logloss"] and after["logloss"] < before["logloss"]
    assert after["auc"] == pytest.approx(before["auc"], abs=0.002)


def test_a_calibration_is_kept_with_the_run_beside_what_it_was_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert (
        run(["+experiment=tiny", "model=popularity", "trainer.threads=1", "dataset.features.context={}", "run.dir=a"])
        == 0
    )
    assert run(["calibrate", "a", "--method", "platt"]) == 0
    (kept,), metrics = require_calibration(Path("a")), json.loads(Path("a/metrics.json").read_text())
    assert kept["method"] == "platt"
    plain, fitted = (recexp.load_run("a").predict(rows(Path("a")), calibrate=calibrate) for calibrate in (False, True))
    logit = np.log(plain / (1 - plain))
    assert np.allclose(np.log(fitted / (1 - fitted)), kept["slope"] * logit + kept["intercept"])
    assert {name: kept["before"][name] for name in ("ece", "logloss", "auc")} == {
        name: metrics["test"][name] for name in ("ece", "logloss", "auc")
    }
    told = capsys.readouterr().out
    assert f"{kept['after']['logloss']:.4f}" in told
    assert run(["calibrate", "a", "--method", "plat"]) == 2
    assert "Did you mean 'platt'?" in capsys.readouterr().err


def rows(path: Path) -> pd.DataFrame:
    return pd.read_parquet(path / "predictions.parquet").drop(columns=["label", "score"]).head(20)


def test_a_file_that_holds_no_calibration_is_damaged(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not calibrated; do that with: recexp calibrate"):
        require_calibration(tmp_path)
    write_json(tmp_path / "calibration.json", {"method": "platt", "slope": 1.0})
    for labels in ((), ("like",)):
        with pytest.raises(DamagedFile, match="holds no calibration"):
            require_calibration(tmp_path, labels)
