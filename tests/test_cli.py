"""The command line from outside: what it prints, what it writes, how it exits."""

import errno
import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import recexp
from recexp import registry, storage
from recexp.cli import run
from recexp.compose import compose, model_file
from recexp.error import Terminated
from recexp.groups import conf_folder
from recexp.run import picture, result
from recexp.validate import check
from recexp.verb import VERBS, load
from recexp.verb.help import help_text

SMOKE = ["+experiment=smoke", "model=fm", "trainer.threads=1"]


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def python(code: str, folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120)


MISTAKES = {  # typed: what the one line must say
    "model=dinn": ["model = dinn", "Did you mean 'din'?", "Choices: afm, als, als_mlp, autoint, bert4rec, bpr_mf, bst"],
    "modle=din": ["Did you mean 'model'?"],
    "trainer.epoch=5": ["trainer.epoch=5", "Did you mean 'trainer.epochs'?"],
    "+trainer.epoch=5": ["trainer.epoch", "Did you mean 'epochs'?"],
    "+foo=1": ["foo: unknown key"],
    "+model.foo=1": ["model.foo: unknown key", "embedding_dim"],
    "+dataset.foo=1": ["dataset.foo: unknown key", "max_history"],
    "trainer.epochs=x": ["trainer.epochs = x", "Integer"],
    "trainer.epochs=0": ["trainer.epochs = 0: must be 1 or more"],
    "trainer.optimizer=adamm": ["trainer.optimizer = adamm", "adam, adamw, sgd, adagrad, lazy_adam"],
    "trainer.optimizer=lazy_adam trainer.sparse=false": ["trainer.sparse=false forbids"],
    "trainer.optimizer=sgd trainer.sparse=true": ["trainer.l2_rows = all", "sgd by row", "trainer.l2_rows=batch"],
    "trainer.monitor=au": ["trainer.monitor = au", "Did you mean 'auc'?"],
    "objective=au": ["objective = au", "Did you mean 'auc'?"],
    "model.embedding_dim=-1": ["model.embedding_dim = -1: must be 1 to 65536"],
    "model.loss_weights.target=-1": ["model.loss_weights.target = -1", "0 or more"],
    "+model.loss_weights.axiliary=1": ["Did you mean 'auxiliary'?"],
    "model.gru_type=agruu": ["model.gru_type = agruu", "augru, agru, aigru"],
    "~model.dropout": ["model.dropout: has no value"],
    "model=[din,dien]": ["takes one choice", "-m model=din,dien"],
    "device=cuda:99": ["device = cuda:99", "Choices: auto, cpu"],
    "device=gpu": ["device = gpu", "auto, cpu, cuda or cuda:N"],
    "seed=-1": ["seed = -1", "0 or more"],
    "seed=one": ["seed = one", "integer"],
    "dataset=csv": ["dataset.path", "dataset.path=FILE"],
    "dataset.split.kind=last": ["dataset.split.kind = last", "leave_last_out"],
    "dataset.split.ratios=[1,2]": ["dataset.split.ratios", "three shares"],
    "dataset.split.ratios=[0.5,0,0.5]": ["trainer.patience = 4: needs validation rows", "set trainer.patience=null"],
    "dataset.split.ratios=[0.5,0,0.5] trainer.patience=null trainer.schedule=plateau": ["trainer.schedule = plateau"],
    "dataset.history=liked": ["model.history_labels = true", "dataset.history is liked"],
    "model=als dataset.label=implicit": ["model.feedback = explicit", "set model.feedback=implicit"],
    "dataset.label=implicit": ["model.history_labels = true", "dataset.label is implicit"],
    "dataset.features.user.height=numeric": ["+dataset.features.user.height=numeric"],
    "+dataset.features.user.height=numeric": ["features.user.height: no such column", "age, segment"],
    "plugins=[mine.py]": ["plugins = mine.py: no such file"],
    "+experiment=nope": ["experiment = nope", "smoke"],
    "model.hidden_sizes=[1": ["no viable alternative"],
    "trian": ["trian: no such verb"],
    "experiment=smoke": ["write +experiment=smoke"],
    "sweep=din": ["write +sweep=din"],
}


@pytest.mark.parametrize("typed", MISTAKES)
def test_a_mistake_is_one_line_with_exit_code_2_and_nothing_written(typed, empty, capsys):
    assert run(typed.split()) == 2
    told = capsys.readouterr()
    assert told.err.startswith("recexp: ") and told.err.count("\n") == 1, told.err
    for words in MISTAKES[typed]:
        assert words in told.err
    assert told.out == ""
    assert list(empty.rglob("*.*")) == []


@pytest.mark.parametrize(
    "typed",
    [
        "resume",
        "resume nope",
        "reproduce nope",
        "show",
        "show nope",
        "runs nope",
        "explain",
        "explain trainer.epoch",
        "models dinn",
    ],
)
def test_a_mistake_after_a_verb_is_one_line_too(typed, empty, capsys):
    assert run(typed.split()) == 2
    told = capsys.readouterr().err
    assert told.startswith("recexp: ") and told.count("\n") == 1, told


def test_full_error_adds_the_traceback(empty, capsys, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    assert run(["trainer.epochs=0"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_help_and_what_is_checked_first_import_no_torch(tmp_path):
    lines = ["--help", "trainer.epochs=0", "model=dinn", "+model.foo=1", "+trainer.foo=1", "dataset=csv"]
    done = python(
        "import sys; from recexp.cli import run\n"
        f"for typed in {lines}:\n"
        "    run([typed])\n"
        "    assert not {'torch', 'pandas'} & sys.modules.keys(), typed",
        tmp_path,
    )
    assert done.returncode == 0 and done.stderr.count("recexp: ") == len(lines) - 1, done.stderr


def test_help_imports_nothing_heavy(tmp_path):
    done = python(
        "import sys; from recexp.cli import run\n"
        f"for typed in [['--help'], *([verb, '--help'] for verb in {list(VERBS)})]:\n"
        "    assert run(typed) == 0\n"
        "    heavy = {'torch', 'pandas', 'numpy', 'scipy', 'hydra', 'omegaconf'} & sys.modules.keys()\n"
        "    assert not heavy, (typed, heavy)",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr


def test_the_package_runs_as_a_module(tmp_path):
    for typed in (["--help"], ["-m", *SMOKE, "seed=0,1", "run.dir=sweep"]):
        done = subprocess.run([sys.executable, "-m", "recexp", *typed], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("sweep/*/metrics.json"))) == 2


def test_every_verb_is_a_file_with_its_arguments():
    files = {path.stem for path in Path(recexp.verb.__file__).parent.glob("*.py")}
    assert files - {"__init__", "help", "options"} == set(VERBS)
    for verb in VERBS:
        assert {"USAGE", "HELP", "OPTIONS", "run"} <= vars(load(verb)).keys()


@pytest.mark.slow
def test_type_checkers_see_the_notebooks_functions(tmp_path):
    from mypy import api

    lines = "\n".join(f"reveal_type(recexp.{name})" for name in recexp.__all__)
    (tmp_path / "notebook.py").write_text(f"import recexp\n{lines}\n")
    package = Path(recexp.__file__).parent
    names = ("__init__", "compose/__init__", "experiment", "process", "registry", "run/record")  # enough for this
    flags = ["--follow-imports=skip", "--ignore-missing-imports", "--explicit-package-bases", f"--cache-dir={tmp_path}"]
    files = [str(package / f"{name}.py") for name in names]
    told, error, _ = api.run([*flags, *files, str(tmp_path / "notebook.py")])
    revealed = re.findall(r'Revealed type is "(.*)"', told)
    assert len(revealed) == len(recexp.__all__), told + error
    assert all(kind.startswith(("def (", "def [")) for kind in revealed), revealed
    assert (package / "py.typed").is_file()


def test_importing_the_package_imports_no_torch(tmp_path):
    assert python("import sys, recexp; assert 'torch' not in sys.modules", tmp_path).returncode == 0


def test_help_names_every_group_verb_and_choice(capsys):
    assert run(["--help"]) == 0
    told = capsys.readouterr().out
    assert told == help_text()
    for word in (
        "model ",
        "dataset ",
        "trainer ",
        "experiment ",
        "dien",
        "ml-100k",
        "smoke",
        "resume RUN",
        "explain KEY",
    ):
        assert word in told


def test_a_run_fills_its_directory_and_leaves_the_working_directory_alone(empty, capsys):
    assert run([*SMOKE, "run.dir=a/b"]) == 0
    assert Path.cwd() == empty
    assert [path.name for path in empty.iterdir()] == ["a"]
    found = {str(path.relative_to("a/b")) for path in Path("a/b").rglob("*") if path.is_file()}
    tensors = {name for name in found if name.endswith(".safetensors")}
    encoder = {name for name in found if name.startswith("encoder/")}
    assert len(tensors) == 2
    assert {"encoder/dataset.json", "encoder/encoder.json", "encoder/item.npy", "encoder/users.raw.npy"} <= encoder
    assert found - tensors - encoder == {
        "config.yaml", "overrides.yaml", "environment.json", "status.json", "metrics.jsonl", "metrics.json",
        "predictions.parquet", "checkpoints/best.json", "checkpoints/last.json", "curves.png", "log.txt",
    }  # fmt: skip
    told = capsys.readouterr().out
    assert "oracle" in told and told.strip().endswith("a/b")


@pytest.mark.parametrize("typed", [[], ["run.dir=new/runs/a"], ["-m", "seed=0,1"], ["-m", "seed=0,1", "run.dir=new/a"]])
def test_a_mistake_in_the_data_leaves_nothing_behind(typed, empty, capsys):
    assert run([*typed, "model=fm", "dataset=csv", "dataset.path=log.csv", "dataset.cache_dir=null"]) == 2
    assert "log.csv: no such file" in capsys.readouterr().err
    assert list(empty.iterdir()) == []


def test_runs_of_one_second_get_directories_of_their_own(empty):
    for _ in range(3):
        assert run(SMOKE) == 0
    assert len(list(Path("outputs").glob("*/*-fm-synthetic-s0*"))) == 3


def test_a_taken_run_dir_is_a_mistake_and_stays_as_it_is(empty, capsys):
    Path("taken").mkdir()
    Path("taken/mine.txt").write_text("precious")
    assert run([*SMOKE, "run.dir=taken"]) == 2
    assert "run.resume=true" in capsys.readouterr().err
    assert [path.name for path in Path("taken").iterdir()] == ["mine.txt"]


def test_resuming_with_another_configuration_is_a_mistake_that_names_the_key(empty, capsys):
    assert run([*SMOKE, "run.dir=a"]) == 0
    assert run([*SMOKE, "run.dir=a", "run.resume=true", "trainer.batch_size=64"]) == 2
    assert "trainer.batch_size is 64 here and 256 in the run" in capsys.readouterr().err


def test_the_chapter_names_models_that_there_are():
    chapter = yaml.safe_load((conf_folder() / "experiment/chapter.yaml").read_text("utf-8"))
    models = chapter["hydra"]["sweeper"]["params"]["model"].split(",")
    assert len(set(models)) == len(models) == 20 and set(models) <= set(registry.names("model"))


def test_the_line_up_of_next_items_is_every_model_that_this_trainer_takes():
    line_up = yaml.safe_load((conf_folder() / "experiment/next_item.yaml").read_text("utf-8"))
    models = line_up["hydra"]["sweeper"]["params"]["model"].split(",")
    kinds = {name: registry.get("model", name) for name in registry.names("model")}
    learns = {name for name, kind in kinds.items() if hasattr(kind, "states") or hasattr(kind, "pairs")}
    taken = [name for name, kind in kinds.items() if name in learns or not kind.Config.trained]
    assert sorted([*models, "als"]) == taken  # als is fitted to labels, unless model.feedback=implicit


VARIANTS = sorted(path.stem for path in (conf_folder() / "experiment/variants").glob("*.yaml"))


@functools.cache
def plain(model):
    return compose([f"model={model}"])[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_variant_is_called_by_its_model_and_differs_from_it(name):
    raw, folders = compose([f"+experiment/variants={name}"])
    check(raw, model_file(raw, folders))
    assert name.startswith(raw.model.name)
    model = plain(raw.model.name)
    assert raw.model != model.model or raw.dataset.features != model.dataset.features


def test_hydra_shows_the_configuration(empty, capsys):
    assert run(["--cfg", "job", "--resolve", "model=din"]) == 0
    told = capsys.readouterr().out
    assert "attention_hidden_sizes:" in told and "name: din" in told


def test_flags_may_stand_before_and_after_overrides(empty, capsys):
    Path("mine/model").mkdir(parents=True)
    Path("mine/model/small.yaml").write_text("defaults: [fm]\nembedding_dim: 2\n")
    for typed in (["--config-dir", "mine", *SMOKE, "model=small"], [*SMOKE, "model=small", "--config-dir", "mine"]):
        assert run(typed) == 0
    assert all("embedding_dim: 2" in path.read_text() for path in Path("outputs").rglob("config.yaml"))


def test_completion_lists_what_can_follow(tmp_path):
    environment = {**os.environ, "COMP_LINE": "recexp model=di", "COMP_POINT": "15", "COMP_CWORD": "1"}
    code = "import sys; sys.argv = ['recexp', '-sc', 'query=bash']; from recexp.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
    assert done.stdout.split() == ["model=dien", "model=din"], done.stderr


def test_explain_names_the_file_and_the_override_that_set_a_key(empty, capsys):
    assert run(["explain", "trainer.epochs", "model=din", "trainer.epochs=7"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "trainer.epochs = 7"
    assert told[1] == "  set by override trainer.epochs=7"
    assert told[2].endswith("conf/trainer/default.yaml")
    assert run(["explain", "dataset.n_users", "+experiment=smoke"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "dataset.n_users = 100" and told[1].endswith("experiment/tiny.yaml")
    assert run(["explain", "model.loss_weights", "model.loss_weights={target:2}"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[:2] == ["model.loss_weights.target = 2", "  set by override model.loss_weights={target:2}"]
    assert run(["explain", "model.optimizers", "model=wide_deep", "model.optimizers={}"]) == 0
    assert capsys.readouterr().out == "model.optimizers = {}\n  set by override model.optimizers={}\n"
    assert run(["explain", "model.loss_weights", "~model.loss_weights.auxiliary"]) == 0
    assert "auxiliary" not in capsys.readouterr().out


def test_models_and_datasets_list_all_and_the_options_of_one(empty, capsys):
    assert run(["models"]) == 0
    assert "dien" in capsys.readouterr().out
    assert run(["models", "din"]) == 0
    told = capsys.readouterr().out
    assert "model.attention_hidden_sizes" in told and "[64, 32]" in told and "authors' code: 80-40" in told
    assert run(["datasets", "csv"]) == 0
    assert "dataset.columns.user" in capsys.readouterr().out


def test_runs_and_show_read_what_a_run_wrote(empty, capsys):
    assert run([*SMOKE, "run.dir=a"]) == 0
    capsys.readouterr()
    assert run(["runs", "."]) == 0
    assert "finished" in capsys.readouterr().out
    assert run(["show", "a"]) == 0
    told = capsys.readouterr().out
    assert "a: finished" in told and "embedding_dim: 16" in told and "best epoch 1 of 1" in told


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_the_run_interrupted_and_resumable(sent, code, empty):
    typed = [*SMOKE, "run.dir=a", "trainer.epochs=2000", "trainer.patience=null"]
    heeds = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"  # also in the background
    command = [
        sys.executable,
        "-c",
        f"{heeds}; sys.argv = ['recexp', *{typed!r}]; from recexp.cli import main; main()",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not Path("a/checkpoints/last.json").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(sent)
    assert process.wait(60) == code
    assert "Traceback" not in process.stderr.read()
    assert json.loads(Path("a/status.json").read_text())["state"] == "interrupted"
    epochs = json.loads(Path("a/checkpoints/last.json").read_text())["progress"]["epoch"]
    assert 1 <= epochs < 2000


@pytest.mark.slow
@pytest.mark.parametrize("fails", [False, True])
def test_a_run_whose_output_nobody_reads_goes_on_to_its_end_and_says_how_it_ended(fails, empty):
    typed = [*SMOKE, "run.dir=a", "trainer.epochs=3"]
    code = (
        "import sys; import recexp.run.directory as d; tell = d.Run.epoch\n"
        "def epoch(run, line):\n    tell(run, line)\n    assert line['epoch'] < 3\n"
        f"if {fails}: d.Run.epoch = epoch\n"
        f"sys.argv = ['recexp', *{typed!r}]; from recexp.cli import main; main()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.stdout.close()
    error = process.stderr.read()
    assert process.wait(60) == fails and "BrokenPipe" not in error
    assert json.loads(Path("a/status.json").read_text())["state"] == ("failed" if fails else "finished")
    assert len(Path("a/metrics.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("error", [KeyboardInterrupt, Terminated])
def test_a_signal_while_the_picture_is_drawn_interrupts_the_run_and_resuming_draws_it(error, empty, monkeypatch):
    def stopped(path):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(picture, "draw", stopped)
        assert run([*SMOKE, "run.dir=a"]) in (130, 143)
    assert json.loads(Path("a/status.json").read_text())["state"] == "interrupted"
    before = {name: Path("a", name).read_bytes() for name in ("predictions.parquet", "metrics.jsonl")}
    assert run(["resume", "a"]) == 0
    assert json.loads(Path("a/status.json").read_text())["state"] == "finished" and Path("a/curves.png").is_file()
    assert {name: Path("a", name).read_bytes() for name in before} == before


def test_a_damaged_result_is_made_anew_to_the_bit(empty, capsys):
    assert run([*SMOKE, "run.dir=a"]) == 0
    whole = Path("a/predictions.parquet").read_bytes()
    Path("a/predictions.parquet").write_bytes(whole[:-1] + b"x")
    capsys.readouterr()
    assert run(["resume", "a"]) == 0
    (told,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("WARNING: data:")]
    assert "predictions.parquet: damaged" in told and "made anew" in told
    assert Path("a/predictions.parquet").read_bytes() == whole


def test_a_disk_error_is_one_line_with_exit_code_1(empty, capsys, monkeypatch):
    def full(path, dataset, scores):
        with storage.replacing(path / "predictions.parquet"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(result, "write_predictions", full)
    assert run([*SMOKE, "run.dir=a"]) == 1
    message = "a/predictions.parquet: No space left on device; go on with: recexp resume a"
    told = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("WARNING: data:")]
    assert told == [f"recexp: {message}"]
    status = json.loads(Path("a/status.json").read_text())
    assert (status["state"], status["error"]) == ("failed", message)
    assert "Traceback" in Path("a/log.txt").read_text()
    monkeypatch.undo()
    monkeypatch.chdir(empty)
    assert run(["resume", "a"]) == 0


@pytest.mark.slow
def test_a_run_killed_and_resumed_gives_the_figures_of_one_that_was_not(empty, capsys):
    typed = [*SMOKE, "trainer.epochs=12", "trainer.patience=null", "run.dir=killed"]
    code = (
        "import os, sys; import recexp.run.directory as d; tell = d.Run.epoch\n"
        "def epoch(run, line):\n    tell(run, line)\n    line['epoch'] < 7 or os.kill(os.getpid(), 9)\n"
        f"d.Run.epoch = epoch\nfrom recexp.cli import run; run({typed!r})"
    )
    assert python(code, empty).returncode == -signal.SIGKILL
    assert run(["resume", "killed"]) == 0
    assert "going on after epoch 6" in capsys.readouterr().out
    assert run([*typed[:-1], "run.dir=whole"]) == 0
    volatile = ("seconds", "samples_per_second", "peak_memory_mb")
    killed, whole = (json.loads(Path(name, "metrics.json").read_text()) for name in ("killed", "whole"))
    assert {key: killed[key] for key in killed if key not in volatile} == {
        key: whole[key] for key in whole if key not in volatile
    }
    assert Path("killed/predictions.parquet").read_bytes() == Path("whole/predictions.parquet").read_bytes()
    assert run(["resume", "killed"]) == 0
    assert json.loads(Path("killed/status.json").read_text())["state"] == "finished"


def test_a_file_stop_ends_a_run_between_two_epochs_pruned_for_good(empty, capsys, monkeypatch):
    from recexp.run.directory import Run

    def epoch(run, line, tell=Run.epoch):
        tell(run, line)
        if line["epoch"] == 3:
            (run.path / "stop").touch()

    monkeypatch.setattr(Run, "epoch", epoch)
    assert run([*SMOKE, "trainer.epochs=12", "trainer.patience=null", "run.dir=a"]) == 0
    metrics = json.loads(Path("a/metrics.json").read_text())
    assert (metrics["status"], metrics["epochs"], metrics["test"]) == ("pruned", 3, {}) and metrics["valid"]["auc"] > 0
    assert json.loads(Path("a/status.json").read_text())["state"] == "pruned"
    assert not Path("a/predictions.parquet").exists() and Path("a/curves.png").exists()
    assert "test is not scored" in capsys.readouterr().out
    before = {path: path.read_bytes() for path in Path("a/checkpoints").iterdir()}
    assert run(["resume", "a"]) == 0
    assert "a is pruned; nothing to do" in capsys.readouterr().out
    assert before == {path: path.read_bytes() for path in Path("a/checkpoints").iterdir()}
    assert json.loads(Path("a/metrics.json").read_text()) == metrics
    for verb in (["show", "a"], ["runs", "a"]):
        assert run(verb) == 0
        assert "pruned" in capsys.readouterr().out


def test_data_that_have_changed_since_a_run_began_are_a_mistake(empty, capsys):
    typed = [*SMOKE, "dataset=csv", "dataset.path=log.csv", "dataset.cache_dir=null", "run.dir=a"]
    lines = [f"{n % 9},{n % 7},{n % 2},{n}\n" for n in range(200)]
    Path("log.csv").write_text("user,item,label,timestamp\n" + "".join(lines))
    assert run(typed[1:]) == 0
    environment = Path("a/environment.json").read_bytes()
    Path("a/curves.png").unlink()  # so that there is something to do
    Path("log.csv").write_text("user,item,label,timestamp\n" + "".join(lines[:-1]))
    capsys.readouterr()
    assert run(["resume", "a"]) == 2
    assert "a: was run on other data" in capsys.readouterr().err
    assert Path("a/environment.json").read_bytes() == environment


def test_a_mistake_on_resuming_leaves_the_run_as_it_was(empty, capsys):
    typed = [*SMOKE, "dataset=csv", "dataset.path=log.csv", "run.dir=a"]
    Path("log.csv").write_text(
        "user,item,label,timestamp\n" + "".join(f"{n % 9},{n % 7},{n % 2},{n}\n" for n in range(200))
    )
    code = (
        "import os; import recexp.experiment as e\ne.load = lambda config: os.kill(os.getpid(), 9)\n"
        f"from recexp.cli import run; run({typed[2:]!r} + ['model=fm', 'dataset.cache_dir=null'])"
    )
    python(code, empty)
    Path("log.csv").unlink()
    assert run(["resume", "a"]) == 2
    assert "log.csv: no such file" in capsys.readouterr().err
    assert Path("a/config.yaml").is_file()
