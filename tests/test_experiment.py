"""The flow as Python calls it: what is checked before training, and what is said where the data leave no choice."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import recexp
from recexp.error import ConfigError, DataError
from recexp.experiment import build
from recexp.metric.binary import evaluate


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


def test_a_table_with_a_column_of_users_has_gauc_and_a_trained_model_finds_it_again(tmp_path: Path) -> None:
    typed = log(tmp_path, lambda number: (number // 7) % 2, lambda number: number)
    table = ["dataset.columns.item=null", "dataset.columns.timestamp=null", "dataset.split.kind=random",
             "+dataset.features.context={item:categorical,user:categorical}", "trainer.monitor=gauc"]  # fmt: skip
    metrics = recexp.train(recexp.load_config([*typed, *table]))
    rows = pd.read_parquet(tmp_path / "run" / "predictions.parquet").merge(
        pd.read_csv(tmp_path / "log.csv"), left_on="row", right_index=True
    )
    expected = evaluate(rows["label_x"], np.log(rows["score"] / (1 - rows["score"])), rows["user"]).values
    assert metrics["test"]["gauc"] == pytest.approx(expected["gauc"], abs=1e-6)
    assert metrics["test"]["gauc_users"] == expected["gauc_users"]
    trained = recexp.load_run(tmp_path / "run")
    assert trained.evaluate()["gauc"] == metrics["test"]["gauc"]
    given = rows.rename(columns={"label_y": "label"})[["user", "item", "label"]]
    assert trained.evaluate(given)["gauc"] == pytest.approx(metrics["test"]["gauc"], abs=1e-6)
    with pytest.raises(DataError, match="user"):
        trained.evaluate(given[["item", "label"]])
