"""A run's configuration again, changed where said; its new directory is its own."""

from pathlib import Path

import pytest
import yaml

from recexp.cli import run

TYPED = ["+experiment=tiny", "model=deepfm", "model.embedding_dim=4", "trainer.threads=1"]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "first"
    assert run([*TYPED, "seed=3", f"run.dir={path}"]) == 0
    return path


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def config(path: Path) -> dict:
    return yaml.safe_load((path / "config.yaml").read_text())


def test_what_is_not_named_stays_and_the_first_run_is_left_alone(first: Path) -> None:
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    assert run(["rerun", str(first), "model.dropout=0.5"]) == 0
    assert {path: path.read_bytes() for path in first.rglob("*") if path.is_file()} == before
    (path,) = Path("outputs").glob("*/*")
    changed, original = config(path), config(first)
    assert changed["model"] == original["model"] | {"dropout": 0.5}
    assert [changed[key] for key in ("seed", "trainer", "dataset")] == [
        original[key] for key in ("seed", "trainer", "dataset")
    ]
    assert changed["run"] == original["run"] | {"dir": None}


def test_typing_the_overrides_it_records_gives_its_configuration(first: Path) -> None:
    assert run(["rerun", str(first), "model=fm", "trainer.epochs=2", "run.dir=second"]) == 0
    typed = yaml.safe_load(Path("second/overrides.yaml").read_text())
    assert typed == [
        "+experiment=tiny",
        "trainer.threads=1",
        "seed=3",
        "model=fm",
        "trainer.epochs=2",
        "run.dir=second",
    ]
    assert run([*typed[:-1], "run.dir=third"]) == 0
    assert config(Path("second")) | {"run": None} == config(Path("third")) | {"run": None}


MISTAKES = {
    "": "takes one directory",
    "nowhere": "nowhere: no such directory",
    ".": "no run directory",
    "RUN word": "word: is no override",
    "RUN seed=1,2": "is for a sweep",
    "RUN +experiment=smoke": "give the keys to change",
    "RUN hydra.verbose=true": "give the keys to change",
    "RUN trainer.epoch=2": "Did you mean 'trainer.epochs'?",
    "RUN model.hidden_size=[8]": "Did you mean 'model.hidden_sizes'? Choices: model.activation, model.batch_norm, ",
    "RUN model=fm model.linear_stt=1": "Did you mean 'model.linear_std'? Choices: model.embedding_dim, ",
    "RUN trainer.epochs=0": "must be 1 or more",
    "RUN model=dinn": "Did you mean 'din'?",
    "RUN +model.loss_weights.targets=1": "Did you mean 'target'?",
}


@pytest.mark.parametrize("typed", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(
    typed: str, first: Path, folder: Path, capsys: pytest.CaptureFixture
) -> None:
    """The choices are those of the run, or of the group that is chosen anew, not of recexp's defaults."""
    assert run(["rerun", *typed.replace("RUN", str(first)).split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert MISTAKES[typed] in line
    assert list(folder.iterdir()) == []
