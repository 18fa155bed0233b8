"""Run directories as a training would leave them, without the training."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

WriteRun = Callable[..., Path]


@pytest.fixture
def write_run(tmp_path: Path) -> WriteRun:
    """write_run("a", model="din", seed=1, auc=0.8, **{"trainer.learning_rate": 0.1}): a finished run in tmp_path/a.

    What is named with a dot goes to the configuration. state: of status.json; without figures unless finished.
    """

    def write(
        name: str,
        *,
        model: str = "din",
        seed: int = 0,
        auc: float | None = 0.8,
        state: str = "finished",
        events: str = "events",
        fingerprint: str = "prepared",
        figures: dict[str, Any] | None = None,
        **options: Any,
    ) -> Path:
        path = tmp_path / name
        path.mkdir(parents=True)
        config = {
            "model": {"name": model, "embedding_dim": 16, "hidden_sizes": [64, 32]},
            "dataset": {"name": "synthetic", "path": None, "label": "explicit", "negatives": 1, "max_history": 20},
            "trainer": {"name": "default", "learning_rate": 0.001, "monitor": "auc"},
            "run": {"dir": str(path)},
            "seed": seed,
            "device": "auto",
        }
        for key, value in options.items():
            group, _, option = key.partition(".")
            config[group] = {**config.get(group, {}), option: value} if option else value
        (path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        (path / "overrides.yaml").write_text("[]\n")
        (path / "status.json").write_text(json.dumps({"state": state, "error": None, "pid": 1, "host": "elsewhere"}))
        data = {"fingerprint": fingerprint, "events": events}
        (path / "environment.json").write_text(json.dumps({"data": data}))
        if state == "finished":
            metrics = {"model": model, "dataset": "synthetic", "seed": seed, "status": state, "best_epoch": 2,
                       "epochs": 3, "parameters": 1000, "seconds": 1.5 + seed, "samples_per_second": 100.0,
                       "peak_memory_mb": 50.0, "train": {"target": 0.5}, "valid": {"auc": auc},
                       "test": {"auc": auc, **(figures or {})}}  # fmt: skip
            (path / "metrics.json").write_text(json.dumps(metrics))
        return path

    return write
