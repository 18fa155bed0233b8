"""The run directory always tells its true status, however the run ends."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from recexp.config import Config
from recexp.error import DataError, RunError, Terminated
from recexp.run.directory import Run

LINE = {"stage": "train", "epoch": 1, "losses": {"target": 0.7}, "valid": {"auc": 0.6}, "samples_per_second": 9.0}


@pytest.fixture
def config(compose: Callable[..., Config], tmp_path: Path) -> Callable[..., Config]:
    """config(resume=True): of a run in tmp_path/new/run."""

    def config(resume: bool = False) -> Config:
        whole = compose("logger=none")
        return replace(whole, run=replace(whole.run, dir=str(tmp_path / "new" / "run"), resume=resume))

    return config


def status(path: Path) -> dict:
    return json.loads((path / "status.json").read_text())


@pytest.mark.parametrize("outcome", ["finished", "pruned"])
def test_status_is_that_of_the_metrics(outcome: str, config: Callable[..., Config]) -> None:
    with Run.open(config(), []) as run:
        assert status(run.path)["state"] == "running" and run.finished() is None
        run.metrics({"status": outcome})
    assert (status(run.path)["state"], status(run.path)["error"]) == (outcome, None)
    with Run.open(config(resume=True), []) as run:
        assert run.finished() == {"status": outcome}
    assert status(run.path)["state"] == outcome


@pytest.mark.parametrize(
    ("error", "state", "message"),
    [
        (KeyboardInterrupt(), "interrupted", "go on with: recexp resume"),
        (Terminated(), "interrupted", "go on with: recexp resume"),
        (ValueError("no such thing"), "failed", "ValueError: no such thing"),
        (SystemExit(3), "failed", "SystemExit: 3"),
    ],
)
def test_status_tells_what_ended_the_run(
    error: BaseException, state: str, message: str, config: Callable[..., Config]
) -> None:
    with pytest.raises(type(error)), Run.open(config(), []) as run:
        raise error
    assert status(run.path)["state"] == state and message in status(run.path)["error"]
    assert ("Traceback" in (run.path / "log.txt").read_text()) == (state == "failed")


def test_block_that_ends_without_metrics_is_an_interrupted_run(config: Callable[..., Config]) -> None:
    with Run.open(config(), []) as run:
        pass
    assert status(run.path)["state"] == "interrupted"


def test_mistake_before_the_first_epoch_leaves_nothing(config: Callable[..., Config], tmp_path: Path) -> None:
    with pytest.raises(DataError), Run.open(config(), []) as run:
        run.rewind(0)
        raise DataError("log.csv: no such file.")
    assert list(tmp_path.iterdir()) == []


def test_mistake_after_the_first_epoch_is_a_failed_run(config: Callable[..., Config]) -> None:
    with pytest.raises(DataError), Run.open(config(), []) as run:
        run.epoch(LINE)
        raise DataError("log.csv: no such file.")
    assert (status(run.path)["state"], status(run.path)["error"]) == ("failed", "log.csv: no such file.")


def test_mistake_on_resuming_is_a_failed_run(config: Callable[..., Config]) -> None:
    with pytest.raises(KeyboardInterrupt), Run.open(config(), []):
        raise KeyboardInterrupt
    with pytest.raises(DataError), Run.open(config(resume=True), []) as run:
        raise DataError("log.csv: no such file.")
    assert status(run.path)["state"] == "failed"


def test_run_that_another_process_writes_cannot_be_resumed(config: Callable[..., Config]) -> None:
    with Run.open(config(), []) as run:
        (run.path / "status.json").write_text(json.dumps({**status(run.path), "pid": 1, "host": "elsewhere"}))
        with pytest.raises(RunError, match=r"process 1 is still writing this run on elsewhere"):
            Run.open(config(resume=True), []).__enter__()


def test_closed_run_logs_no_more(config: Callable[..., Config]) -> None:
    before = list(logging.getLogger("recexp").handlers)
    with pytest.raises(DataError), Run.open(config(), []):
        raise DataError("log.csv: no such file.")
    assert logging.getLogger("recexp").handlers == before
