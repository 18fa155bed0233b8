"""The flow as Python calls it: what is checked before training, and what is said where the data leave no choice."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import recexp
from recexp.error import ConfigError
from recexp.experiment import build


@pytest.mark.parametrize("call", [recexp.train, build])
@pytest.mark.parametrize(
    ("key", "value", "wrong"),
    [
        ("epochs", -3, r"^trainer\.epochs = -3: must be 1 or more"),
        ("epohcs", 3, r"^trainer\.epohcs: unknown .*'trainer\.epochs'"),
    ],
)
def test_changed_configuration_is_checked_before_anything_is_done(
    call: Callable, key: str, value: int, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = recexp.load_config(["+experiment=smoke", "model=fm", "trainer.threads=1"])
    setattr(config.trainer, key, value)
    with pytest.raises(ConfigError, match=wrong):
        call(config)
    assert list(tmp_path.iterdir()) == []


def log(folder: Path, label: Callable[[np.ndarray], np.ndarray], time: Callable[[np.ndarray], np.ndarray]) -> list[str]:
    """Overrides of a short training on 120 events of 6 users, whose labels and times are functions of their number."""
    number = np.arange(120)
    events = {"user": number % 6, "item": number % 7, "label": label(number), "timestamp": time(number)}
    pd.DataFrame(events).to_csv(folder / "log.csv", index=False)
    return ["model=linear", "dataset=csv", f"dataset.path={folder}/log.csv", "dataset.cache_dir=null",
            f"run.dir={folder}/run", "trainer.threads=1", "trainer.epochs=3", "device=cpu"]  # fmt: skip


@pytest.mark.parametrize(
    ("label", "time", "why"),
    [
        (lambda number: number % 2, lambda number: number // 60, "no rows"),  # two times, and no tie is cut
        (lambda number: 0 * number + 1, lambda number: number, "one class only: every label is 1"),
    ],
    ids=["empty", "one class"],
)
def test_without_a_validation_metric_the_last_epoch_counts_and_it_is_said(
    label: Callable, time: Callable, why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "recexp"):
        metrics = recexp.train(recexp.load_config(log(tmp_path, label, time)))
    assert metrics["best_epoch"] == metrics["epochs"] == 3
    said = f"valid auc cannot be computed ({why}): all 3 epochs are trained, and the last one counts"
    assert caplog.messages.count(said) == 1
    assert metrics["reasons"]["best_epoch"] == "valid auc cannot be computed, so the last epoch counts"
    assert metrics["reasons"]["best_epoch"] in caplog.messages


def test_a_monitor_that_needs_users_is_refused_for_a_table(tmp_path: Path) -> None:
    typed = log(tmp_path, lambda number: number % 2, lambda number: number)
    table = ["dataset.columns.user=null", "dataset.columns.item=null", "dataset.columns.timestamp=null",
             "dataset.split.kind=random", "+dataset.features.context.item=categorical"]  # fmt: skip
    with pytest.raises(ConfigError, match=r"trainer\.monitor = gauc: needs users, and these data have none"):
        recexp.train(recexp.load_config([*typed, *table, "trainer.monitor=gauc"]))
    assert not (tmp_path / "run").exists()
