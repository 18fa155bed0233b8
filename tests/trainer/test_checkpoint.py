"""Checkpoints: what is saved comes back to the bit, and a kill at any moment leaves a pair that fits."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from recexp.config import Config, Optimizer
from recexp.error import RunError
from recexp.trainer import checkpoint
from recexp.trainer.optimizer import make_optimizers

CPU = torch.device("cpu")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_tensors_and_state_come_back(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 4), "n": torch.tensor(7), "t": torch.randn(4, 3).t()}
    checkpoint.save(tmp_path / "new", "last", "s0-e1", tensors, {"epoch": 1, "best": 0.1 + 0.2, "none": None})
    found, state = checkpoint.load(tmp_path / "new", "last", CPU)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert state == {"tensors": "last-s0-e1.safetensors", "epoch": 1, "best": 0.1 + 0.2, "none": None}


def test_tensors_that_share_memory_are_saved_both(tmp_path: Path) -> None:
    table = nn.Embedding(3, 2)
    tied = nn.ModuleDict({"input": table, "output": table})
    checkpoint.save(tmp_path, "last", "s0-e1", checkpoint.model_tensors(tied), {})
    found, _ = checkpoint.load(tmp_path, "last", CPU)
    assert torch.equal(found["model.input.weight"], found["model.output.weight"])


def test_missing_checkpoint_is_none(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path / "nowhere", "last", CPU) is None


def test_new_checkpoint_replaces_the_old_and_leaves_other_names(tmp_path: Path) -> None:
    for name, tag in (("best", "s0-e1"), ("last", "s0-e1"), ("last", "s0-e2")):
        checkpoint.save(tmp_path, name, tag, {"a": torch.ones(1)}, {})
    assert names(tmp_path) == ["best-s0-e1.safetensors", "best.json", "last-s0-e2.safetensors", "last.json"]


def test_kill_while_writing_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stops at each file operation in turn, in the second of two saves."""

    class Killed(BaseException):
        pass

    for operation in range(4):  # tensors synced, tensors in place, JSON synced, JSON in place
        folder = tmp_path / str(operation)
        checkpoint.save(folder, "last", "s0-e1", {"a": torch.ones(1)}, {"epoch": 1})
        left = operation

        def dying(real: Callable) -> Callable:
            def call(*arguments: object) -> object:
                nonlocal left
                if not left:
                    raise Killed
                left -= 1
                return real(*arguments)

            return call

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", dying(os.fsync))
            patch.setattr(os, "replace", dying(os.replace))
            with pytest.raises(Killed):
                checkpoint.save(folder, "last", "s0-e2", {"a": torch.full((1,), 2.0)}, {"epoch": 2})
        tensors, state = checkpoint.load(folder, "last", CPU)
        assert (tensors["a"].item(), state["epoch"]) == (1, 1)
        checkpoint.save(folder, "last", "s0-e2", {"a": torch.full((1,), 2.0)}, {"epoch": 2})
        tensors, state = checkpoint.load(folder, "last", CPU)
        assert (tensors["a"].item(), state["epoch"]) == (2, 2)
        assert names(folder) == ["last-s0-e2.safetensors", "last.json"]


@pytest.mark.parametrize("damage", ["not json", '{"tensors": "gone.safetensors"}', '{"epoch": 3}'])
def test_damaged_checkpoint_is_told_in_one_line(damage: str, tmp_path: Path) -> None:
    (tmp_path / "last.json").write_text(damage)
    with pytest.raises(RunError, match=r"last\.json: damaged checkpoint") as error:
        checkpoint.load(tmp_path, "last", CPU)
    assert "\n" not in str(error.value)


def test_truncated_tensors_are_told(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, "last", "s0-e1", {"a": torch.randn(100)}, {})
    path = tmp_path / "last-s0-e1.safetensors"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(RunError, match="damaged checkpoint"):
        checkpoint.load(tmp_path, "last", CPU)


def test_files_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        checkpoint.save(tmp_path, "last", "s0-e1", {"a": torch.ones(1)}, {})
    finally:
        os.umask(before)
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        "last-s0-e1.safetensors": 0o640,
        "last.json": 0o640,
    }


def test_checkpoint_of_another_model_is_told_in_one_line() -> None:
    tensors = checkpoint.model_tensors(nn.Linear(2, 3))
    with pytest.raises(RunError, match="of another model") as error:
        checkpoint.load_model(nn.Linear(2, 4), tensors)
    assert "\n" not in str(error.value)


def test_state_is_json_without_tensors(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, "last", "s0-e1", {"a": torch.ones(1)}, {"epoch": 1})
    assert json.loads((tmp_path / "last.json").read_text()) == {"tensors": "last-s0-e1.safetensors", "epoch": 1}


Trained = tuple[nn.Embedding, nn.Parameter, list[torch.optim.Optimizer]]


def go(trained: Trained, steps: range) -> None:
    table, weight, optimizers = trained
    for step in steps:
        for each in optimizers:
            each.zero_grad()
        (table(torch.tensor([1 + step % 3, 5])) * weight).sigmoid().sum().backward()
        for each in optimizers:
            each.step()


@pytest.mark.parametrize("kind", Optimizer)
def test_optimizer_goes_on_to_the_bit_as_if_it_had_never_stopped(
    kind: Optimizer, tmp_path: Path, compose: Callable[..., Config]
) -> None:
    sparse = kind not in (Optimizer.adam, Optimizer.adamw)
    trainer = replace(compose().trainer, optimizer=kind, sparse=sparse, learning_rate=0.1)

    def new() -> Trained:
        torch.manual_seed(0)
        table, weight = nn.Embedding(9, 3, sparse=sparse), nn.Parameter(torch.ones(3))
        return table, weight, make_optimizers(trainer, [table.weight, weight], [table])

    whole, stopped, resumed = new(), new(), new()
    go(whole, range(9))
    go(stopped, range(4))
    checkpoint.save(tmp_path, "last", "s0-e1", checkpoint.optimizer_tensors(stopped[2]), {})
    tensors, _ = checkpoint.load(tmp_path, "last", CPU)
    checkpoint.load_optimizers(resumed[2], tensors)
    with torch.no_grad():
        resumed[0].weight.copy_(stopped[0].weight)
        resumed[1].copy_(stopped[1])
    go(resumed, range(4, 9))
    assert torch.equal(resumed[0].weight, whole[0].weight)
    assert torch.equal(resumed[1], whole[1])
