"""On a CUDA device every model does what it does on a CPU, gives the same bits twice, and resumes to the bit."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from batches import with_catalogue
from recorder import Recorder, Stopped, same, state, stop_after
from torch import Tensor, nn

from recexp import registry
from recexp.config import Config, Precision, Schedule
from recexp.contract.case import Case, build
from recexp.contract.checks import CHECKS, verdict
from recexp.contract.measure import step, without_draws
from recexp.dataset.batch import Batch
from recexp.layer.loss import bce
from recexp.model import Output
from recexp.trainer.broken import flattened, restored
from recexp.trainer.checkpoint import Checkpoints
from recexp.trainer.default import Trainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
CUDA = torch.device("cuda")
FITTED = ("als", "popularity")  # in one stage without steps
each_model = pytest.mark.parametrize("name", registry.names("model"))


@pytest.fixture
def case(compose: Callable[..., Config]) -> Callable[..., Case]:
    return lambda name, *overrides: build(compose(f"model={name}", "device=cuda", *overrides))


def on_cpu(batch: Batch) -> Batch:
    """The batch on the CPU."""
    return restored(Batch, "batch", {name: tensor.cpu() for name, tensor in flattened("batch", batch).items()})


def trained(subject: Case, recorder: Recorder, **options: Any) -> nn.Module:
    """The model after three epochs."""
    model = subject.make()
    trainer = Trainer(replace(subject.config.trainer, epochs=3, patience=None, **options), CUDA, seed=0)
    chosen = subject.config.model
    trainer.fit(model, subject.batches, chosen.loss_weights, chosen.embedding_l2, recorder, chosen.optimizers)
    return model


@each_model
def test_every_check_holds(name: str, case: Callable[..., Case]) -> None:
    subject = case(name)
    verdicts = {each.__name__: verdict(each, subject) for each in CHECKS}
    assert {name: told for name, (result, told) in verdicts.items() if result == "FAILED"} == {}


@each_model
def test_logits_and_gradients_are_those_of_a_cpu(name: str, case: Callable[..., Case]) -> None:
    subject = case(name)
    batch = with_catalogue(
        subject.mixed, sampling_pool=subject.mixed.catalogue.sampling_pool[:1]
    )  # sampled items are all this one
    there = step(without_draws(subject.make()), batch)
    here = step(without_draws(subject.make()).cpu(), on_cpu(batch))
    torch.testing.assert_close(there[0].cpu(), here[0], rtol=1e-4, atol=1e-5)
    for loss, value in here[1].items():
        torch.testing.assert_close(there[1][loss].cpu(), value, rtol=1e-4, atol=1e-5)
    for parameter, gradient in here[2].items():
        torch.testing.assert_close(there[2][parameter].cpu(), gradient, rtol=1e-3, atol=1e-5)


@each_model
@pytest.mark.parametrize("precision", Precision)
def test_training_repeats_itself_and_resumes_to_the_bit(
    name: str, precision: Precision, case: Callable[..., Case], tmp_path: Path
) -> None:
    subject = case(name)
    whole, again = (Recorder(tmp_path / folder) for folder in ("whole", "again"))
    wanted = state(trained(subject, whole, precision=precision))
    assert same(state(trained(subject, again, precision=precision)), wanted)
    killed = Recorder(tmp_path / "killed", stop_after(len(whole.lines) - 1 or 1))
    with pytest.raises(Stopped):
        trained(subject, killed, precision=precision)
    killed.then = lambda lines: None
    assert same(state(trained(subject, killed, precision=precision)), wanted)
    assert killed.told == again.told == whole.told


@each_model
def test_training_killed_in_mid_epoch_goes_on_to_the_same_bits(
    name: str, case: Callable[..., Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, options = case(name), {"batch_size": 100, "checkpoint_every": "3steps"}
    whole, killed = (Recorder(tmp_path / folder) for folder in ("whole", "killed"))
    wanted = state(trained(subject, whole, **options))
    save, saved = Checkpoints.save_last, []

    def save_and_stop(self: Checkpoints, *arguments: Any) -> None:
        save(self, *arguments)
        saved.append(len(killed.lines))
        if len(saved) in (2, 5):
            raise Stopped

    monkeypatch.setattr(Checkpoints, "save_last", save_and_stop)
    kills = 0
    while True:
        try:
            found = state(trained(subject, killed, **options))
            break
        except Stopped:
            kills += 1
    assert kills == 2 or name in FITTED
    assert same(found, wanted)
    assert killed.told == whole.told


@each_model
def test_replayed_steps_give_the_numbers_of_steps_taken_one_kernel_at_a_time(
    name: str, case: Callable[..., Case], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    subject = case(name)
    options = {"batch_size": 100, "schedule": Schedule.cosine, "warmup_steps": 5}
    replayed, taken = (Recorder(tmp_path / folder) for folder in ("replayed", "taken"))
    wanted = state(trained(subject, taken, cuda_graph=False, **options))
    assert not caplog.records
    found = state(trained(subject, replayed, **options))
    assert replayed.told == taken.told
    assert same(found, wanted)
    assert bool(caplog.records) == (name == "wide_deep")  # FTRL updates rows of its table


def test_sampled_negatives_are_replayed(case: Callable[..., Case], tmp_path: Path) -> None:
    subject = case("din", "dataset.label=implicit", "dataset.negatives=2", "model.history_labels=false")
    replayed, taken = (Recorder(tmp_path / folder) for folder in ("replayed", "taken"))
    wanted = state(trained(subject, taken, cuda_graph=False))
    assert same(state(trained(subject, replayed)), wanted)


class Waits(nn.Module):
    """Its steps wait for the GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones((), device=CUDA))

    def forward(self, batch: Batch) -> Output:
        return Output(self.weight * batch.label.sum().item() * torch.ones_like(batch.label))

    def losses(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        return {"target": bce(output.logits, batch.label)}


def test_a_model_that_waits_is_trained_and_told(
    case: Callable[..., Case], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    subject = replace(case("fm"), make=Waits)
    recorder = Recorder(tmp_path)
    assert trained(subject, recorder).weight != 1
    assert len(recorder.lines) == 3
    (record,) = caplog.records
    assert "test_cuda.py" in record.getMessage() and "waits for the GPU" in record.getMessage()
