"""A run killed within an epoch and resumed equals one never interrupted, to the bit: every model and stage."""

import os
import random
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from recorder import Recorder, Stopped, checkpoint, same, state
from torch import Tensor, nn

from recexp import registry
from recexp.config import Config
from recexp.dataset.batch import Batches
from recexp.dataset.prepare import load
from recexp.error import RunError, Terminated
from recexp.metric import scoring
from recexp.model import create, search_of
from recexp.trainer.default import Result, Trainer
from recexp.trainer.step import Step

CPU = torch.device("cpu")


class Run:
    """Trains the model of a configuration, always from the same weights."""

    def __init__(self, config: Config, data: Batches, schema: Any) -> None:
        self.config, self.data, self.schema = config, data, schema

    def fit(self, recorder: Recorder, seed: int = 0, **options: Any) -> tuple[Result, nn.Module]:
        chosen, trainer = self.config.model, replace(self.config.trainer, **options)
        torch.manual_seed(seed)
        model = create(chosen, self.schema)
        trained = Trainer(trainer, CPU, 0).fit(
            model, self.data, chosen.loss_weights, chosen.embedding_l2, recorder, chosen.optimizers
        )
        return trained, model


@pytest.fixture(scope="module")
def run(compose: Callable[..., Config]) -> Callable[..., Run]:
    @cache
    def run(*overrides: str) -> Run:
        config = compose(
            "trainer.epochs=2", "trainer.patience=null", "dataset.n_events=700", "trainer.batch_size=120", *overrides
        )
        dataset = load(config.dataset)
        search = search_of(create(config.model, dataset.schema))
        return Run(config, Batches(dataset, config.dataset, search=search), dataset.schema)

    return run


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """steps(7, call): from now on, `call` happens at the end of the seventh step; returns the list of steps taken."""
    update = Step.update

    def steps(last: int | None = None, call: Callable[[], None] = lambda: None) -> list[int]:
        taken: list[int] = []

        def counted(self: Step, norm: Tensor | None) -> None:
            update(self, norm)
            taken.append(len(taken) + 1)
            if taken[-1] == last:
                call()

        monkeypatch.setattr(Step, "update", counted)
        return taken

    return steps


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests lose no power."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def kill() -> None:
    raise Stopped


def assert_goes_on(run: Run, steps: Callable[..., list[int]], folder: Path, draw: random.Random) -> None:
    """Kills a run at a random step, resumes it twice, and compares it with a whole one."""
    recorder, killed = Recorder(folder / "whole"), Recorder(folder / "killed")
    taken = steps()
    wanted, model = run.fit(recorder)
    n_steps, n = len(taken), draw.randint(1, 3)
    every = f"{n}steps"
    kills = [draw.randint(n + 1, n_steps - 3), draw.randint(1, 3)] if n_steps else []  # none if all is fitted
    for last in kills:
        steps(last, kill)
        with pytest.raises(Stopped):
            run.fit(killed, checkpoint_every=every)
    taken = steps()
    found, resumed = run.fit(killed, seed=9 if kills else 0, checkpoint_every=every)
    assert len(taken) < n_steps or not kills
    assert killed.told == recorder.told
    assert same(state(resumed), state(model))
    assert (found.test, found.valid) == (wanted.test, wanted.valid)
    assert found.test_scores.logits.tobytes() == wanted.test_scores.logits.tobytes()
    assert (found.progress.best, found.progress.losses) == (wanted.progress.best, wanted.progress.losses)


@pytest.mark.parametrize("name", registry.names("model"))
def test_run_of_every_model_killed_at_a_random_step_goes_on_to_the_same_bits(
    name: str, run: Callable[..., Run], steps: Callable[..., list[int]], tmp_path: Path
) -> None:
    short = ["model.fm_epochs=2"] if name == "fnn" else []
    assert_goes_on(run(f"model={name}", *short), steps, tmp_path, random.Random(name))


VARIANTS = {
    "dropout and statistics of batches": ["model=din", "model.activation=dice", "model.dropout=0.3"],
    "sampled negatives": ["model=din", "dataset.label=implicit", "dataset.negatives=2", "model.history_labels=false"],
    "sampled items in a loss": ["model=dien", "model.auxiliary=sampled", "model.loss_weights.auxiliary=0.5"],
    "lazy adam": ["model=fm", "trainer.optimizer=lazy_adam", "trainer.sparse=true", "trainer.l2_rows=batch"],
    "sparse adagrad": ["model=deepfm", "trainer.optimizer=adagrad", "trainer.sparse=true", "trainer.l2_rows=batch"],
    "plain sgd": ["model=fm", "trainer.optimizer=sgd", "trainer.learning_rate=0.1"],
    "ftrl": ["model=linear", "trainer.optimizer=ftrl"],
    "reduction on plateaus": ["model=fm", "trainer.schedule=plateau", "trainer.learning_rate=1", "trainer.epochs=5"],
    "warm-up and decline": ["model=fm", "trainer.schedule=cosine", "trainer.warmup_steps=7", "trainer.optimizer=adamw"],
}


@pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS)
def test_run_goes_on_to_the_same_bits_with(
    overrides: list[str], run: Callable[..., Run], steps: Callable[..., list[int]], tmp_path: Path
) -> None:
    assert_goes_on(run(*overrides), steps, tmp_path, random.Random(overrides[-1]))


# Signals


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def fm(run: Callable[..., Run], tmp_path: Path) -> tuple[Run, Recorder, list[dict], dict[str, Tensor]]:
    """A run, a recorder for it, and the lines and weights of the whole run."""
    subject, recorder = run("model=fm"), Recorder(tmp_path / "whole")
    _, model = subject.fit(recorder)
    return subject, Recorder(tmp_path / "checkpoints"), recorder.told, state(model)


@pytest.mark.parametrize(("send", "raised"), [(interrupt, KeyboardInterrupt), (terminate, Terminated)])
@pytest.mark.parametrize("last", [1, 3, 5, 10])
def test_signal_ends_the_step_with_a_checkpoint(
    send: Callable[[], None], raised: type[BaseException], last: int, fm: Any, steps: Callable[..., list[int]]
) -> None:
    subject, recorder, lines, weights = fm
    taken = steps(last, send)
    with pytest.raises(raised):
        subject.fit(recorder, checkpoint_every=100)
    assert len(taken) == last
    saved = checkpoint(recorder.checkpoints, "last")[1]
    assert (saved["step"], saved["epoch"], saved["taken"]) == (last, (last - 1) // 5, (last - 1) % 5 + 1)
    steps()
    _, model = subject.fit(recorder, seed=9)
    assert recorder.told == lines and same(state(model), weights)


@pytest.mark.parametrize("call", [1, 2])
def test_signal_during_validation_loses_nothing(
    call: int, fm: Any, steps: Callable[..., list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, recorder, lines, weights = fm
    calls, score = [], scoring.score

    def interrupted(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            interrupt()
            raise AssertionError("validation goes on")
        return score(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(scoring, "score", interrupted)
        with pytest.raises(KeyboardInterrupt):
            subject.fit(recorder, checkpoint_every=100)
    taken = steps()
    _, model = subject.fit(recorder, seed=9)
    assert len(taken) == 10 - 5 * call
    assert recorder.told == lines and same(state(model), weights)


def test_signal_after_an_epoch_waits_until_it_is_recorded(fm: Any, steps: Callable[..., list[int]]) -> None:
    subject, recorder, lines, weights = fm
    recorder.then = lambda n: interrupt() if n == 1 else None
    with pytest.raises(KeyboardInterrupt):
        subject.fit(recorder, checkpoint_every=100)
    assert checkpoint(recorder.checkpoints, "last")[1]["epoch"] == len(recorder.lines) == 1
    taken = steps()
    _, model = subject.fit(recorder, seed=9)
    assert len(taken) == 5
    assert recorder.told == lines and same(state(model), weights)


def test_second_signal_stops_at_once(fm: Any, steps: Callable[..., list[int]]) -> None:
    subject, recorder, *_ = fm

    def twice() -> None:
        terminate()
        interrupt()
        raise AssertionError("training goes on")

    steps(3, twice)
    with pytest.raises(KeyboardInterrupt):
        subject.fit(recorder)
    assert not recorder.checkpoints.exists()


def test_handlers_are_as_before(fm: Any, steps: Callable[..., list[int]]) -> None:
    subject, recorder, *_ = fm
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    steps(2, interrupt)
    with pytest.raises(KeyboardInterrupt):
        subject.fit(recorder)
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


def test_ctrl_c_that_is_ignored_stays_so(fm: Any, steps: Callable[..., list[int]]) -> None:
    subject, recorder, lines, _ = fm
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        steps(2, interrupt)
        subject.fit(recorder)
    finally:
        signal.signal(signal.SIGINT, before)
    assert recorder.told == lines


def test_training_in_another_thread_leaves_signals_alone(fm: Any) -> None:
    subject, recorder, lines, _ = fm
    thread = threading.Thread(target=subject.fit, args=(recorder,))
    thread.start()
    thread.join()
    assert recorder.told == lines


# Which checkpoints


def test_checkpoints_of_another_run_are_refused(fm: Any) -> None:
    subject, recorder, *_ = fm
    subject.fit(recorder)
    recorder.identity = "another"
    with pytest.raises(RunError, match="belongs to another run"):
        subject.fit(recorder)


@pytest.mark.parametrize("lost", ["best-s0-e2-n10.safetensors", "last.json", "last-s0-e2-n10.safetensors"])
def test_damaged_checkpoint_changes_no_number(lost: str, fm: Any, caplog: pytest.LogCaptureFixture) -> None:
    subject, recorder, lines, weights = fm
    subject.fit(recorder)
    (recorder.checkpoints / lost).write_bytes(b"{}")
    _, model = subject.fit(recorder, seed=0)
    assert recorder.told == lines and same(state(model), weights)
    assert [lost in record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [True]


@pytest.mark.parametrize(("every", "seen"), [("3steps", [(0, 3), (1, 1), (1, 4), (2, 0)]), ("1min", [(2, 0)])])
def test_checkpoints_within_epochs_are_written_as_often_as_asked(
    every: str, seen: list[tuple[int, int]], fm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recexp.trainer.checkpoint import Checkpoints

    subject, recorder, *_ = fm
    found, save = [], Checkpoints.save_last

    def saved(self: Checkpoints, tensors: dict[str, Tensor], progress: Any) -> None:
        found.append((progress.epoch, progress.taken))
        save(self, tensors, progress)

    monkeypatch.setattr(Checkpoints, "save_last", saved)
    subject.fit(recorder, checkpoint_every=every)
    assert found == seen
