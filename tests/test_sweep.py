"""Sweeps from outside: what `recexp -m` writes and prints, however its jobs end."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import recexp
from recexp.cli import run
from recexp.groups import conf_folder, options
from recexp.run.read import read_config, read_json
from recexp.run.status import read_status
from recexp.sweep.pool import Pool

SMOKE = ["-m", "+experiment=smoke", "model=fm"]
FAULTY = """
import os, signal, sys
from dataclasses import dataclass
from pathlib import Path

from recexp.layer.loss import bce
from recexp.model.fm import FM
from recexp.registry import register


@register("faulty")
class Faulty(FM):
    @dataclass(frozen=True, kw_only=True)
    class Config(FM.Config):
        fault: str

    def __init__(self, config, schema):
        super().__init__(config, schema)
        self.fault = config.fault

    def losses(self, output, batch):
        print("printed by", self.fault, os.environ.get("GIVEN"))
        if not Path("mended").exists():
            faults = {"exit": lambda: sys.exit(0), "vanish": lambda: os._exit(0), "raise": lambda: 1 / 0,
                      "kill": lambda: os.kill(os.getpid(), signal.SIGKILL), "wait": signal.pause}
            faults.get(self.fault, str)()
        return {"target": bce(output.logits, batch.label)}
"""
WITH_FAULTS = ["-m", "+experiment=smoke", "model=faulty", "plugins=[faulty.py]", "trainer.threads=1", "run.dir=sweep",
               "--config-dir", "mine"]  # fmt: skip


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def faulty(empty: Path) -> None:
    """A model whose option `fault` says how its training ends; none of that where a file `mended` lies beside it."""
    Path("faulty.py").write_text(FAULTY)
    Path("mine/model").mkdir(parents=True)
    text = (conf_folder() / "model/fm.yaml").read_text("utf-8").replace("name: fm", "name: faulty")
    Path("mine/model/faulty.yaml").write_text(text + "fault: none\n")


@pytest.fixture
def only_planned(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The directories that our launcher is handed, in a sweep that trains none of them."""
    handed: list[Path] = []
    monkeypatch.setattr(Pool, "run", lambda self, paths, *rest: handed.extend(paths))
    return handed


def jobs() -> list[Path]:
    return sorted(path.parent for path in Path("sweep").glob("*/config.yaml"))


def states() -> list[str]:
    return [(read_json(path / "status.json") or {"state": "missing"})["state"] for path in jobs()]


def rows() -> list[dict[str, str]]:
    with Path("sweep/sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_sweep_makes_a_directory_a_job_and_a_table_over_seeds(empty, capsys):
    assert run([*SMOKE, "seed=0,1", "model.embedding_dim=4,8", "run.dir=sweep"]) == 0
    assert [path.name for path in jobs()] == [
        "0-fm-synthetic-s0", "1-fm-synthetic-s0", "2-fm-synthetic-s1", "3-fm-synthetic-s1",
    ]  # fmt: skip
    assert sorted(path.name for path in Path("sweep").iterdir() if path.is_file()) == [
        "best.json", "sweep.csv", "sweep.yaml",
    ]  # fmt: skip
    metrics = [read_json(path / "metrics.json") for path in jobs()]
    lines = capsys.readouterr().out.splitlines()
    header = next(n for n, line in enumerate(lines) if line.startswith("setting"))
    assert " ".join(lines[header].split()) == "setting n valid auc test auc test gauc test logloss parameters seconds"
    expected = {}  # by the mean of valid: the beginning of a line
    for name, pair in (("=4", (0, 2)), ("=8", (1, 3))):
        cells = []
        for split in ("valid", "test"):
            a, b = (metrics[n][split]["auc"] for n in pair)
            cells.append(f"{(a + b) / 2:.4f} ± {abs(a - b) / 2**0.5:.4f}")
        expected[cells[0]] = f"model.embedding_dim{name}  2  {'  '.join(cells)}"
    for line, mean in zip(lines[header + 1 :], sorted(expected, reverse=True), strict=False):
        assert line.startswith(expected[mean])
    assert lines[-1] == "sweep"

    assert [(row["job"], row["model.embedding_dim"], row["seed"], row["status"]) for row in rows()] == [
        ("0", "4", "0", "finished"), ("1", "8", "0", "finished"),
        ("2", "4", "1", "finished"), ("3", "8", "1", "finished"),
    ]  # fmt: skip
    assert [float(row["test.auc"]) for row in rows()] == [job["test"]["auc"] for job in metrics]
    assert "experiment" not in rows()[0] and "model" not in rows()[0]

    best = read_json(Path("sweep/best.json"))
    valid = [job["valid"]["auc"] for job in metrics]
    setting = max(((0, 2), (1, 3)), key=lambda pair: valid[pair[0]] + valid[pair[1]])  # the best by its mean
    first = max(setting, key=lambda n: valid[n])
    assert best["setting"] == f"model.embedding_dim={4 if setting == (0, 2) else 8}" and best["seeds"] == 2
    assert best["directory"] == jobs()[first].name and best["metrics"] == metrics[first]
    assert best["config"] == read_config(jobs()[first])
    assert (Path("sweep") / best["checkpoint"]).is_file()


def test_however_a_job_ends_its_directory_says_so_and_the_others_go_on(faulty, capfd):
    faults = "none,exit,vanish,kill,raise,last"
    assert run([*WITH_FAULTS, f"model.fault={faults}", "hydra.launcher.n_jobs=2"]) == 1
    assert states() == ["finished", "failed", "failed", "interrupted", "failed", "finished"]
    assert [row["status"] for row in rows()] == states()
    assert [row["model.fault"] for row in rows()] == faults.split(",")
    errors = [read_status(path)["error"] for path in jobs()]
    assert (
        errors[1] == "SystemExit: 0" and "signal 9" in errors[3] and errors[4] == "ZeroDivisionError: division by zero"
    )
    assert "exit code 0" in errors[2]
    logs = [(path / "log.txt").read_text() for path in jobs()]
    assert 'faulty.py", line' in logs[4] and logs[4].count("Traceback") == 1
    assert all(f"printed by {fault}" in log for fault, log in zip(faults.split(","), logs, strict=True))
    printed = capfd.readouterr()
    assert "Traceback" not in printed.out + printed.err and "printed by" not in printed.out + printed.err
    assert "of 6 jobs 3 failed, 1 interrupted; run these with: recexp resume sweep" in printed.out
    assert "6/6  " in printed.out and "7/6" not in printed.out


def test_a_sweep_given_again_runs_what_has_not_ended_and_leaves_the_rest_as_it_was(faulty, tmp_path, monkeypatch):
    assert run([*WITH_FAULTS, "model.fault=none,raise,kill"]) == 1
    before = contents(jobs()[0])
    Path("mended").touch()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run(["resume", "../sweep"]) == 0
    assert Path.cwd().name == "elsewhere"
    monkeypatch.chdir(tmp_path)
    assert states() == ["finished"] * 3
    assert contents(jobs()[0]) == before
    done = contents(Path("sweep"))
    assert run([*WITH_FAULTS, "model.fault=none,raise,kill", "run.resume=true", "logger.name=none"]) == 0
    after = contents(Path("sweep"))
    assert {name: after[name] for name in done if "sweep.yaml" not in name} == {
        name: done[name] for name in done if "sweep.yaml" not in name
    }


def test_a_sweep_grows_by_jobs_that_were_not_in_it(empty, capsys):
    typed = [*SMOKE, "run.dir=sweep"]
    assert run([*typed, "seed=0"]) == 0
    assert run([*typed, "seed=0,1", "run.resume=true"]) == 0
    assert "1 of 2 jobs have ended before" in capsys.readouterr().out
    assert states() == ["finished", "finished"]
    assert yaml.safe_load(Path("sweep/sweep.yaml").read_text())["overrides"][-1] == "seed=0,1"


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_signal_interrupts_the_jobs_and_the_sweep_can_be_given_again(sent, code, faulty):
    typed = [*WITH_FAULTS, "model.fault=none,wait,last"]
    heeds = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"  # also in the background
    program = f"{heeds}; sys.argv = ['recexp', *{typed!r}]; from recexp.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: "printed by wait" in (Path("sweep/1-faulty-synthetic-s0/log.txt")).read_text(), process)
    process.send_signal(sent)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code and "Traceback" not in err
    if sent is not signal.SIGKILL:
        assert "of 3 jobs 1 interrupted, 1 missing" in out
        assert [row["status"] for row in rows()] == ["finished", "interrupted", "missing"]
    wait_for(lambda: states() == ["finished", "interrupted", "missing"])
    if sent is not signal.SIGKILL:
        return
    Path("mended").touch()
    assert run(["resume", "sweep"]) == 0
    assert states() == ["finished"] * 3
    assert len({json.dumps(read_json(path / "metrics.json")["test"]) for path in jobs()}) == 1  # one seed in all


def wait_for(fact, process=None):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (process is None or process.poll() is None):
        try:
            if fact():
                return
        except FileNotFoundError:
            pass
        time.sleep(0.02)
    raise AssertionError("it never came to be")


MISTAKES = {  # typed: what the error must say
    "trainer.learning_rate=0.1,-1": "trainer.learning_rate = -1.0: must be above 0",
    "trainer.learning_rate=0.1,-1 run.dir=new/sweep": "trainer.learning_rate = -1.0: must be above 0",
    "model=fm,dinn run.dir=new/sweep": "Did you mean 'din'?",
    "dataset=csv dataset.path=log.csv seed=0,1": "log.csv: no such file",
    "device=cpu,cuda:99": "device = cuda:99",
    "model=glob(zz*)": "a sweep of no jobs",
    "model=glob(zz*) run.dir=new/sweep": "a sweep of no jobs",
    "seed=0,1 hydra.launcher.n_jobs=0": "hydra.launcher.n_jobs = 0: must be 1 or more",
    "seed=0,1 hydra.launcher.jobs=2": "hydra.launcher.jobs",
    "seed=0,1 hydra/launcher=process": "processes",
    "seed=0,1 hydra.sweep.dir=mine": "the sweep's folder is run.dir=",
    "seed=0,1 run.dir=new/sweep run.resume=1": "run.resume = 1: must be true or false",
    "run.dir=a,b": "run.dir=a,b: a sweep has one folder",
    "seed=0,1 run.resume=true": "goes on with a sweep in run.dir",
    "seed=0,1 run.dir=[": "no viable alternative",
}


@pytest.mark.parametrize("typed", MISTAKES)
def test_a_mistake_in_any_job_is_told_before_the_first_starts(typed, empty, capsys, only_planned):
    assert run(["-m", "model=fm", *typed.split()]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("recexp: ") and err.count("\n") == 1 and MISTAKES[typed] in err, err
    assert out == "" and only_planned == []
    assert list(empty.rglob("*.*")) == [] and not Path("new/sweep").exists()


def test_a_folder_that_is_no_sweeps_or_other_jobs_is_a_mistake_and_stays_as_it_is(empty, capsys):
    typed = [*SMOKE, "trainer.threads=1"]
    assert run([*typed, "seed=0,1", "run.dir=sweep"]) == 0
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("precious")
    before = contents(empty)
    capsys.readouterr()
    for words, message in {
        "seed=0,1 run.dir=sweep": "run.dir = sweep: exists",
        "seed=0,1 run.dir=mine": "run.dir = mine: exists",
        "seed=0,1 run.dir=mine run.resume=true": "no sweep.yaml",
        "seed=0,1 run.dir=mine/notes.txt": "is a file",
        "seed=0,2 run.dir=sweep run.resume=true": "1-fm-synthetic-s1: seed is 2 here and 1 in the run",
        "seed=0,1 run.dir=sweep run.resume=true dataset.n_events=2000": "0-fm-synthetic-s0: dataset.n_events is 2000",
    }.items():
        assert run([*typed, *words.split()]) == 2
        assert message in (error := capsys.readouterr().err) and error.count("\n") == 1, error
        assert contents(empty) == before


def test_data_that_have_changed_since_are_a_mistake(empty, capsys):
    lines = [f"{n % 9},{n % 7},{n % 2},{n}\n" for n in range(200)]
    Path("log.csv").write_text("user,item,label,timestamp\n" + "".join(lines))
    typed = ["-m", "model=fm", "trainer.epochs=1", "dataset=csv", "dataset.path=log.csv", "dataset.cache_dir=cache",
             "seed=0,1", "run.dir=sweep"]  # fmt: skip
    assert run(typed) == 0
    assert len(list(Path("cache/prepared").iterdir())) == 1  # prepared once, no lock left
    Path("log.csv").write_text("user,item,label,timestamp\n" + "".join(lines[:-1]))
    assert run([*typed, "run.resume=true"]) == 2
    assert "was run on other data" in capsys.readouterr().err


def test_a_sweep_at_work_is_not_entered_by_another(empty, capsys):
    from recexp.sweep.folder import opened

    with opened("sweep", resume=False):
        assert run([*SMOKE, "seed=0,1", "run.dir=sweep", "run.resume=true"]) == 2
    assert "another process is at work" in capsys.readouterr().err


def test_the_cores_are_divided_and_the_configuration_of_a_job_alone_gives_its_figures(empty):
    assert run([*SMOKE, "seed=0,1", "hydra.launcher.n_jobs=2", "run.dir=sweep"]) == 0
    cores = len(os.sched_getaffinity(0))
    assert [read_config(path)["trainer"]["threads"] for path in jobs()] == [max(1, cores // 2)] * 2
    assert run([*SMOKE, "seed=0,1", "run.dir=sweep", "run.resume=true"]) == 0  # one at once: threads stay as they began
    from omegaconf import OmegaConf

    from recexp.validate import check

    raw = OmegaConf.create(read_config(jobs()[1]))
    raw.run.dir = "alone"
    recexp.train(check(raw))
    for name in ("predictions.parquet", "metrics.json"):
        job, alone = (Path(folder, name) for folder in (jobs()[1], "alone"))
        volatile = ("seconds", "samples_per_second", "peak_memory_mb")
        if name == "metrics.json":
            metrics = [
                {key: value for key, value in read_json(path).items() if key not in volatile} for path in (job, alone)
            ]
            assert metrics[0] == metrics[1]
        else:
            assert job.read_bytes() == alone.read_bytes()


@pytest.mark.parametrize("launcher", [[], ["hydra/launcher=basic"]], ids=["processes", "basic"])
def test_fail_fast_ends_a_sweep_at_its_first_failure(launcher, faulty, capsys):
    assert run([*WITH_FAULTS, "model.fault=raise,none,last", "run.fail_fast=true", *launcher]) == 1
    assert states() == ["failed", "missing", "missing"]
    assert "stopped at the first failure" in capsys.readouterr().out
    Path("mended").touch()
    assert run(["resume", "sweep"]) == 0


def test_fail_fast_interrupts_the_jobs_that_run(faulty):
    assert run([*WITH_FAULTS, "model.fault=wait,raise,none", "run.fail_fast=true", "hydra.launcher.n_jobs=2"]) == 1
    assert states() == ["interrupted", "failed", "missing"]


def test_hydras_own_launcher_runs_the_jobs_in_this_process(faulty, capsys):
    assert run([*WITH_FAULTS, "model.fault=none,exit,raise,last", "hydra/launcher=basic"]) == 1
    assert states() == ["finished", "failed", "failed", "finished"]
    assert [row["status"] for row in rows()] == states()
    assert "Traceback" in (jobs()[2] / "log.txt").read_text()
    assert "printed by last" in capsys.readouterr().out


@pytest.mark.parametrize(("launcher", "package"), [("joblib", "joblib"), ("submitit_local", "submitit")])
def test_a_job_that_is_killed_costs_other_launchers_no_result(launcher, package, faulty):
    pytest.importorskip(f"hydra_plugins.hydra_{package}_launcher")
    n_jobs = ["hydra.launcher.n_jobs=2"] if launcher == "joblib" else []
    assert run([*WITH_FAULTS, "model.fault=kill,last", f"hydra/launcher={launcher}", *n_jobs]) == 1
    assert states() == ["interrupted", "finished"]
    assert [row["status"] for row in rows()] == states()


def test_what_a_launcher_raises_is_told_and_the_jobs_are_read_all_the_same(faulty, capsys, monkeypatch):
    whole = Pool.run

    def breaks(self, paths, *rest):
        whole(self, paths[:1], *rest)
        raise OSError("the cluster is gone\nand so are you")

    monkeypatch.setattr(Pool, "run", breaks)
    assert run([*WITH_FAULTS, "model.fault=none,last"]) == 1
    assert states() == ["finished", "missing"]
    assert [row["status"] for row in rows()] == states()
    printed = capsys.readouterr()
    told = [line for line in printed.err.splitlines() if not line.startswith("WARNING: data:")]
    assert told == ["ERROR: Processes: OSError: the cluster is gone"]
    assert "of 2 jobs 1 missing; run these with: recexp resume sweep" in printed.out


def test_our_launcher_is_the_default_under_another_configuration_and_a_file_may_choose(
    empty, only_planned, monkeypatch
):
    Path("mine/experiment").mkdir(parents=True)
    other = yaml.safe_load((conf_folder() / "config.yaml").read_text("utf-8"))
    Path("mine/other.yaml").write_text(yaml.safe_dump(other))
    Path("mine/experiment/here.yaml").write_text("# @package _global_\ndefaults: [override /hydra/launcher: basic]\n")
    typed = [*SMOKE, "seed=0,1", "run.dir=sweep", "--config-dir", "mine", "-cn", "other"]
    assert run(typed) == 1  # as no job has run
    assert only_planned == [path.absolute() for path in jobs()]


def test_jobs_are_given_the_environment_that_hydra_sets(faulty):
    assert run([*WITH_FAULTS, "model.fault=none", "+hydra.job.env_set.GIVEN=so"]) == 0
    assert "printed by none so" in (jobs()[0] / "log.txt").read_text()


def test_a_job_may_speak_of_its_number(empty, only_planned):
    run([*SMOKE, "seed=7,8", "run.name=job${hydra:job.num}", "run.dir=sweep"])
    assert [path.name for path in jobs()] == ["0-job0", "1-job1"]


def test_smoke_sweeps_over_every_model_unless_others_are_named(empty, only_planned):
    run(["-m", "+experiment=smoke", "run.dir=sweep"])
    assert sorted(read_config(path)["model"]["name"] for path in jobs()) == options("model")
    only_planned.clear()
    run(["-m", "+experiment=smoke", "model=fm,din"])
    assert [read_config(path)["model"]["name"] for path in only_planned] == ["fm", "din"]
