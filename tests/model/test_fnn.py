"""Factorisation-machine supported network: what its MLP sees, and its two stages."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from recorder import Recorder, Stopped, checkpoint, same, stop_after
from torch import Tensor, nn

from recexp.config import Config
from recexp.dataset.batch import Batch, Batches
from recexp.dataset.log import Dataset
from recexp.error import ConfigError
from recexp.model import stages
from recexp.trainer.checkpoint import named
from recexp.trainer.default import Result, Trainer

CPU = torch.device("cpu")
Make = Callable[..., nn.Module]
Vectors = Callable[..., list[Tensor]]
State = dict[str, Tensor]


@pytest.fixture
def fnn(make: Make) -> Make:
    """A small fnn of two stages, each of two epochs."""
    return lambda **options: make("fnn", embedding_dim=4, fm_epochs=2, hidden_sizes=[8], **options)


@pytest.fixture
def fit(compose: Callable[..., Config], batches: Batches) -> Callable[[nn.Module, Recorder], Result]:
    config = replace(compose().trainer, epochs=2, patience=None, learning_rate=0.01)
    return lambda model, recorder: Trainer(config, CPU, 0).fit(model, batches, {"target": 1.0}, 0.01, recorder)


def saved(recorder: Recorder, name: str) -> State:
    """The tensors of a checkpoint, by the names they have in the model."""
    return named("model.", checkpoint(recorder.checkpoints, name)[0])


def changed(before: State, after: State) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


@torch.no_grad()
def by_fields(model: nn.Module, batch: Batch, field_vectors: Vectors) -> Tensor:
    """Stage 2's logits, a sample and a field at a time."""
    first, last = model.mlp.linears
    logits = []
    for row in range(len(batch)):
        seen = [model.fm.linear.bias[None]]
        w, e = (field_vectors(embed, batch, row) for embed in (model.fm.linear.weights, model.fm.embed))
        for w_i, e_i in zip(w, e, strict=True):
            seen += [w_i, e_i]
        logits.append(last.weight @ torch.relu(first.weight @ torch.cat(seen) + first.bias) + last.bias)
    return torch.cat(logits)


def with_wide_weights(model: nn.Module) -> nn.Module:
    """The model with w0 and w_i that show in the logits."""
    for parameter in model.fm.linear.parameters():
        nn.init.normal_(parameter)
    for side in model.fm.linear.weights.sides.values():
        nn.init.zeros_(side.table.weight[0])  # padding
    return model.eval()


def test_mlp_sees_w0_and_each_field_s_weight_and_vector(fnn: Make, mixed: Batch, field_vectors: Vectors) -> None:
    model = with_wide_weights(fnn())
    torch.testing.assert_close(model(mixed).logits, by_fields(model, mixed, field_vectors), rtol=1e-5, atol=1e-5)


def test_mlp_sees_the_fields_of_a_table(
    fnn: Make, compose: Callable[..., Config], table: Dataset, field_vectors: Vectors
) -> None:
    batch = next(Batches(table, compose().dataset).epoch("train", 16))
    model = with_wide_weights(fnn(schema=table.schema))
    torch.testing.assert_close(model(batch).logits, by_fields(model, batch, field_vectors), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("freeze", [False, True])
def test_stage_1_is_an_fm_to_the_bit(
    freeze: bool, fnn: Make, make: Make, fit: Callable, mixed: Batch, tmp_path: Path
) -> None:
    model, machine = fnn(freeze=freeze), make("fm", embedding_dim=4)
    assert torch.equal(stages(model)[0].model(mixed).logits, machine(mixed).logits)
    both, alone = Recorder(tmp_path / "fnn"), Recorder(tmp_path / "fm")
    fit(model, both)
    fit(machine, alone)
    own = {name.removeprefix("fm."): tensor for name, tensor in saved(both, "fm").items() if name.startswith("fm.")}
    assert same(own, saved(alone, "best"))
    assert [{**line, "stage": "train", "last_stage": True} for line in both.told[:2]] == alone.told


def test_each_stage_writes_its_lines_and_its_checkpoint(fnn: Make, fit: Callable, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "checkpoints")
    result = fit(fnn(), recorder)
    told = [(line["stage"], line["epoch"]) for line in recorder.lines]
    assert told == [("fm", 1), ("fm", 2), ("train", 1), ("train", 2)]
    assert sorted(path.name for path in recorder.checkpoints.glob("*.json")) == ["best.json", "fm.json", "last.json"]
    assert result.progress.stage == 1 and result.progress.finished


def test_stage_1_leaves_the_mlp_as_it_was(fnn: Make, fit: Callable, tmp_path: Path) -> None:
    model, recorder = fnn(), Recorder(tmp_path / "checkpoints")
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fit(model, recorder)
    trained = changed(start, saved(recorder, "fm"))
    assert trained == {name for name in start if name.startswith("fm.")}


def test_frozen_fm_keeps_its_bits_and_gets_no_gradient(fnn: Make, fit: Callable, tmp_path: Path) -> None:
    model, recorder = fnn(freeze=True), Recorder(tmp_path / "checkpoints")
    fit(model, recorder)
    for name in ("best", "last"):
        trained = changed(saved(recorder, "fm"), saved(recorder, name))
        assert trained == {name for name, _ in model.mlp.named_parameters(prefix="mlp")}
    assert all(each.grad is None for each in model.fm.parameters())
    assert all(each.grad is not None for each in model.mlp.parameters())


def test_fm_is_tuned_unless_frozen(fnn: Make, fit: Callable, tmp_path: Path) -> None:
    model, recorder = fnn(freeze=False), Recorder(tmp_path / "checkpoints")
    fit(model, recorder)
    assert changed(saved(recorder, "fm"), saved(recorder, "best")) == model.state_dict().keys()


@pytest.mark.parametrize("freeze", [False, True])
@pytest.mark.parametrize("stop", [2, 3, 4])  # in stage 1, between the stages, in stage 2
def test_stopped_run_goes_on_to_the_same_figures(
    stop: int, freeze: bool, fnn: Make, fit: Callable, tmp_path: Path
) -> None:
    whole, recorder = fnn(freeze=freeze), Recorder(tmp_path / "whole")
    wanted = fit(whole, recorder)
    other = Recorder(tmp_path / "stopped", stop_after(stop))
    with pytest.raises(Stopped):
        fit(fnn(freeze=freeze), other)
    other.then = lambda lines: None
    resumed = fnn(freeze=freeze, seed=9)  # weights come from the checkpoint
    actual = fit(resumed, other)
    assert other.told == recorder.told
    assert same(resumed.state_dict(), whole.state_dict())
    assert (actual.valid, actual.test) == (wanted.valid, wanted.test)


def test_no_epoch_for_the_fm_is_refused(make: Make) -> None:
    with pytest.raises(ConfigError, match=r"^model\.fm_epochs = 0: must be 1 or more\.$"):
        make("fnn", fm_epochs=0)
