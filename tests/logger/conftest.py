"""Shared by the loggers' tests: a short training of two stages in an empty directory, and what its directory holds."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from recorder import Stopped

import recexp
from recexp.run.directory import Run

SHORT = ("+experiment=smoke", "model=als_mlp", "trainer.threads=1", "trainer.epochs=4", "trainer.patience=null")


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.fixture
def train(empty: Path) -> Callable[..., dict[str, Any]]:
    """train("run.dir=a"): one epoch of ALS and four of an MLP; the content of metrics.json."""

    def train(*overrides: str) -> dict[str, Any]:
        own = str(empty) if (empty / "logger").is_dir() else None
        return recexp.train(recexp.load_config([*SHORT, *overrides], config_dir=own))

    return train


@pytest.fixture
def stopping(monkeypatch: pytest.MonkeyPatch) -> Callable[[], contextlib.AbstractContextManager]:
    """Within it, training stops in the third epoch of the last stage: after it was told, before its checkpoint."""
    tell = Run.epoch

    def epoch(run: Run, line: dict[str, Any]) -> None:
        tell(run, line)
        if line["epoch"] == 3:
            raise Stopped

    @contextlib.contextmanager
    def stopping() -> Iterator[None]:
        with monkeypatch.context() as patch, pytest.raises(Stopped):
            patch.setattr(Run, "epoch", epoch)
            yield

    return stopping


@pytest.fixture
def held() -> Callable[[str, str], list[tuple[int, float]]]:
    """held("a", "valid/auc"): (step, value) of what metrics.jsonl in the directory a holds."""

    def held(path: str, name: str) -> list[tuple[int, float]]:
        part, _, key = name.partition("/")
        lines = [json.loads(line) for line in Path(path, "metrics.jsonl").read_text().splitlines()]
        return [(step, line[part][key]) for step, line in enumerate(lines, 1) if line[part].get(key) is not None]

    return held
