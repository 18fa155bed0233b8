"""The run directory always tells its true status, however the run ends."""

import errno
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from recexp import lock, storage
from recexp.config import Config
from recexp.error import DataError, Failure, RunError, Terminated
from recexp.run.directory import Run
from recexp.run.identity import identity
from recexp.run.status import read_status

LINE = {"stage": "train", "epoch": 1, "losses": {"target": 0.7}, "valid": {"auc": 0.6}, "samples_per_second": 9.0}


@pytest.fixture
def config(compose: Callable[..., Config], tmp_path: Path) -> Callable[..., Config]:
    """config(resume=True): of a run in tmp_path/new/run."""

    def config(resume: bool = False) -> Config:
        whole = compose("logger=none")
        return replace(whole, run=replace(whole.run, dir=str(tmp_path / "new" / "run"), resume=resume))

    return config


METRICS = {"best_epoch": 1, "epochs": 1, "parameters": 9, "seconds": 1.0, "samples_per_second": 9.0,
           "peak_memory_mb": 9.0, "train": {}, "valid": {"auc": 0.6}, "test": {"auc": 0.7}}  # fmt: skip


def status(path: Path) -> dict:
    return storage.read_json(path / "status.json")


@pytest.mark.parametrize("outcome", ["finished", "pruned"])
def test_status_is_that_of_the_metrics(outcome: str, config: Callable[..., Config]) -> None:
    with Run.open(config(), []) as run:
        assert status(run.path)["state"] == "running" and run.finished() is None
        run.metrics({**METRICS, "status": outcome})
        assert status(run.path)["state"] == "running"  # until all else is written
    assert (status(run.path)["state"], status(run.path)["error"]) == (outcome, None)
    before = (run.path / "status.json").read_bytes()
    with Run.open(config(resume=True), []) as run:
        assert run.finished() == {**METRICS, "status": outcome}
    assert (run.path / "status.json").read_bytes() == before


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
        storage.write_json(run.path / "status.json", {**status(run.path), "pid": 1, "host": "elsewhere"})
        with pytest.raises(RunError, match=r"process 1 is still writing this run on elsewhere"):
            Run.open(config(resume=True), []).__enter__()


def test_closed_run_logs_no_more(config: Callable[..., Config]) -> None:
    before = list(logging.getLogger("recexp").handlers)
    with pytest.raises(DataError), Run.open(config(), []):
        raise DataError("log.csv: no such file.")
    assert logging.getLogger("recexp").handlers == before


def interrupted(run: Path, config: Callable[..., Config], lines: int = 2) -> None:
    """A run that was stopped after some epochs."""
    with pytest.raises(KeyboardInterrupt), Run.open(config(), []) as run:
        run.environment("data", {"rows": 3}, {"device": "cpu"})
        run.rewind(0)
        for epoch in range(1, lines + 1):
            run.epoch({**LINE, "epoch": epoch})
        raise KeyboardInterrupt


def test_a_new_run_is_locked_and_whole_from_the_first_moment(config: Callable[..., Config], monkeypatch) -> None:
    seen = []
    rename = os.rename

    def look(source: Path, target: Path) -> None:
        rename(source, target)
        seen.append((sorted(path.name for path in target.iterdir()), lock.is_locked(target)))

    monkeypatch.setattr(os, "rename", look)
    with Run.open(config(), ["model=fm"]) as run:
        assert seen == [(["config.yaml", "overrides.yaml", "status.json"], True)]
    assert not lock.is_locked(run.path)


def test_an_empty_directory_is_filled_where_it_is(config: Callable[..., Config], tmp_path: Path) -> None:
    path = tmp_path / "new" / "run"
    path.mkdir(parents=True)
    (path / ".config.yaml.0123456789abcdef.tmp").touch()  # of a process killed in its first moments
    inode = path.stat().st_ino
    with Run.open(config(), []), pytest.raises(RunError, match="exists"), Run.open(config(), []):
        pass
    assert path.stat().st_ino == inode and not storage.leftovers(path)


def test_a_run_is_entered_by_one_process_at_a_time(config: Callable[..., Config], tmp_path: Path) -> None:
    interrupted(tmp_path, config)
    with Run.open(config(resume=True), []) as run:
        with pytest.raises(RunError, match=r"process \d+ is still writing this run"):
            Run.open(config(resume=True), []).__enter__()
        (run.path / "status.json").unlink()  # the other has the lock and has not yet written its status
        with pytest.raises(RunError, match="another process is at work"):
            Run.open(config(resume=True), []).__enter__()


def test_other_data_are_refused_and_the_environment_of_the_beginning_stays(
    config: Callable[..., Config], tmp_path: Path
) -> None:
    interrupted(tmp_path, config)
    path = tmp_path / "new" / "run"
    first = storage.read_json(path / "environment.json")
    refused = pytest.raises(RunError, match=r"was run on other data \(data\) than are there now \(others\)")
    with refused, Run.open(config(resume=True), []) as run:
        run.environment("others", {"rows": 4}, {"device": "cpu"})
    assert storage.read_json(path / "environment.json") == first
    with Run.open(config(resume=True), []) as run:
        run.environment("data", {"rows": 3}, {"device": "cuda"})
    later = storage.read_json(path / "environment.json")
    assert {key: later[key] for key in first} == first
    assert [process["hardware"]["device"] for process in later["resumed"]] == ["cuda"]


def test_an_identity_is_that_of_configuration_and_data(config: Callable[..., Config]) -> None:
    whole = config()
    same = [
        replace(whole, device="cuda:1", run=replace(whole.run, dir="elsewhere")),
        replace(whole, trainer=replace(whole.trainer, epochs=99, patience=None)),
        replace(whole, dataset=replace(whole.dataset, cache_dir="elsewhere")),
    ]
    others = [replace(whole, seed=1), replace(whole, trainer=replace(whole.trainer, batch_size=1))]
    assert {identity(other, "data") for other in same} == {identity(whole, "data")}
    different = {identity(other, "data") for other in [whole, *others]} | {identity(whole, "others")}
    assert len(different) == 4


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
@pytest.mark.parametrize("name", ["metrics.json", "predictions.parquet", "recommendations.parquet", "curves.png"])
def test_results_that_are_damaged_are_made_anew(
    name: str, damage: str, config: Callable[..., Config], caplog: pytest.LogCaptureFixture
) -> None:
    def fill(run: Run) -> None:
        for result in ("predictions.parquet", "recommendations.parquet", "curves.png"):
            storage.write_text(run.path / result, "0123456789")
        run.metrics({**METRICS, "status": "finished"})

    with Run.open(config(), []) as run:
        fill(run)
    content = (run.path / name).read_bytes()
    if damage == "gone":
        (run.path / name).unlink()
    else:
        (run.path / name).write_bytes(content[:-2] if damage == "cut" else content.replace(b"9", b"8", 1))
    with Run.open(config(resume=True), []) as run:
        assert run.finished() is None
        assert name in caplog.text and "made anew" in caplog.text and len(caplog.records) == 1
        fill(run)
    assert (run.path / name).read_bytes() == content
    with Run.open(config(resume=True), []) as run:
        assert run.finished() is not None


def test_a_damaged_line_before_the_checkpoint_is_lost_alone_and_named(
    config: Callable[..., Config], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    interrupted(tmp_path, config, lines=4)
    file = tmp_path / "new" / "run" / "metrics.jsonl"
    file.write_text(file.read_text().replace('"epoch": 2', '"epoch": 7'))
    with Run.open(config(resume=True), []) as run:
        run.rewind(3)
        run.epoch({**LINE, "epoch": 4})
    assert [line["epoch"] for line in storage.read_lines(file).values() if line] == [1, 3, 4]
    assert "1 of its first 3 lines are damaged or missing" in caplog.text


@pytest.mark.parametrize("name", ["log.txt", "status.json", "metrics.jsonl", "checkpoints", "encoder"])
def test_nothing_is_written_through_a_link(name: str, config: Callable[..., Config], tmp_path: Path) -> None:
    interrupted(tmp_path, config)
    path, outside = tmp_path / "new" / "run" / name, tmp_path / "outside"
    path.unlink(missing_ok=True)
    path.symlink_to(outside)
    with pytest.raises(RunError, match=f"{name}: is a link"):
        Run.open(config(resume=True), []).__enter__()
    assert not outside.exists()


@pytest.mark.parametrize(("failing", "file"), [("metrics", "metrics.json"), ("epoch", "metrics.jsonl")])
def test_a_full_disk_is_a_failed_run_in_one_line(
    failing: str, file: str, config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        monkeypatch.undo()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(Failure) as raised, Run.open(config(), []) as run:
        monkeypatch.setattr(os, "fsync", full)
        getattr(run, failing)({**METRICS, "status": "finished"} if failing == "metrics" else LINE)
    assert str(raised.value) == f"{run.path / file}: No space left on device; go on with: recexp resume {run.path}"
    assert (status(run.path)["state"], status(run.path)["error"]) == ("failed", str(raised.value))
    assert "Traceback" in (run.path / "log.txt").read_text()


def test_a_status_that_cannot_be_written_ends_no_run_as_finished(
    config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(Failure, match=r"status\.json: No space left"), Run.open(config(), []) as run:
        run.metrics({**METRICS, "status": "finished"})
        monkeypatch.setattr(os, "fsync", full)
    assert status(run.path)["state"] == "running" and read_status(run.path)["state"] == "interrupted"


def test_a_signal_that_a_library_has_turned_into_an_error_is_still_a_signal(config: Callable[..., Config]) -> None:
    with pytest.raises(KeyboardInterrupt), Run.open(config(), []) as run:
        run.metrics({**METRICS, "status": "finished"})  # and the picture is being drawn
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise SystemError("returned a result with an exception set") from error
    assert status(run.path)["state"] == "interrupted"


def test_leftovers_of_a_killed_process_are_gone_once_a_run_goes_on(
    config: Callable[..., Config], tmp_path: Path
) -> None:
    interrupted(tmp_path, config)
    path = tmp_path / "new" / "run"
    (path / "checkpoints").mkdir()
    for folder in (path, path / "checkpoints"):
        (folder / ".last.json.0123456789abcdef.tmp").touch()
    (path / ".encoder.0123456789abcdef.tmp").mkdir()
    with Run.open(config(resume=True), []):
        assert not [*storage.leftovers(path), *storage.leftovers(path / "checkpoints")]


def test_a_damaged_status_does_not_stand_in_the_way(
    config: Callable[..., Config], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    interrupted(tmp_path, config)
    (tmp_path / "new" / "run" / "status.json").write_text("{")
    with Run.open(config(resume=True), []) as run:
        run.metrics({**METRICS, "status": "finished"})
    assert status(run.path)["state"] == "finished" and "status.json: damaged" in caplog.text
