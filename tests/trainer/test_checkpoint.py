"""Checkpoints: what is saved comes back to the bit, and what is not what was saved is never used."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from recorder import checkpoint
from torch import Tensor, nn

from recexp import storage
from recexp.config import Config, Optimizer
from recexp.error import DamagedFile, RunError
from recexp.trainer import tensors as tensor_files
from recexp.trainer.checkpoint import Checkpoints, load_model, load_optimizers, model_tensors, named, optimizer_tensors
from recexp.trainer.optimizer import make_optimizers
from recexp.trainer.state import Progress

CPU = torch.device("cpu")


def new(folder: Path, identity: str = "run", stages: tuple[str, ...] = ("best",)) -> Checkpoints:
    return Checkpoints(folder, identity, stages, CPU)


def model(value: float = 0.0) -> nn.Module:
    layer = nn.Linear(3, 2)
    nn.init.constant_(layer.weight, value)
    return layer


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """A folder after three epochs, of which the second was the best; all weights have the epoch's number."""
    checkpoints = new(tmp_path / "checkpoints")
    for epoch in (1, 2, 3):
        progress = Progress(epoch=epoch, step=10 * epoch)
        if epoch < 3:
            checkpoints.save_best("best", model(epoch), progress)
        checkpoints.save_last(model_tensors(model(epoch)), progress)
    return tmp_path / "checkpoints"


def resumed(folder: Path) -> tuple[float, int] | None:
    """The weights and the epoch that training goes on from."""
    found = model()
    saved = new(folder).resume(found)
    return (found.weight[0, 0].item(), saved.progress.epoch) if saved else None


# Tensors


def test_tensors_come_back(tmp_path: Path) -> None:
    table = nn.Embedding(3, 2)
    tensors = {
        "wide": torch.randn(3, 4, dtype=torch.float64), "n": torch.tensor(7), "turned": torch.randn(4, 3).t(),
        "empty": torch.zeros(0, 3), "flags": torch.tensor([True, False, True]), "half": torch.randn(3).bfloat16(),
        "state": torch.get_rng_state(), "input": table.weight, "output": table.weight,
    }  # fmt: skip
    found = tensor_files.read(tmp_path / "a", tensor_files.write(tmp_path / "a", tensors), CPU)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype, name


@pytest.mark.parametrize("damage", ["flipped", "cut", "longer", "gone", "folder"])
def test_tensors_that_are_not_those_written_are_damaged_in_one_line(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    written = tensor_files.write(path, {"a": torch.randn(100)})
    content = bytearray(path.read_bytes())
    path.unlink()
    content[-7] ^= 1
    match damage:
        case "flipped":
            path.write_bytes(content)
        case "cut":
            path.write_bytes(content[:-50])
        case "longer":
            path.write_bytes(content + b"x")
        case "folder":
            path.mkdir()
    with pytest.raises(DamagedFile, match="missing" if damage in ("gone", "folder") else "damaged") as error:
        tensor_files.read(path, written, CPU)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "header",
    [
        b"not json",
        b"{" * 5000,
        json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode(),
        json.dumps({"a": {"dtype": "F32", "shape": [2**31, 2**31, 4], "data_offsets": [0, 0]}}).encode(),
        json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}).encode(),
        json.dumps({"a": {"dtype": "pickle", "shape": [2], "data_offsets": [0, 8]}}).encode(),
    ],
)
@pytest.mark.parametrize("length", [None, 2**62])
def test_hostile_header_takes_no_memory(header: bytes, length: int | None, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes((length or len(header)).to_bytes(8, "little") + header + bytes(8))
    written = {"bytes": path.stat().st_size, "digest": storage.file_digest(path)}
    with pytest.raises(DamagedFile) as error:
        tensor_files.read(path, written, CPU)
    assert "\n" not in str(error.value)


def test_files_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        new(tmp_path / "a").save_last(model_tensors(model()), Progress())
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "a").iterdir()} == {0o640}


# States to go on from


def test_two_states_are_kept_and_the_best_that_they_need(three: Path) -> None:
    assert names(three) == [
        "best-s0-e2-n20.safetensors", "best.json", "last-s0-e2-n20.safetensors", "last-s0-e3-n30.safetensors",
        "last.json", "previous.json",
    ]  # fmt: skip
    assert resumed(three) == (3.0, 3)


def test_only_the_newest_state_stays_at_the_end(three: Path) -> None:
    checkpoints = new(three)
    checkpoints.resume(model())
    checkpoints.finish()
    assert names(three) == ["best-s0-e2-n20.safetensors", "best.json", "last-s0-e3-n30.safetensors", "last.json"]


@pytest.mark.parametrize("damaged", ["last.json", "last-s0-e3-n30.safetensors"])
def test_damaged_state_falls_back_to_the_one_before_and_says_so_once(
    damaged: str, three: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = bytearray((three / damaged).read_bytes())
    content[len(content) // 2] ^= 4
    (three / damaged).write_bytes(content)
    assert resumed(three) == (2.0, 2)
    (record,) = caplog.records
    assert damaged in record.getMessage() and "Going on from the checkpoint before it" in record.getMessage()
    assert "\n" not in record.getMessage()
    assert resumed(three) == (2.0, 2)  # and stays there until the next is written
    checkpoints = new(three)
    checkpoints.resume(model())
    checkpoints.save_last(model_tensors(model(5)), Progress(epoch=3, step=30))
    assert resumed(three) == (5.0, 3)


def test_missing_last_state_is_a_kill_between_two_writes(three: Path, caplog: pytest.LogCaptureFixture) -> None:
    (three / "last.json").unlink()
    assert resumed(three) == (2.0, 2)
    assert not caplog.records


@pytest.mark.parametrize("lost", [["last.json", "previous.json"], ["best-s0-e2-n20.safetensors"]])
@pytest.mark.parametrize("how", ["gone", "torn"])
def test_training_starts_anew_and_says_so_if_no_state_is_whole(
    lost: list[str], how: str, three: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without the best epoch so far a state is not whole: the last one would pass for it."""
    for name in lost:
        (three / name).unlink() if how == "gone" else (three / name).write_bytes(b"{}")
    assert resumed(three) is None
    (record,) = caplog.records
    assert "Training starts anew" in record.getMessage()


def test_state_before_the_best_was_lost_is_gone_on_from(tmp_path: Path) -> None:
    checkpoints = new(tmp_path / "a")
    for epoch in (1, 2):
        checkpoints.save_best("best", model(epoch), Progress(epoch=epoch))
        checkpoints.save_last(model_tensors(model(epoch)), Progress(epoch=epoch))
    (tmp_path / "a/best-s0-e2-n0.safetensors").unlink()
    assert resumed(tmp_path / "a") == (1.0, 1)
    assert float(checkpoint(tmp_path / "a", "best")[0]["model.weight"][0, 0]) == 1


def test_best_that_is_lost_in_training_is_not_replaced(three: Path) -> None:
    checkpoints, other = new(three), model(7)
    checkpoints.resume(model())
    (three / "best-s0-e2-n20.safetensors").write_bytes(b"")
    with pytest.raises(DamagedFile, match=r"best-s0-e2-n20\.safetensors"):
        checkpoints.load_best("best", other)
    assert other.weight[0, 0].item() == 7


def test_best_written_after_the_state_is_undone(three: Path) -> None:
    """By a process that was killed in between: another machine may not find that epoch the best."""
    checkpoints = new(three)
    checkpoints.resume(model())
    checkpoints.save_best("best", model(4), Progress(epoch=4, step=40))
    assert checkpoint(three, "best")[1]["epoch"] == 4
    assert resumed(three) == (3.0, 3)
    assert checkpoint(three, "best")[1]["epoch"] == 2


def test_checkpoint_of_another_run_is_refused(three: Path) -> None:
    before = {path: path.read_bytes() for path in three.iterdir()}
    with pytest.raises(RunError, match=r"last\.json: belongs to another run") as error:
        new(three, identity="another").resume(model())
    assert "\n" not in str(error.value) and not isinstance(error.value, DamagedFile)
    assert {path: path.read_bytes() for path in three.iterdir()} == before


def test_nothing_is_said_of_a_new_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert new(tmp_path / "nowhere").resume(model()) is None
    assert not caplog.records


def rewritten(path: Path, **members: Any) -> None:
    storage.write_json(path, storage.read_json(path) | members)


@pytest.mark.parametrize(
    "members",
    [
        {"tensors": "../last-s0-e3-n30.safetensors"},
        {"tensors": "/etc/last-s0-e3-n30.safetensors"},
        {"tensors": 3},
        {"bytes": "10"},
        {"digest": None},
        {"identity": ["run"]},
        {"progress": []},
        {"progress": Progress(stage=9).saved()},
        {"relies_on": {}},
        {"relies_on": {"../best": {}}},
        {"relies_on": {"best": {"tensors": "best-s0-e2-n20.safetensors"}}},
        {"bytes": 10**15},
    ],
)
def test_hostile_state_is_passed_over(members: dict[str, Any], three: Path) -> None:
    rewritten(three / "last.json", **members)
    assert resumed(three) == (2.0, 2)


def test_state_larger_than_the_model_can_have_is_not_read(three: Path) -> None:
    path = three / "last-s0-e3-n30.safetensors"
    with path.open("r+b") as file:
        file.truncate(2**35)  # sparse
    rewritten(three / "last.json", bytes=2**35)
    assert resumed(three) == (2.0, 2)


def test_kill_while_writing_leaves_a_whole_state(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stops at each file operation in turn."""

    class Killed(BaseException):
        pass

    left = 0

    def dying(real: Callable) -> Callable:
        def call(*arguments: object, **options: object) -> object:
            nonlocal left
            if not left:
                raise Killed
            left -= 1
            return real(*arguments, **options)

        return call

    for operation in range(30):
        checkpoints = new(three)
        checkpoints.resume(model())
        with monkeypatch.context() as patch:
            left = operation
            for name in ("fsync", "replace", "unlink"):
                patch.setattr(os, name, dying(getattr(os, name)))
            try:
                checkpoints.save_best("best", model(4), Progress(epoch=4, step=40))
                checkpoints.save_last(model_tensors(model(4)), Progress(epoch=4, step=40))
            except Killed:
                pass
            else:
                break
        assert resumed(three) in ((3.0, 3), (4.0, 4))
    assert operation >= 12
    assert resumed(three) == (4.0, 4)


# Model and optimizers


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ({"model.weight": torch.ones(2, 4), "model.bias": torch.ones(2)}, r"weight is \(2, 4\).*, not \(2, 3\)"),
        ({"model.weight": torch.ones(2, 3).double(), "model.bias": torch.ones(2)}, r"weight is .*float64"),
        ({"model.weight": torch.ones(2, 3)}, "bias is missing"),
        ({**model_tensors(nn.Linear(3, 2)), "model.more": torch.ones(1)}, "more is .* not missing"),
    ],
)
def test_weights_of_another_model_are_told_in_one_line(tensors: dict[str, Tensor], why: str) -> None:
    found = model(7)
    with pytest.raises(DamagedFile, match=f"of another model.*{why}") as error:
        load_model(found, tensors, Path("last.json"))
    assert "\n" not in str(error.value)
    assert found.weight[0, 0].item() == 7


Trained = tuple[nn.Embedding, nn.Parameter, list[torch.optim.Optimizer]]


def go(trained: Trained, steps: range) -> None:
    table, weight, optimizers = trained
    for step in steps:
        for each in optimizers:
            each.zero_grad()
        (table(torch.tensor([1 + step % 3, 5])) * weight).sigmoid().sum().backward()
        for each in optimizers:
            each.step()


@pytest.fixture
def trained(compose: Callable[..., Config]) -> Callable[[Optimizer], Trained]:
    """A new table and a weight, with the optimizers of a kind."""

    def trained(kind: Optimizer) -> Trained:
        trainer = replace(compose().trainer, optimizer=kind, sparse=True, learning_rate=0.1)
        torch.manual_seed(0)
        table, weight = nn.Embedding(9, 3, sparse=True), nn.Parameter(torch.ones(3))
        return table, weight, make_optimizers(trainer, [table.weight, weight], [table])

    return trained


@pytest.mark.parametrize("kind", Optimizer)
def test_optimizer_goes_on_to_the_bit_as_if_it_had_never_stopped(
    kind: Optimizer, tmp_path: Path, trained: Callable[[Optimizer], Trained]
) -> None:
    whole, stopped, resumed = trained(kind), trained(kind), trained(kind)
    go(whole, range(9))
    go(stopped, range(4))
    written = tensor_files.write(tmp_path / "a", optimizer_tensors(stopped[2]))
    load_optimizers(resumed[2], tensor_files.read(tmp_path / "a", written, CPU))
    with torch.no_grad():
        resumed[0].weight.copy_(stopped[0].weight)
        resumed[1].copy_(stopped[1])
    go(resumed, range(4, 9))
    assert torch.equal(resumed[0].weight, whole[0].weight)
    assert torch.equal(resumed[1], whole[1])


@pytest.mark.parametrize("kind", Optimizer)
def test_optimizer_state_of_another_kind_is_told(kind: Optimizer, trained: Callable[[Optimizer], Trained]) -> None:
    subject = trained(kind)
    go(subject, range(2))
    state = optimizer_tensors(subject[2])
    wrong: list[dict[str, Tensor]] = [
        {**state, "optimizer.0.0.more": torch.ones(())},
        {**state, "optimizer.0.7.step": torch.ones(())},
        {**state, "optimizer.0.x": torch.ones(())},
        *({key: tensor for key, tensor in state.items() if key != name} for name in state),
        *({**state, name: torch.ones(5, 5)} for name in state),
        *({**state, name: torch.ones(5, 5).long()} for name in state),
    ]
    for tensors in wrong:
        parameters = ("optimizer.0.0.", "optimizer.1.0.")
        if any(named(each, state) and not named(each, tensors) for each in parameters):
            continue  # a parameter without any state has had no gradient yet
        with pytest.raises(DamagedFile):
            load_optimizers(trained(kind)[2], tensors)
