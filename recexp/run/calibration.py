"""Calibration: a map from scores to probabilities, fitted on the validation split by scikit-learn, kept with the run.

isotonic   a non-decreasing function of the score, linear between corners (Zadrozny and Elkan, 2002)
platt      sigmoid(slope * score + intercept) (Platt, 1999)
"""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recexp.error import DamagedFile, RunError, choices
from recexp.metric.binary import evaluate
from recexp.metric.scoring import Scores
from recexp.run.read import read_json

FILE = "calibration.json"
METHODS = {"isotonic": ("score", "probability"), "platt": ("slope", "intercept")}  # by name, with its parameters


def calibrate(valid: Scores, test: Scores, method: str) -> dict[str, Any]:
    """The content of calibration.json: the fitted map, and test metrics before and after; by name if several labels.

    Raises RunError.
    """
    if method not in METHODS:
        raise RunError(f"--method {method}: no such method. {choices(method, METHODS)}")
    tests = test.by_label()
    by_label = {name: _of_label(name, part, tests[name], method) for name, part in valid.by_label().items()}
    return by_label.get("", by_label)


def fit(method: str, logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """The map that fits some rows: logits (n,) and labels (n,) of 0 and 1."""
    return {"method": method, **(_isotonic if method == "isotonic" else _platt)(logits, labels)}


def calibrated(logits: np.ndarray, fitted: dict[str, Any]) -> np.ndarray:
    """Calibrated logits (n,) of a model's logits (n,)."""
    if fitted["method"] == "platt":
        return fitted["slope"] * logits + fitted["intercept"]
    p = np.interp(logits, fitted["score"], fitted["probability"])
    return np.log(p) - np.log1p(-p)


def require_calibration(path: Path, labels: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The fitted map of a run's label, or of each of several. Raises RunError if it has none, DamagedFile."""
    kept = read_json(path / FILE)
    if kept is None:
        raise RunError(f"{path}: is not calibrated; do that with: recexp calibrate {shlex.quote(str(path))}")
    maps = [kept.get(name) or {} for name in labels] or [kept]
    if not all({*METHODS.get(str(fitted.get("method")), ("method",))} <= fitted.keys() for fitted in maps):
        raise DamagedFile(f"{path / FILE}: damaged (it holds no calibration).")
    return maps


def _of_label(name: str, valid: Scores, test: Scores, method: str) -> dict[str, Any]:
    if len(set(valid.labels.tolist())) < 2:
        label = f" {name}" if name else ""
        raise RunError(
            f"calibrate: the validation split has no labels{label} of both classes, so nothing can be fitted."
        )
    fitted = fit(method, valid.logits, valid.labels)
    after = evaluate(test.labels, calibrated(test.logits, fitted), test.users).values
    return {**fitted, "before": evaluate(test.labels, test.logits, test.users).values, "after": after}


def _isotonic(logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Probabilities stay 1 / (n + 2) away from 0 and 1, so that no row has an infinite logloss."""
    from sklearn.isotonic import IsotonicRegression

    least = 1 / (len(logits) + 2)
    fitted = IsotonicRegression(y_min=least, y_max=1 - least, out_of_bounds="clip").fit(logits, labels)
    return {"score": fitted.X_thresholds_.tolist(), "probability": fitted.y_thresholds_.tolist()}


def _platt(logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000).fit(logits[:, None], labels)
    return {"slope": float(fitted.coef_[0, 0]), "intercept": float(fitted.intercept_[0])}
