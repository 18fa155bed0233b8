"""Numbers that are no longer finite: found before they reach the weights, traced to what was first, and seen again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from recorder import state
from torch import Tensor, nn

from recexp.cli import run
from recexp.config import Config, Optimizer
from recexp.dataset.batch import Batch, Batches, Samples
from recexp.error import DamagedFile, RunError
from recexp.model import stages
from recexp.trainer import broken
from recexp.trainer.divergence import Cause, Diverged, Watched, examine, finite_means, first_broken_output
from recexp.trainer.state import Progress, random_states
from recexp.trainer.step import Step

CPU = torch.device("cpu")
SMOKE = ["+experiment=smoke", "trainer.threads=1", "model=fm", "run.dir=a"]


@pytest.fixture
def watched(make: Callable[..., nn.Module], batches: Batches, compose: Callable[..., Config]) -> Callable[..., Watched]:
    """watched("fm", learning_rate=0.1): the steps of a new model."""
    from dataclasses import replace

    def watched(name: str, l2: float = 0.0, **options: Any) -> Watched:
        model = make(name).train()
        return Watched(Step(stages(model)[-1], {"target": 1.0}, l2, replace(compose().trainer, **options), batches, 1))

    return watched


@pytest.fixture
def samples(batches: Batches) -> Samples:
    return next(batches.samples("train", 64))


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def diverged(subject: Watched, samples: Samples) -> Cause:
    """The cause of a step that is not taken; weights and optimizers stay as they were."""
    before = weights(subject.step.model), str([each.state_dict() for each in subject.step.optimizers])
    with pytest.raises(Diverged, match=r"^$") as error:
        subject.take(samples, Progress(taken=6))
    assert error.value.steps == "step 7" and error.value.cause is not None
    torch.testing.assert_close(weights(subject.step.model), before[0], rtol=0, atol=0, equal_nan=True)
    assert str([each.state_dict() for each in subject.step.optimizers]) == before[1]
    return error.value.cause


def test_watched_step_equals_a_step(watched: Callable[..., Watched], samples: Samples) -> None:
    subject, plain = watched("deepfm"), watched("deepfm").step
    torch.manual_seed(1)
    losses = subject.take(samples, Progress())
    torch.manual_seed(1)
    assert plain.take(samples, Progress()) == losses
    torch.testing.assert_close(state(subject.step.model), state(plain.model), rtol=0, atol=0)


def test_loss_is_traced_to_the_first_output(watched: Callable[..., Watched], samples: Samples) -> None:
    subject = watched("din")
    with torch.no_grad():
        subject.step.model.attention.mlp.linears[0].weight.fill_(3e38)
    finding = examine(diverged(subject, samples))
    assert finding.losses.keys() == {"target"} and not finding.weight
    assert finding.module and finding.module.startswith("attention")
    assert "largest weight, 3e+38, is of attention.mlp.linears.0.weight" in finding.first


def test_weight_that_was_broken_before_is_named(watched: Callable[..., Watched], samples: Samples) -> None:
    subject = watched("fm")
    with torch.no_grad():
        subject.step.model.linear.bias.fill_(torch.nan)
    assert examine(diverged(subject, samples)).weight == "linear.bias"


class Kink(torch.autograd.Function):
    """Itself, with a gradient that is not finite."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return gradient * torch.inf


def test_gradient_alone_is_traced_to_the_first_in_back_propagation(
    watched: Callable[..., Watched], samples: Samples
) -> None:
    subject = watched("deepfm")
    forward = subject.step.model.linear.forward
    subject.step.model.linear.forward = lambda batch: Kink.apply(forward(batch))
    finding = examine(diverged(subject, samples))
    assert (finding.weight, finding.module) == (None, None)
    assert finding.gradient and finding.gradient.startswith("linear.")


def test_gradients_that_overflow_together_are_told(watched: Callable[..., Watched], samples: Samples) -> None:
    finding = examine(diverged(watched("fm", l2=1e25), samples))
    assert (finding.weight, finding.module, finding.gradient, finding.updated) == (None, None, None, None)
    assert "together overflow" in finding.first and "table.weight" in finding.first


@pytest.mark.parametrize("kind", [Optimizer.sgd, Optimizer.adam])
def test_update_that_overflows_is_undone(kind: Optimizer, watched: Callable[..., Watched], samples: Samples) -> None:
    finding = examine(diverged(watched("fm", optimizer=kind, learning_rate=1e39, clip_norm=None), samples))
    assert finding.updated and "would make weights" in finding.first


def test_large_learning_rate_that_does_not_overflow_is_allowed(
    watched: Callable[..., Watched], samples: Samples
) -> None:
    subject = watched("fm", learning_rate=1e31)
    subject.take(samples, Progress())
    assert float(subject.step.model.linear.bias.detach().abs()) > 1e30


@pytest.mark.parametrize("name", ["bst", "cnn", "dien", "din", "transformer4rec", "wide_deep"])
def test_healthy_model_has_no_broken_output(name: str, make: Callable[..., nn.Module], mixed: Batch) -> None:
    """Masked scores are -inf inside a layer, never in what it returns."""
    model = make(name)
    for training in (True, False):
        with first_broken_output(model.train(training)) as modules:
            model(mixed)
        assert modules == []


def test_sum_of_losses_that_overflows_names_its_steps() -> None:
    progress = Progress(step=100)
    for _ in range(20):
        progress.end_step({"target": torch.tensor(3e38)}, 1)
    with pytest.raises(Diverged, match="loss 'target' is inf") as error:
        finite_means(progress)
    assert error.value.steps == "steps 1 to 20"


# Kept, and seen again


@pytest.mark.parametrize("kind", [Optimizer.adam, Optimizer.adagrad, Optimizer.ftrl])
def test_kept_step_gives_the_same_finding(
    kind: Optimizer,
    watched: Callable[..., Watched],
    samples: Samples,
    make: Callable,
    compose: Callable,
    tmp_path: Path,
) -> None:
    subject = watched("deepfm", optimizer=kind)
    subject.take(samples, Progress())
    with torch.no_grad():
        subject.step.model.deep.linears[1].weight.fill_(1e38)
    cause = diverged(subject, samples)
    broken.keep(tmp_path, subject.step.model, cause, "epoch 1", "", 0)
    wanted = examine(cause)
    config = compose("model=deepfm", f"trainer.optimizer={kind.name}")
    where, what, again = broken.load(tmp_path, make("deepfm", seed=3), config, CPU)
    assert (where, what) == ("epoch 1", "")
    assert str(examine(again)) == str(wanted)


def test_kept_batch_comes_back(mixed: Batch) -> None:
    tensors = broken.flattened("batch", mixed)
    found = broken.restored(Batch, "batch", tensors)
    assert broken.flattened("batch", found).keys() == tensors.keys()
    assert torch.equal(found.catalogue.items.ids, mixed.catalogue.items.ids)
    assert torch.equal(found.history, mixed.history)


def test_damaged_step_is_told(make: Callable, compose: Callable, mixed: Batch, tmp_path: Path) -> None:
    model = make("fm")
    with pytest.raises(RunError, match="no step to run again"):
        broken.load(tmp_path, model, compose("model=fm"), CPU)
    broken.keep(tmp_path, model, Cause(model, None, mixed, random_states(CPU)), "epoch 1", "", 0)
    content = json.loads((tmp_path / "broken.json").read_text())
    (tmp_path / "broken.json").write_text(json.dumps({**content, "stage": 7}))
    with pytest.raises(DamagedFile):
        broken.load(tmp_path, model, compose("model=fm"), CPU)
    (tmp_path / "broken.safetensors").write_bytes(b"{}")
    with pytest.raises(DamagedFile):
        broken.load(tmp_path, model, compose("model=fm"), CPU)


CASES = {
    "loss": (["trainer.learning_rate=1e25"], r"stage train, epoch \d, step \d+: loss 'target' is nan"),
    "scores": (
        ["trainer.learning_rate=1e30", "trainer.clip_norm=null", "trainer.batch_size=100000"],
        "scores of valid are not finite",
    ),
    "update": (["trainer.optimizer=sgd", "trainer.learning_rate=1e40"], "step 1: the update would make weights of"),
    "gradients": (["model.embedding_l2=1e38"], "step 1: the gradients together overflow"),
}


@pytest.mark.parametrize(("overrides", "told"), CASES.values(), ids=CASES)
def test_failed_run_says_where_and_replays_it(
    overrides: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    import re

    monkeypatch.chdir(tmp_path)
    assert run([*SMOKE, *overrides]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("recexp: ")]
    assert re.search(told, line) and "lower trainer.learning_rate" in line
    status = json.loads(Path("a/status.json").read_text())
    assert status["state"] == "failed" and f"recexp: {status['error']}" == line
    assert run(["replay", "a"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert line == f"recexp: {first}; look closer with: recexp replay a"


def test_fit_that_cannot_be_solved_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["+experiment=smoke", "model=als", "model.regularisation=1e-320", "run.dir=a"]) == 1
    told = capsys.readouterr().err
    assert "stage als, epoch 1: " in told and "Traceback" not in told
    assert run(["replay", "a"]) == 2
    assert "no step to run again" in capsys.readouterr().err
