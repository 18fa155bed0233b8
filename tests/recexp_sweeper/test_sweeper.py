"""The search from outside: `recexp -m` with hydra/sweeper=optuna, trained for real."""

import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna")

import optuna
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

from hydra_plugins.recexp_sweeper import _watch, sweeper
from recexp.cli import run
from recexp.error import ConfigError
from recexp.run.read import read_config, read_json
from recexp.run.status import read_status

TINY = ["-m", "+experiment=tiny", "model=fm", "trainer.threads=1", "run.dir=sweep", "hydra/sweeper=optuna",
        "hydra.sweeper.startup_trials=2"]  # fmt: skip
SPACE = ["trainer.learning_rate=tag(log,interval(1e-3,1e-1))"]
GRID = ["hydra.sweeper.sampler=grid"]


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def trials() -> list[Any]:
    return optuna.load_study(study_name="search", storage="sqlite:///sweep/study.db").trials


def directory(trial: Any) -> Path:
    return Path("sweep") / trial.user_attrs["directory"]


def states() -> list[tuple[str, str]]:
    """Of each trial and of its run."""
    return [(each.state.name, read_status(directory(each))["state"]) for each in trials()]


MISTAKES = {  # typed: what the one line must say
    "": ["nothing to search", "+sweep=din"],
    "model.dropout=interval(0,1) model=din": ["model.dropout = 1.0", "below 1"],
    "model.droput=interval(0,1) model=din": ["model.droput", "Did you mean 'model.dropout'?"],
    "model.embedding_dim=interval(8,32)": ["write int(interval(8,32))"],
    "trainer.learning_rate=tag(log,interval(0,1))": ["log scale"],
    "seed=interval(0,1)": ["write seed=0,1,2"],
    "x=interval(0,1": ["no viable alternative"],
    "+sweep=dinn": ["sweep = dinn", "Did you mean 'din'?"],
    "sweep=din": ["write +sweep=din"],
    "+sweep=fm hydra.sweeper.n_trial=3": ["Did you mean 'hydra.sweeper.n_trials'?"],
    "+sweep=fm hydra.sweeper.n_trials=0": ["hydra.sweeper.n_trials = 0", "1 or more"],
    "+sweep=fm hydra.sweeper.n_jobs=-1": ["hydra.sweeper.n_jobs = -1", "1 or more, or null"],
    "+sweep=fm hydra.sweeper.sampler=tpee": ["hydra.sweeper.sampler = tpee", "tpe, gp, random, grid"],
    "+sweep=fm hydra.sweeper.pruner.name=med": ["hydra.sweeper.pruner.name = med", "none, median, asha"],
    "+sweep=fm hydra.sweeper.pruner.reduction=1": ["hydra.sweeper.pruner.reduction = 1", "2 or more"],
    "+sweep=fm hydra.sweeper.storage=nope": ["hydra.sweeper.storage = nope"],
    "+sweep=fm hydra.sweeper.sampler=grid": ["model.embedding_l2", "lists and ranges"],
    "+sweep=fm hydra/sweeper=optun": ["hydra/sweeper = optun", "Did you mean 'optuna'?"],
    "+sweep=fm hydra/launcher=submitit_slur": ["hydra/launcher = submitit_slur", "Choices: basic"],
}


@pytest.mark.parametrize("typed", MISTAKES)
def test_mistake_is_one_line_with_exit_code_2_and_nothing_written(
    typed: str, empty: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run([*TINY, *typed.split()]) == 2
    told = capsys.readouterr()
    assert told.err.startswith("recexp: ") and told.err.count("\n") == 1, told.err
    for words in MISTAKES[typed]:
        assert words in told.err
    assert told.out == "" and list(empty.iterdir()) == []


def test_space_without_m_is_a_mistake(empty: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(["+sweep=din"]) == 2
    assert "write recexp -m +sweep=din" in capsys.readouterr().err and list(empty.iterdir()) == []


@pytest.mark.parametrize(("found", "told"), [(None, "is not installed"), ("3.6.2", "this is 3.6.2")])
def test_optuna_that_is_missing_or_old_is_one_line(
    found: str | None, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if found is None:
            raise PackageNotFoundError(name)
        return found

    monkeypatch.setattr(sweeper, "version", version)
    with pytest.raises(ConfigError, match=rf"{told}; pip install 'recexp\[optuna\]'"):
        sweeper._require_optuna()


def test_search_leaves_a_study_beside_the_runs_and_names_the_best(empty: Path, capsys: pytest.CaptureFixture) -> None:
    assert run([*TINY, *SPACE, "hydra.sweeper.n_trials=4", "hydra.launcher.n_jobs=2"]) == 0
    found = trials()
    assert states() == [("COMPLETE", "finished")] * 4
    for trial in found:
        metrics = read_json(directory(trial) / "metrics.json")
        assert trial.value == metrics["valid"]["auc"] and trial.user_attrs["test.auc"] == metrics["test"]["auc"]
        rate = read_config(directory(trial))["trainer"]["learning_rate"]
        assert rate == pytest.approx(trial.params["trainer.learning_rate"], rel=1e-5)
    best = max(found, key=lambda trial: trial.value)
    assert json.loads(Path("sweep/best.json").read_text())["value"] == best.value
    told = capsys.readouterr().out
    assert f"trainer.learning_rate={best.params['trainer.learning_rate']:.6g}" in told.split("4 trials: 4 complete")[1]


def test_best_trial_is_trained_again_by_the_command_it_is_given(empty: Path, capsys: pytest.CaptureFixture) -> None:
    assert run([*TINY, *SPACE, "hydra.sweeper.n_trials=2"]) == 0
    (command,) = re.findall(r"^recexp (.*)$", capsys.readouterr().out, re.MULTILINE)
    assert run([*command.split(), "run.dir=again"]) == 0
    best = json.loads(Path("sweep/best.json").read_text())["metrics"]
    again = read_json(Path("again/metrics.json"))
    assert (again["valid"], again["test"]) == (best["valid"], best["test"])


def test_job_that_fails_is_a_failed_trial_and_exit_code_1(empty: Path, capsys: pytest.CaptureFixture) -> None:
    broken = ["trainer.learning_rate=0.01,1e30,0.02", "trainer.optimizer=sgd", "trainer.clip_norm=null"]
    assert run([*TINY, *GRID, *broken]) == 1
    assert states() == [("COMPLETE", "finished"), ("FAIL", "failed"), ("COMPLETE", "finished")]
    assert "loss 'target' is nan" in trials()[1].user_attrs["error"]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "processes"])
def test_bad_trial_is_pruned_between_epochs_through_any_launcher(
    launcher: str, empty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(_watch, "LOOK_SECONDS", 0.01)
    pruner = [f"hydra.sweeper.pruner.{word}" for word in ("name=median", "startup_trials=1", "warmup_epochs=1")]
    epochs = ["trainer.epochs=80", "trainer.patience=null", f"hydra/launcher={launcher}"]
    assert run([*TINY, *GRID, *pruner, *epochs, "trainer.learning_rate=1e-2,1e-7"]) == 0
    assert states() == [("COMPLETE", "finished"), ("PRUNED", "pruned")]
    metrics = read_json(Path("sweep/1-fm-synthetic-s0/metrics.json"))
    assert metrics["status"] == "pruned" and metrics["epochs"] < 80 and metrics["test"] == {}
    assert json.loads(Path("sweep/best.json").read_text())["directory"] == "0-fm-synthetic-s0"
    told = capsys.readouterr().out
    assert "1 complete, 1 pruned" in told


@pytest.mark.slow
def test_search_given_again_goes_on_to_more_trials_and_leaves_the_first_alone(
    empty: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run([*TINY, *SPACE, "hydra.sweeper.n_trials=2"]) == 0
    before = {path: path.read_bytes() for path in Path("sweep").glob("[01]-*/*.*")}
    capsys.readouterr()
    assert run([*TINY, *SPACE, "hydra.sweeper.n_trials=3", "run.resume=true"]) == 0
    assert len(trials()) == 3 and before == {path: path.read_bytes() for path in before}
    assert run(["resume", "sweep"]) == 0
    assert len(trials()) == 3
    assert run([*TINY, *SPACE, "trainer.batch_size=64", "run.resume=true"]) == 2
    assert "trainer.batch_size is 64 here and 256" in capsys.readouterr().err


@pytest.mark.slow
def test_search_through_submitit(empty: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="recexp[slurm] is not installed")
    assert run([*TINY, *SPACE, "hydra/launcher=submitit_local", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=2",
                "hydra.launcher.timeout_min=2"]) == 0  # fmt: skip
    assert states() == [("COMPLETE", "finished")] * 2


def test_submitit_that_is_missing_is_one_line() -> None:
    from recexp.compose import one_line

    told = one_line(Exception("In 'hydra/config': Could not find 'hydra/launcher/submitit_slurm'\n\n"), [])
    assert str(told) == "hydra/launcher = submitit_slurm: is not installed; pip install 'recexp[slurm]'"


# Beside others


def test_other_hydra_programs_do_not_see_the_sweeper() -> None:
    Plugins.instance()
    assert "optuna.yaml" not in ConfigStore.instance().repo["hydra"]["sweeper"]


def test_released_optuna_sweeper_beside_it_changes_nothing(tmp_path: Path) -> None:
    """Its configuration has the same name."""
    plugin = tmp_path / "hydra_plugins" / "hydra_optuna_sweeper"
    plugin.mkdir(parents=True)
    (plugin / "__init__.py").write_text("")
    (plugin / "config.py").write_text(
        "from hydra.core.config_store import ConfigStore\n"
        "node = {'_target_': 'hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper'}\n"
        "ConfigStore.instance().store(group='hydra/sweeper', name='optuna', node=node, provider='optuna_sweeper')\n"
    )
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from recexp.cli import run; run(['+sweep=fm', '--cfg', 'hydra', '--package', 'hydra.sweeper'])\n"
        "assert 'hydra_plugins.hydra_optuna_sweeper.config' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "_target_: hydra_plugins.recexp_sweeper.sweeper.OptunaSweeper" in done.stdout


def test_start_imports_neither_optuna_nor_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from recexp.cli import run; run(['+sweep=fm', '--cfg', 'job'])\n"
        "assert 'hydra_plugins.recexp_sweeper.sweeper' in sys.modules\n"
        "assert not {'optuna', 'torch', 'pandas', 'sqlalchemy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
