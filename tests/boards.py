"""Leaderboards of runs that were never trained: files as a run leaves them, with metrics that a test chooses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

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
    """One row per setting, each 0.01 worse than the one before it."""
    records = [
        record(folder / f"{index}-{seed}", setting, AUC[seed % 3] - 0.01 * index, seed, **options)
        for index, setting in enumerate(settings)
        for seed in range(n_seeds)
    ]
    return leaderboard(records, Choice())


def rates(n: int) -> list[dict[str, Any]]:
    """n settings that differ in the learning rate."""
    return [{"trainer.learning_rate": index / 1000} for index in range(1, n + 1)]


def job(folder: Path, number: int, *typed: str, auc: float | None = None, state: str = "finished",
        monitor: str = "auc", seed: int = 0, test: float | None = None, events: str = "abc123",
        **valid: float) -> None:  # fmt: skip
    """A job's directory in a sweep's folder. auc: on valid, and on test unless `test` is. valid: further metrics."""
    (folder / "sweep.yaml").write_text(yaml.safe_dump({"overrides": [], "flags": ["-m", "--config-dir", "my conf"]}))
    path = folder / f"{number}-job"
    path.mkdir()
    config: dict[str, Any] = {
        "model": {"name": "fm"}, "dataset": {"name": "synthetic"}, "trainer": {"monitor": monitor}, "objective": None,
    }  # fmt: skip
    for key, _, value in (word.partition("=") for word in typed if not word.startswith("+")):
        group, _, option = key.partition(".")
        config[group] = {**config.get(group, {}), option: value} if option else value
    (path / "config.yaml").write_text(yaml.safe_dump({**config, "seed": seed}))
    (path / "overrides.yaml").write_text(yaml.safe_dump(["model=fm", *typed]))
    if state == "missing":
        return
    status = {"state": state, "error": "loss is nan" if state == "failed" else None, "pid": 1, "host": "elsewhere"}
    (path / "status.json").write_text(json.dumps(status))
    (path / "environment.json").write_text(json.dumps({"data": {"fingerprint": events, "events": events}}))
    if state in ("finished", "pruned"):
        tested = {"auc": auc if test is None else test, "gauc": None, "logloss": 0.5} if state == "finished" else {}
        metrics = {"train": {}, "valid": {"auc": auc, **valid}, "test": tested, "parameters": 1200, "seconds": 2.5,
                   "best_epoch": 1, "epochs": 1, "samples_per_second": 9.0, "peak_memory_mb": 50.0}  # fmt: skip
        (path / "metrics.json").write_text(json.dumps(metrics))
