"""A run again, compared bit by bit: what is equal is said, and what is not is named and fails."""

import json
import math
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

from recexp.cli import run
from recexp.run.reproduction import comparisons, surroundings
from recexp.run.status import write_status
from recexp.storage import read_json, write_json
from recexp.trainer import tensors
from recexp.trainer.checkpoint import read_document


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # where there is no git, as in the tests
        assert run(["+experiment=tiny", "model=deepfm", "trainer.threads=1", "run.dir=first"]) == 0
    return folder / "first"


@pytest.fixture
def first(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run in the current directory."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(trained, "first"))


def test_a_run_is_reproduced_to_the_bit(first: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(["reproduce", "first", "run.dir=second"]) == 0
    told = capsys.readouterr().out.partition("compared with first\n")[2]
    assert [line.split() for line in told.splitlines()] == [
        ["weights", "equal"], ["predictions", "equal"], ["metrics", "equal"],
    ]  # fmt: skip
    assert not surroundings(first, Path("second"))


def test_a_ranker_is_reproduced_with_its_recommendations(first: Path, capsys: pytest.CaptureFixture) -> None:
    ranker = ["model=gru4rec", "trainer=next_item", "dataset.label=implicit", "trainer.threads=1"]
    assert run(["+experiment=tiny", *ranker, "run.dir=ranker"]) == 0
    assert run(["reproduce", "ranker", "run.dir=again"]) == 0
    told = capsys.readouterr().out.partition("compared with ranker\n")[2]
    assert len({line.index("equal") for line in told.splitlines()}) == 1
    assert [line.split() for line in told.splitlines()] == [
        ["weights", "equal"], ["recommendations", "equal"], ["metrics", "equal"],
    ]  # fmt: skip
    best = pd.read_parquet("again/recommendations.parquet")
    best.loc[3, "item"] += 1
    best.to_parquet("again/recommendations.parquet")
    write_status(Path("again"), "finished")
    (told,) = [of.differs for of in comparisons(Path("ranker"), Path("again")) if of.name == "recommendations"]
    assert told == [f"item: in 1 of {len(best):,} rows"]


def test_another_version_and_other_data_are_told_of(first: Path) -> None:
    second = Path(shutil.copytree(first, "second"))
    environment = read_json(first / "environment.json")
    environment["data"]["fingerprint"] = "other"
    environment["resumed"] = [environment | {"packages": environment["packages"] | {"torch": "1.0"}}]
    write_json(first / "environment.json", environment)
    fingerprint = read_json(second / "environment.json")["data"]["fingerprint"]
    assert surroundings(first, second) == [
        f"data: other there, {fingerprint} here",
        f"packages.torch: {torch.__version__} and 1.0 there, {torch.__version__} here",
    ]


def test_one_bit_of_a_weight_a_score_or_a_metric_differs(first: Path) -> None:
    second = Path(shutil.copytree(first, "second"))
    document = read_document(second / "checkpoints/best.json")
    file = second / "checkpoints" / document["tensors"]
    weights = tensors.read(file, document, torch.device("cpu"))
    name = next(name for name, tensor in weights.items() if tensor.is_floating_point())
    weights[name].view(-1)[0] = torch.nextafter(weights[name].view(-1)[0], torch.tensor(9.0))
    write_json(second / "checkpoints/best.json", document | tensors.write(file, weights))
    metrics = json.loads((second / "metrics.json").read_text())
    metrics["test"]["auc"] = math.nextafter(metrics["test"]["auc"], 1)
    metrics["seconds"] += 1
    (second / "metrics.json").write_text(json.dumps(metrics))
    write_status(second, "finished")
    found = {part.name: part.differs for part in comparisons(first, second)}
    assert [line.partition(":")[0] for line in found["weights"]] == [name.removeprefix("model.")]
    assert found["predictions"] == []
    assert [line.partition(":")[0] for line in found["metrics"]] == ["test.auc"]


def test_runs_of_two_seeds_differ_in_everything(first: Path) -> None:
    assert run(["rerun", "first", "seed=1", "run.dir=second"]) == 0
    assert all(part.differs for part in comparisons(first, Path("second")))


@pytest.mark.parametrize("typed", ["seed=1", "model.dropout=0", "+trainer.threads=2"])
def test_reproduce_changes_nothing(typed: str, first: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(["reproduce", "first", typed]) == 2
    assert "reproduce changes nothing" in capsys.readouterr().err


def test_a_run_that_has_not_ended_cannot_be_reproduced(first: Path, capsys: pytest.CaptureFixture) -> None:
    write_json(first / "status.json", {"state": "interrupted", "error": None})
    assert run(["reproduce", "first"]) == 2
    assert "has not ended" in capsys.readouterr().err
