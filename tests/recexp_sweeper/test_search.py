"""A search through a launcher that trains nothing: it writes what a run of a known function would."""

import json
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna")

from hydra.core.override_parser.overrides_parser import OverridesParser

from hydra_plugins.recexp_sweeper import _space, _watch
from hydra_plugins.recexp_sweeper._closing import best_trial, count
from hydra_plugins.recexp_sweeper._options import Options, Pruner, PrunerOptions, Sampler
from hydra_plugins.recexp_sweeper._search import Search
from hydra_plugins.recexp_sweeper._watch import Job, Watch, directory
from recexp.config import Config
from recexp.error import ConfigError, DamagedFile, RunError

BEST = 0.3
CONFIG = """\
model: {name: fm}
dataset: {name: tiny}
trainer: {monitor: auc}
objective: null
seed: 0
"""
LINE = {"stage": "train", "losses": {}, "samples_per_second": 9.0}
METRICS = {"status": "finished", "best_epoch": 1, "epochs": 3, "parameters": 9, "seconds": 1.0,
           "samples_per_second": 9.0, "peak_memory_mb": 9.0, "train": {}}  # fmt: skip


def value(x: float) -> float:
    """At most 1, at BEST; of a uniform x the mean is 1 - (BEST^3 + (1 - BEST)^3) / 3 = 0.877."""
    return 1 - (x - BEST) ** 2


def curve(setting: dict[str, str]) -> list[float | None]:
    """Valid AUC after each of three epochs."""
    return [value(float(setting["x"])) - rest for rest in (0.2, 0.1, 0.0)]


class Killed(BaseException):
    """Stands for a kill of the whole search."""


class Fake:
    """Writes the run directories of a launcher's jobs; a curve that raises is a job that fails."""

    def __init__(self, folder: Path, curve: Callable[[dict[str, str]], Sequence[float | None]] = curve) -> None:
        self.folder, self.curve = folder, curve
        self.launched: list[tuple[int, list[str]]] = []
        self.killed_in: tuple[int, int] | None = None  # job, epoch
        self.metric, self.stage = "auc", {"stage": "train", "last_stage": True}

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> None:
        for number, words in enumerate(job_overrides, initial_job_idx):
            self.launched.append((number, list(words)))
            self.run(number, self.folder / f"{number}-fake", dict(word.split("=", 1) for word in words))

    def run(self, number: int, path: Path, setting: dict[str, str]) -> None:
        path.mkdir(exist_ok=True)
        (path / "config.yaml").write_text(CONFIG)
        if (path / "metrics.json").exists():
            return
        self.status(path, "running")
        try:
            values = self.curve(setting)
        except ValueError as error:
            return self.status(path, "failed", str(error))
        with (path / "metrics.jsonl").open("w") as file:
            for epoch, value in enumerate(values, 1):
                line = {**LINE, **self.stage, "epoch": epoch, "valid": {self.metric: value}}
                file.write(json.dumps(line) + "\n")
                file.flush()
                if self.killed_in == (number, epoch):
                    raise Killed
        best = max((value for value in values if value is not None), default=None)
        metrics = {**METRICS, "valid": {self.metric: best}, "test": {"auc": 0.5, "gauc": None}}
        (path / "metrics.json").write_text(json.dumps(metrics))
        self.status(path, "finished")

    def status(self, path: Path, state: str, error: str | None = None) -> None:
        status = {"state": state, "error": error, "pid": os.getpid(), "host": socket.gethostname()}
        (path / "status.json").write_text(json.dumps(status))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "sweep"


@pytest.fixture
def make(compose: Callable[..., Config], folder: Path) -> Callable[..., Search]:
    """make(launcher, n_trials=5): a search in x from 0 to 1."""

    def make(
        launcher: Any,
        *config: str,
        space: Sequence[str] = ("x=interval(0,1)",),
        job: Callable[[list[str]], Config] | None = None,
        pruner: Pruner = Pruner.none,
        **options: Any,
    ) -> Search:
        defaults = {"n_trials": 8, "n_jobs": 1, "sampler": Sampler.tpe, "startup_trials": 4, "seed": 0,
                    "storage": None, "study_name": None, "params": {}}  # fmt: skip
        pruning = PrunerOptions(name=pruner, startup_trials=2, warmup_epochs=2, reduction=2)
        typed = Options(**{**defaults, "pruner": pruning, **options})
        overrides = OverridesParser.create().parse_overrides(["model=fm", *space])
        fixed, spaces = _space.split(overrides)
        made = compose("model=fm", *config)
        given = job or (lambda words: made)
        return Search(typed, made, launcher.folder, fixed, spaces, given, launcher, _space.seeds(overrides))

    return make


def told(search: Search) -> list[tuple[dict[str, Any], str, float | None]]:
    """Parameters, state and value of each trial."""
    return [(each.params, each.state.name, each.value) for each in search.trials()]


def states(search: Search) -> list[str]:
    return [each.state.name for each in search.trials()]


# What is proposed


def test_tpe_draws_nearer_to_the_top_than_chance_does(make: Callable, folder: Path) -> None:
    search = make(Fake(folder), n_trials=30)
    search.run()
    last = [each.value for each in search.trials()[-10:]]
    assert 1 - sum(last) / 10 < (1 - 0.877) / 2
    assert best_trial(search.trials(), "auc").value > 1 - 1e-4  # the best of 30 by chance: 1 - 5e-4


@pytest.mark.parametrize(("objective", "direction", "best"), [("auc", "MAXIMIZE", 1), ("logloss", "MINIMIZE", 0)])
def test_direction_is_the_metrics_own(make: Callable, folder: Path, objective: str, direction: str, best: int) -> None:
    fake = Fake(folder, lambda setting: [float(setting["x"])])
    fake.metric = objective
    search = make(fake, f"objective={objective}", space=["x=0,0.5,1"], sampler=Sampler.grid)
    search.run()
    assert search.study.direction.name == direction
    assert best_trial(search.trials(), objective).params == {"x": f"{best}"}


@pytest.mark.slow
@pytest.mark.parametrize("sampler", [Sampler.tpe, Sampler.gp, Sampler.random])
def test_trials_depend_on_the_seed_alone(make: Callable, tmp_path: Path, sampler: Sampler) -> None:
    found = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        search = make(Fake(tmp_path / name), seed=seed, n_jobs=2, sampler=sampler, n_trials=6)
        search.run()
        found.append(told(search))
    assert found[0] == found[1] != found[2]


def test_grid_is_each_setting_once_and_no_more(make: Callable, folder: Path) -> None:
    search = make(Fake(folder), space=["x=0,0.5,1", "y=a,b"], sampler=Sampler.grid)
    search.run()
    assert [tuple(each.params.values()) for each in search.trials()] == [
        (x, y) for x in ("0", "0.5", "1") for y in "ab"
    ]
    with pytest.raises(ConfigError, match=r"n_trials = 5: the grid has 6 settings"):
        make(Fake(folder), space=["x=0,0.5,1", "y=a,b"], sampler=Sampler.grid, n_trials=5)


def test_trials_at_once_are_launched_together_under_numbers_without_gaps(make: Callable, folder: Path) -> None:
    batches = []
    fake = Fake(folder)
    launch = fake.launch
    fake.launch = lambda words, first: (batches.append((first, len(words))), launch(words, first))
    make(fake, n_jobs=3).run()
    assert batches == [(0, 3), (3, 3), (6, 2)]
    assert all(words[0] == "model=fm" and words[1].startswith("x=") for _, words in fake.launched)


# What becomes of a trial


def test_failures_and_missing_values_are_failed_trials_and_the_search_goes_on(make: Callable, folder: Path) -> None:
    def broken(setting: dict[str, str]) -> list[float | None]:
        if setting["x"] == "1":
            raise ValueError("loss 'target' is nan")
        return [None] if setting["x"] == "2" else [0.5]

    search = make(Fake(folder, broken), space=["x=0,1,2,3"], sampler=Sampler.grid)
    search.run()
    assert states(search) == ["COMPLETE", "FAIL", "FAIL", "COMPLETE"]
    errors = [each.user_attrs.get("error") for each in search.trials()]
    assert errors == [None, "loss 'target' is nan", "valid auc cannot be computed", None]


def test_combination_that_no_configuration_allows_is_a_failed_trial_and_no_job(make: Callable, folder: Path) -> None:
    def job(words: list[str]) -> Any:
        if "x=1" in words:
            raise ConfigError("x = 1: not with this.")

    fake = Fake(folder)
    search = make(fake, space=["x=0,1,2"], sampler=Sampler.grid, job=job, n_jobs=3)
    search.run()
    assert states(search) == ["COMPLETE", "FAIL", "COMPLETE"]
    assert [number for number, _ in fake.launched] == [0, 1]
    assert [each.user_attrs.get("job") for each in search.trials()] == [0, None, 1]


def test_test_figures_stand_beside_the_trial_and_choose_nothing(make: Callable, folder: Path) -> None:
    search = make(Fake(folder), n_trials=1)
    search.run()
    (trial,) = search.trials()
    assert trial.user_attrs == {
        "folder": str(folder), "job": 0, "directory": "0-fake", "state": "finished",
        "valid.auc": trial.value, "test.auc": 0.5,
    }  # fmt: skip


def test_job_that_left_nothing_is_a_failed_trial(make: Callable, folder: Path) -> None:
    fake = Fake(folder)
    fake.run = lambda number, path, setting: None
    search = make(fake, n_trials=2)
    search.run()
    assert [each.user_attrs["error"] for each in search.trials()] == ["left no directory"] * 2


# Several seeds


def by_seed(setting: dict[str, str]) -> list[float | None]:
    """One seed alone prefers x=1, the mean over both x=0."""
    return [{("0", "0"): 0.7, ("0", "1"): 0.8, ("1", "0"): 0.9, ("1", "1"): 0.5}[setting["x"], setting["seed"]]]


def test_a_trial_runs_with_every_seed_and_its_value_is_their_mean(make: Callable, folder: Path) -> None:
    fake = Fake(folder, by_seed)
    search = make(fake, space=["x=0,1", "seed=0,1,0"], sampler=Sampler.grid)
    search.run()
    assert [(number, words[1:]) for number, words in fake.launched] == [
        (0, ["x=0", "seed=0"]), (1, ["x=0", "seed=1"]), (2, ["x=1", "seed=0"]), (3, ["x=1", "seed=1"]),
    ]  # fmt: skip
    assert [(each.params, each.value) for each in search.trials()] == [
        ({"x": "0"}, pytest.approx(0.75)), ({"x": "1"}, pytest.approx(0.7)),
    ]  # fmt: skip
    assert best_trial(search.trials(), "auc").params == {"x": "0"}
    assert [each.user_attrs["job"] for each in search.trials()] == [0, 2]


def test_a_trial_of_which_one_seed_fails_has_failed_and_is_run_again_whole(make: Callable, folder: Path) -> None:
    def broken(setting: dict[str, str]) -> list[float | None]:
        if setting["seed"] == "1":
            raise ValueError("out of memory")
        return [0.5]

    space = {"space": ["x=0,1", "seed=range(2)"], "sampler": Sampler.grid, "n_jobs": 4}
    search = make(Fake(folder, broken), **space)
    search.run()
    assert states(search) == ["FAIL", "FAIL"]
    mended = Fake(folder, by_seed)
    search = make(mended, **space)
    search.run()
    assert [number for number, _ in mended.launched] == [0, 1, 2, 3]
    assert count(search.trials()) == "2 trials: 2 complete"
    with pytest.raises(RunError, match=r"seed is 0,2 here and 0,1 in the study"):
        make(mended, space=["x=0,1", "seed=0,2"], sampler=Sampler.grid)


def test_seeds_are_no_interval_and_are_not_pruned(make: Callable, folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"write seed=0,1,2"):
        make(Fake(folder), space=["x=0,1", "seed=int(interval(0,9))"])
    with pytest.raises(ConfigError, match=r"pruner\.name = median: .* one for each seed"):
        make(Fake(folder), space=["x=0,1", "seed=0,1"], pruner=Pruner.median)


# Pruning


def halves(setting: dict[str, str]) -> list[float]:
    """Ten epochs: good below 0.5, bad above."""
    return [0.5 + epoch / 100 + (0.2 if float(setting["x"]) < 0.5 else 0.0) for epoch in range(10)]


def test_trial_is_pruned_where_the_pruner_first_says_so_however_far_its_run_went(make: Callable, folder: Path) -> None:
    search = make(Fake(folder, halves), space=["x=0,0.1,0.9,0.2"], sampler=Sampler.grid, pruner=Pruner.median)
    search.run()
    assert states(search) == ["COMPLETE", "COMPLETE", "PRUNED", "COMPLETE"]
    pruned = search.trials()[2]
    assert pruned.intermediate_values == {1: 0.5, 2: 0.51} and pruned.value == 0.51
    assert not list(folder.glob("*/stop"))  # all had come to their end
    assert best_trial(search.trials(), "auc").number == 0


def test_asha_lets_the_better_half_go_on(make: Callable, folder: Path) -> None:
    search = make(Fake(folder, halves), space=["x=0,0.9,0.1,0.8"], sampler=Sampler.grid, pruner=Pruner.asha)
    search.run()
    assert [states(search)[number] for number in (1, 3)] == ["PRUNED", "PRUNED"]
    assert states(search)[0] == "COMPLETE"


@pytest.fixture
def running(make: Callable, folder: Path) -> tuple[Watch, Path, Fake]:
    """A watch over a bad trial after two good ones, the directory of its job, and who writes there."""
    fake = Fake(folder, halves)
    search = make(fake, space=["x=0,0.1,0.9"], sampler=Sampler.grid, pruner=Pruner.median)
    for _ in range(2):
        search._launch(search._next())
    (job,) = search._next()
    path = folder / f"{job.number}-fake"
    path.mkdir()
    return Watch([job], folder, "auc"), path, fake


def write(path: Path, epochs: int, **stage: Any) -> None:
    lines = [
        json.dumps({**LINE, "last_stage": True, "epoch": epoch, "valid": {"auc": 0.5}, **stage}) + "\n"
        for epoch in range(1, epochs + 1)
    ]
    (path / "metrics.jsonl").write_text("".join(lines))


def test_stop_is_left_after_the_epoch_that_the_pruner_judges(running: tuple[Watch, Path, Fake]) -> None:
    watch, path, _ = running
    for epochs, stopped in ((0, False), (1, False), (2, True)):
        write(path, epochs)
        watch.look()
        assert (path / "stop").exists() is stopped
    assert watch.pruned == {2}


def test_epochs_of_earlier_stages_are_not_judged(running: tuple[Watch, Path, Fake]) -> None:
    watch, path, _ = running
    write(path, 9, last_stage=False)
    watch.look()
    assert watch.reported == {2: 0} and not (path / "stop").exists()


def test_running_job_sees_its_stop_file(running: tuple[Watch, Path, Fake], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_watch, "LOOK_SECONDS", 0.01)
    watch, path, _ = running
    with watch:
        write(path, 2)
        while not (path / "stop").exists():  # as a run looks for it, between its epochs
            watch._over.wait(0.01)
    assert watch.pruned == {2}


def test_what_breaks_the_watch_is_raised(running: tuple[Watch, Path, Fake], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_watch, "LOOK_SECONDS", 0.01)
    watch, path, _ = running
    (path / "metrics.jsonl").mkdir()
    with pytest.raises(DamagedFile, match=r"metrics\.jsonl"), watch:
        watch._watching.exception(timeout=60)


# Interrupted and resumed


@pytest.mark.slow
@pytest.mark.parametrize(("job", "epoch", "n_jobs"), [(0, 1, 1), (5, 3, 1), (4, 2, 3)])
def test_search_killed_and_given_again_is_the_search_that_was_not(
    make: Callable, tmp_path: Path, job: int, epoch: int, n_jobs: int
) -> None:
    whole = make(Fake(tmp_path / "whole"), n_jobs=n_jobs, pruner=Pruner.median)
    whole.run()
    killed = Fake(tmp_path / "killed")
    killed.killed_in = (job, epoch)
    with pytest.raises(Killed):
        make(killed, n_jobs=n_jobs, pruner=Pruner.median).run()
    again = Fake(tmp_path / "killed")
    resumed = make(again, n_jobs=n_jobs, pruner=Pruner.median)
    resumed.run()
    assert told(resumed) == told(whole) and len(told(whole)) == 8
    assert (job, dict(killed.launched)[job]) in again.launched
    assert [each.intermediate_values for each in resumed.trials()] == [
        each.intermediate_values for each in whole.trials()
    ]


def test_finished_search_given_again_runs_nothing_and_may_be_made_longer(make: Callable, folder: Path) -> None:
    make(Fake(folder), n_trials=3).run()
    again, longer = Fake(folder), Fake(folder)
    make(again, n_trials=3).run()
    assert again.launched == []
    make(longer, n_trials=5).run()
    assert [number for number, _ in longer.launched] == [3, 4]


def test_trial_that_was_killed_before_it_became_a_job_has_failed(make: Callable, folder: Path) -> None:
    fake = Fake(folder)
    first = make(fake, n_trials=1)
    first.run()
    first.study.ask(first.space)
    search = make(fake, n_trials=3)
    search.run()
    assert states(search) == ["COMPLETE", "FAIL", "COMPLETE"] and [number for number, _ in fake.launched] == [0, 1]


def test_failed_trials_are_run_again_when_the_search_is_given_again(make: Callable, tmp_path: Path) -> None:
    def broken(setting: dict[str, str]) -> list[float | None]:
        if float(setting["x"]) > 0.5:
            raise ValueError("out of memory")
        return curve(setting)

    first = make(Fake(tmp_path / "broken", broken), n_jobs=2)
    first.run()
    failed = [each.user_attrs["job"] for each in first.trials() if each.state.name == "FAIL"]
    assert failed
    mended = Fake(tmp_path / "broken")
    search = make(mended, n_jobs=2)
    search.run()
    assert [number for number, _ in mended.launched] == failed
    assert count(search.trials()) == "8 trials: 8 complete"
    again = Fake(tmp_path / "broken")
    make(again, n_jobs=2).run()
    assert again.launched == []


def test_verdict_that_an_earlier_process_did_not_live_to_carry_out_is_carried_out(
    running: tuple[Watch, Path, Fake], folder: Path
) -> None:
    watch, path, _ = running
    (job,) = watch.jobs
    for epoch in (1, 2):
        job.trial.report(0.5, epoch)
    resumed = Watch([Job(job.number, job.trial, job.words, reported=2)], folder, "auc")
    with resumed:
        assert (path / "stop").exists()
    assert resumed.pruned == {2} and directory(folder, 2) == path


def test_study_goes_on_as_it_began(make: Callable, folder: Path) -> None:
    make(Fake(folder), n_trials=1).run()
    with pytest.raises(RunError, match=r"trainer\.batch_size is 64 here and 256 in the study"):
        make(Fake(folder), "trainer.batch_size=64")
    with pytest.raises(RunError, match="study search: x is "):
        make(Fake(folder), space=["x=interval(0,2)"])
    with pytest.raises(RunError, match="objective is logloss here and auc in the study"):
        make(Fake(folder), "objective=logloss")
    make(Fake(folder), "trainer.threads=2", "device=auto")


# Storage


def test_searches_in_one_study_share_its_trials_and_keep_their_folders(make: Callable, tmp_path: Path) -> None:
    shared = {"storage": f"sqlite:///{tmp_path / 'shared.db'}", "study_name": "both"}
    one, other = Fake(tmp_path / "one"), Fake(tmp_path / "other")
    make(one, n_trials=3, **shared).run()
    one.killed_in = (3, 1)
    with pytest.raises(Killed):
        make(one, n_trials=4, **shared).run()
    search = make(other, n_trials=6, **shared)
    search.run()
    assert [number for number, _ in other.launched] == [0, 1]
    assert states(search) == [*["COMPLETE"] * 3, "RUNNING", *["COMPLETE"] * 2]
    assert count(search.trials()) == "6 trials: 5 complete, 1 running elsewhere"


@pytest.mark.parametrize("storage", ["nope", "sqlite:////nowhere/at/all.db", "redis://localhost"])
def test_storage_that_cannot_be_opened_is_a_mistake(make: Callable, folder: Path, storage: str) -> None:
    with pytest.raises(ConfigError, match=r"hydra\.sweeper\.storage = ") as error:
        make(Fake(folder), storage=storage)
    assert "\n" not in str(error.value)
