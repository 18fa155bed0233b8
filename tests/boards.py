"""Leaderboards of runs that were never trained: files as a run leaves them, with figures that a test chooses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recexp.report.leaderboard import Choice, Leaderboard, leaderboard
from recexp.run.record import Record

AUC = (0.70, 0.72, 0.69)  # of seeds 0, 1, 2


def record(
    path: Path, config: dict[str, Any], auc: float, seed: int = 0, n_epochs: int = 4, predictions: bool = True
) -> Record:
    """A finished run. Its valid AUC rises to `auc`, its loss falls, its predictions are right on average."""
    path.mkdir(parents=True)
    lines = [
        {
            "stage": "train",
            "epoch": epoch,
            "losses": {"target": 0.5 + 0.2 / epoch, "auxiliary": 0.6 + 0.1 / epoch},
            "valid": {"auc": auc - 0.1 / epoch, "logloss": 0.6 + 0.1 / epoch},
            "seconds": 0.5,
            "samples_per_second": 1000.0,
        }
        for epoch in range(1, n_epochs + 1)
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if predictions:
        random = np.random.default_rng(seed)
        score = random.random(500)
        label = (random.random(500) < score).astype(np.int8)
        pd.DataFrame({"label": label, "score": score}).to_parquet(path / "predictions.parquet")
    config = {"seed": seed, "model.name": "din", "dataset.name": "made up", "trainer.monitor": "auc", **config}
    cost = {"seconds": 100 * auc, "parameters": round(1e6 * auc), "best_epoch": n_epochs, "epochs": n_epochs}
    metrics = {"test.auc": auc, "test.logloss": 1.3 - auc, "test.ece": 0.01, **cost}
    return Record(path=path, state="finished", config=config, metrics=metrics, fingerprint="abc123", events="abc123")


def board(folder: Path, settings: list[dict[str, Any]], n_seeds: int = 3, **options: Any) -> Leaderboard:
    """A row a setting, each 0.01 worse than the one before it."""
    records = [
        record(folder / f"{place}-{seed}", setting, AUC[seed % 3] - 0.01 * place, seed, **options)
        for place, setting in enumerate(settings)
        for seed in range(n_seeds)
    ]
    return leaderboard(records, Choice())


def rates(n: int) -> list[dict[str, Any]]:
    """n settings that differ in the learning rate."""
    return [{"trainer.learning_rate": (place + 1) / 1000} for place in range(n)]
