"""The documents are run: what they tell a reader to type does what they say."""

import importlib.util
import json
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from recexp.cli import run
from recexp.metric.table import PREDICTION_METRICS, RUN_METRICS
from recexp.verb import VERBS

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", document.read_text("utf-8"), re.S)


def write_files(document: Path) -> None:
    """The blocks of a document that name a file in their first line, or below the package, as these files."""
    for text in blocks(document, "python") + blocks(document, "yaml"):
        if name := re.match(r"(?:# @package _global_\n)?# ([\w./-]+\.(py|yaml))\n", text):
            path = Path(name[1])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")


def test_adding_a_model_works_as_described(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    document = ROOT / "docs" / "add-a-model.md"
    write_files(document)
    commands = [line.removeprefix("$ recexp ") for text in blocks(document, "console") for line in text.splitlines()]
    assert len(commands) >= 2
    for command in commands:
        assert run([*shlex.split(command), "trainer.threads=1"]) == 0
    assert len(list(Path("outputs").rglob("metrics.json"))) == 3


def test_the_fault_that_the_guide_tells_of_is_told_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    document = ROOT / "docs" / "add-a-model.md"
    (python,), (yaml,) = blocks(document, "python"), blocks(document, "yaml")
    Path("model").mkdir()
    Path("similarity.py").write_text(python.replace("chosen.sum(1).clamp(min=1)", "chosen.sum(1)"), "utf-8")
    Path("model/similarity.yaml").write_text(yaml, "utf-8")
    typed = ["check", "model=similarity", "plugins=[similarity.py]", "--config-dir", ".", "+experiment=tiny"]
    assert run([*typed, "trainer.threads=1"]) == 1
    (told,) = (line for line in document.read_text("utf-8").splitlines() if line.startswith("FAILED"))
    assert told in capsys.readouterr().out.splitlines()


def test_a_model_of_the_users_own_with_a_misspelt_key_is_a_mistake(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    document = ROOT / "docs" / "add-a-model.md"
    (python,), (yaml,) = blocks(document, "python"), blocks(document, "yaml")
    Path("model").mkdir()
    Path("similarity.py").write_text(python, "utf-8")
    Path("model/similarity.yaml").write_text(yaml, "utf-8")
    typed = ["model=similarity", "plugins=[similarity.py]", "--config-dir", ".", "+model.embeding_dim=3"]
    assert run(typed) == 2
    assert "Did you mean 'embedding_dim'?" in capsys.readouterr().err


def test_a_logger_of_the_users_own_is_told_what_the_directory_holds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    document = ROOT / "docs" / "loggers.md"
    write_files(document)
    (command,) = (line for text in blocks(document, "console") for line in text.splitlines() if "plugins=" in line)
    assert (
        run([*shlex.split(command.removeprefix("$ recexp ")), "trainer.threads=1", "model=als_mlp", "run.dir=a"]) == 0
    )
    first, *points, last = map(json.loads, Path("lines.jsonl").read_text("utf-8").splitlines())
    lines = list(map(json.loads, Path("a/metrics.jsonl").read_text("utf-8").splitlines()))
    assert first["options"]["model.name"] == "als_mlp" and "logger.name" not in first["options"]
    assert [point["step"] for point in points] == [*range(1, len(lines) + 1)]
    assert [point["valid/auc"] for point in points] == [line["valid"]["auc"] for line in lines]
    metrics = json.loads(Path("a/metrics.json").read_text("utf-8"))
    assert last["final/test/auc"] == metrics["test"]["auc"] and last["state"] == "finished"


def test_reasons_are_handed_out_as_described():
    (text,) = blocks(ROOT / "docs/models.md", "python")
    found: dict = {}
    exec(text, found)
    pairs = found["experiment"].model.pairs
    assert found["weights"].shape == (len(found["batch"]), len(pairs))
    assert (found["first"], found["second"]) in pairs


def test_every_metric_is_defined():
    page = (ROOT / "docs/metrics.md").read_text("utf-8")
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    assert rows.keys() == {*PREDICTION_METRICS, *RUN_METRICS}
    words = {True: "up", False: "down", None: ""}
    for name, metric in {**PREDICTION_METRICS, **RUN_METRICS}.items():
        better = rows[name].split("|")[4 if name in PREDICTION_METRICS else 3].strip()
        assert better == words[metric.higher_is_better], name


@pytest.mark.slow
def test_page_of_models_is_what_their_files_say():
    done = subprocess.run([sys.executable, "docs/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_in_a_document_composes(document, tmp_path, monkeypatch, capsys):
    """Overrides are composed without training; verbs exist. Commands on a reader's own files are composed too."""
    monkeypatch.chdir(tmp_path)
    write_files(document)
    if document.name in ("add-a-model.md", "own-data.md", "own-project.md"):
        pytest.skip("is run whole by a test of its own")
    lines = [line for text in blocks(document, "console") for line in text.splitlines() if line.startswith("$ recexp ")]
    for line in lines:
        words = shlex.split(line.removeprefix("$ recexp "), comments=True)
        if re.fullmatch("[a-z]+", words[0]):
            assert words[0] in VERBS, line
        else:
            words = [
                word for word in words if word not in ("-m", "--multirun") and "," not in word and "glob(" not in word
            ]
            assert run(["--cfg", "job", *words]) == 0, line


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(document):
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", document.read_text("utf-8")):
        assert (document.parent / target).exists(), target


def test_own_data_train_as_described(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log = "".join(f"{n % 9},{n * 5 % 31},{n % 5 + 0.5},{10**9 + n}\n" for n in range(200))
    movies = "".join(f'{n},"Film, The ({1990 + n})",{"Drama|Crime" if n % 3 else "Comedy"}\n' for n in range(31))
    with zipfile.ZipFile("ml-latest-small.zip", "w") as archive:
        archive.writestr("ml-latest-small/ratings.csv", "userId,movieId,rating,timestamp\n" + log)
        archive.writestr("ml-latest-small/movies.csv", "movieId,title,genres\n" + movies)
    Path("lastfm.txt").write_text("".join(f"{n} {' '.join(str(n + k) for k in range(4 + n % 3))}\n" for n in range(9)))
    document = ROOT / "docs" / "own-data.md"
    commands = [line.removeprefix("$ recexp ") for text in blocks(document, "console") for line in text.splitlines()]
    assert len(commands) == 4
    for command in commands:
        quick = [] if command.startswith("inspect") else ["trainer.threads=1", "trainer.epochs=1"]
        assert run([*shlex.split(command), *quick]) == 0
    (described,) = blocks(document, "yaml")
    assert set(yaml.safe_load(described)) <= set(yaml.safe_load(Path("conf/dataset/movies.yaml").read_text("utf-8")))


def test_own_project_runs_as_described(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    document = ROOT / "docs" / "own-project.md"
    write_files(document)
    rows = "".join(f"{n % 9},{n * 5 % 31},{n % 2},{n}\n" for n in range(300))
    Path("events.csv").write_text("user,item,label,timestamp\n" + rows)
    (console,) = blocks(document, "console")
    export, *commands = [line.removeprefix("$ ") for line in console.splitlines()]
    monkeypatch.setenv(*export.removeprefix("export ").split("="))
    assert len(commands) == 3
    quick = ["trainer.threads=1", "trainer.epochs=1", "dataset.cache_dir=null"]
    for command in commands:
        assert run([*shlex.split(command)[1:], *(quick if "run.dir" in command else [])]) == 0
    assert "similar" in capsys.readouterr().out
    assert yaml.safe_load(Path("runs/first/config.yaml").read_text("utf-8"))["plugins"] == [
        str(tmp_path / "models/similar.py")
    ]
    spec = importlib.util.spec_from_file_location("test_smoke", "tests/test_smoke.py")
    smoke = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(smoke)
    monkeypatch.delenv("RECEXP_CONFIG_DIR")
    (tmp_path / "elsewhere").mkdir()
    smoke.test_the_experiment_trains(tmp_path / "elsewhere")
    workflow = yaml.safe_load(Path(".github/workflows/smoke.yaml").read_text("utf-8"))
    assert workflow["jobs"]["smoke"]["steps"][-1] == {"run": "pytest"}
