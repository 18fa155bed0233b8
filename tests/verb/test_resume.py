"""A run made longer equals one of that length from the beginning; nothing else may change."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from recorder import untimed

from recexp.cli import run

TYPED = ["+experiment=tiny", "model=fm", "trainer.threads=1", "trainer.learning_rate=0.01"]


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """train("a", "trainer.epochs=2"): the directory of a run of these overrides."""
    monkeypatch.chdir(tmp_path)

    def train(name: str, *overrides: str) -> Path:
        assert run([*TYPED, *overrides, f"run.dir={name}"]) == 0
        return tmp_path / name

    return train


def assert_same(left: Path, right: Path) -> None:
    assert (left / "predictions.parquet").read_bytes() == (right / "predictions.parquet").read_bytes()
    found, wanted = (untimed(json.loads((path / "metrics.json").read_text())) for path in (left, right))
    assert found == wanted
    tensors = [next((path / "checkpoints").glob("best-*.safetensors")) for path in (left, right)]
    assert tensors[0].name == tensors[1].name and tensors[0].read_bytes() == tensors[1].read_bytes()


LONGER = {
    "constant": (["trainer.epochs=2", "trainer.patience=null"], ["trainer.epochs=4"]),
    "plateau": (["trainer.epochs=2", "trainer.schedule=plateau", "trainer.patience=null"], ["trainer.epochs=4"]),
    "several stages": (["model=fnn", "model.fm_epochs=1", "trainer.patience=null"], ["trainer.epochs=3"]),
    "patience": (["trainer.learning_rate=1", "trainer.epochs=6", "trainer.patience=1"], ["trainer.patience=3"]),
    "no patience": (["trainer.learning_rate=1", "trainer.epochs=6", "trainer.patience=1"], ["trainer.patience=null"]),
}


@pytest.mark.parametrize(("typed", "longer"), LONGER.values(), ids=LONGER)
def test_longer_run_equals_one_of_that_length_from_the_beginning(
    typed: list[str], longer: list[str], train: Callable[..., Path]
) -> None:
    short, whole = train("short", *typed), train("whole", *typed, *longer)
    epochs = [json.loads((path / "metrics.json").read_text())["epochs"] for path in (short, whole)]
    assert epochs[0] < epochs[1]
    assert run(["resume", "short", *longer]) == 0
    assert_same(short, whole)
    configs = [yaml.safe_load((path / "config.yaml").read_text()) for path in (short, whole)]
    assert configs[0]["trainer"] == configs[1]["trainer"]
    assert run(["resume", "short"]) == 0  # and has ended


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of ended runs: plain, and ended by patience."""
    folder = tmp_path_factory.mktemp("ended")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run([*TYPED, "trainer.epochs=2", "trainer.patience=5", "run.dir=plain"]) == 0
        assert run([*TYPED, "trainer.epochs=2", "trainer.schedule=cosine", "run.dir=cosine"]) == 0
        early = ["trainer.learning_rate=1", "trainer.epochs=9", "trainer.patience=1"]
        assert run([*TYPED, *early, "run.dir=early"]) == 0
        yield folder


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["plain", "trainer.epochs=1"], "trainer.epochs = 1: must be a whole number of 2 or more"),
        (["plain", "trainer.epochs=null"], "trainer.epochs = None"),
        (["plain", "trainer.epochs=2.5"], "trainer.epochs = 2.5"),
        (["plain", "trainer.epochs=true"], "trainer.epochs = True"),
        (["plain", "trainer.epochs=["], "trainer.epochs=[: "),
        (["plain", "trainer.patience=4"], "trainer.patience = 4: must be 5 or more, or null"),
        (["plain", "trainer.learning_rate=1"], "only trainer.epochs and trainer.patience may grow"),
        (["plain", "seed=1"], "only trainer.epochs and trainer.patience may grow"),
        (["plain", "other"], "only trainer.epochs and trainer.patience may grow"),
        (["trainer.epochs=3"], "takes one directory"),
        ([], "takes one directory"),
        (["cosine", "trainer.epochs=3"], "trainer.schedule = cosine spreads its learning rates"),
        (["early", "trainer.epochs=20"], "early stopping ended the run after epoch"),
        (["nowhere", "trainer.epochs=20"], "nowhere: no such directory"),
    ],
)
def test_what_does_not_make_a_run_longer_is_refused_and_changes_nothing(
    arguments: list[str], told: str, ended: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(ended)
    before = {path: path.read_bytes() for path in ended.rglob("*") if path.is_file()}
    assert run(["resume", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line
    assert {path: path.read_bytes() for path in ended.rglob("*") if path.is_file()} == before
