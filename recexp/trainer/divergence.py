"""Numbers that are no longer finite: found before they reach the weights, and traced to where they began."""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from recexp.config import TrainerConfig
from recexp.dataset.batch import Batch, Batches, Samples
from recexp.trainer.ftrl import FTRL
from recexp.trainer.state import Progress, random_states, restore_random_states
from recexp.trainer.step import Step

STEPS_BETWEEN_LOOKS = 50  # at the losses, where not every step is watched: reading one waits for the device
HUGE = 1e30  # an update that may be so large is checked for overflow: the largest 32-bit float is 3.4e38


@dataclass(frozen=True)
class Cause:
    """A step that was not taken, or, without a step, a batch whose scores are not finite."""

    model: nn.Module
    step: Step | None
    batch: Batch
    random: dict[str, Tensor]  # the states of the random generators before it


class Diverged(Exception):
    """Says what is no longer finite. Running the cause again, if it is known, reproduces it."""

    def __init__(self, what: str = "", steps: str = "", cause: Cause | None = None, advice: str = "") -> None:
        """steps: of the epoch, in words. advice: if it is not to lower the learning rate."""
        super().__init__(what)
        self.what, self.steps, self.cause, self.advice = what, steps, cause, advice


class Watched:
    """Takes the steps of a Step; one whose losses, gradients or update are not finite is not taken."""

    def __init__(self, step: Step) -> None:
        self.step = step

    def take(self, samples: Samples, progress: Progress) -> dict[str, Tensor]:
        """Like Step.take. Raises Diverged, with weights and optimizers as before the step."""
        step, random = self.step, random_states(self.step.batches.device)
        batch = step.gather(samples)
        step.set_learning_rates(progress)
        losses = step.gradients(batch)
        norm = step.gradient_norm()
        if not all(math.isfinite(float(number)) for number in (norm, *losses.values())) or update_unless_overflowing(
            step, norm
        ):
            cause = Cause(step.model, step, batch, random)
            raise Diverged(steps=f"step {progress.taken + 1}", cause=cause)
        return losses


def update_unless_overflowing(step: Step, norm: Tensor) -> str | None:
    """Updates the parameters. If one is not finite then, undoes the update and returns its name. norm: of gradients."""
    learning_rates = [float(group["lr"]) for optimizer in step.optimizers for group in optimizer.param_groups]
    if max(learning_rates) * max(1.0, float(norm)) < HUGE:
        step.update(norm)
        return None
    weights = [parameter.detach().clone() for parameter in step.trained]
    states = [copy.deepcopy(optimizer.state_dict()) for optimizer in step.optimizers]
    step.update(norm)
    if not (broken := broken_weights(step.model)):
        return None
    for parameter, weight in zip(step.trained, weights, strict=True):
        parameter.data.copy_(weight)
    for optimizer, state in zip(step.optimizers, states, strict=True):
        optimizer.load_state_dict(state)
    return broken[0]


def finite_means(progress: Progress) -> dict[str, float]:
    """The mean of each named loss over the epoch so far. Raises Diverged."""
    means = progress.mean_losses()
    if broken := non_finite_losses(means):
        first = max(1, progress.taken - (progress.step - 1) % STEPS_BETWEEN_LOOKS)
        raise Diverged(broken, steps=f"steps {first} to {progress.taken}")
    return means


def non_finite_losses(losses: dict[str, float]) -> str:
    """The losses that are not finite, in words."""
    return " and ".join(f"loss '{name}' is {loss}" for name, loss in losses.items() if not math.isfinite(loss))


def broken_weights(model: nn.Module) -> list[str]:
    """The names of the parameters that are not finite."""
    return [name for name, parameter in model.named_parameters() if not parameter.isfinite().all()]


@contextmanager
def finite_scores(model: nn.Module, batches: Batches, split: str, batch_size: int) -> Iterator[None]:
    """Raises Diverged for the FloatingPointError of scores that are not finite, with the first batch that has some."""
    try:
        yield
    except FloatingPointError as error:
        random = random_states(batches.device)
        with torch.no_grad():
            broken = (batch for batch in batches.epoch(split, batch_size) if not model(batch).logits.isfinite().all())
            batch = next(broken, None)
        raise Diverged(str(error), cause=Cause(model, None, batch, random) if batch else None) from error


def require_finite(model: nn.Module) -> None:
    """Raises Diverged if a weight is not finite."""
    if broken := broken_weights(model):
        raise Diverged(f"weights of {broken[0]} are not finite")


@dataclass(frozen=True)
class Finding:
    """Where numbers ceased to be finite. Each name is the first of its kind, None if all of that kind are finite."""

    losses: dict[str, float]
    weight: str | None  # before the step
    module: str | None  # by its output in the forward pass; "" for the whole model
    gradient: str | None  # in the order of back-propagation
    updated: str | None  # weight after the update
    sizes: list[tuple[str, float, float]]  # of each parameter: name, largest weight, largest gradient or 0
    ftrl: bool = False  # whether FTRL updates some of the weights

    @property
    def first(self) -> str:
        """In words, what ceased to be finite first."""
        if self.weight:
            return f"weights of {self.weight} were not finite before"
        if self.module is not None:
            name, weight, _ = max(self.sizes, key=lambda size: size[1])
            inner = f"the first output that is not finite is that of {self.module}; " if self.module else ""
            return f"{inner}the largest weight, {weight:.3g}, is of {name}"
        if self.gradient:
            return f"the first gradient that is not finite is that of {self.gradient}"
        if self.updated:
            return f"the update would make weights of {self.updated} infinite"
        name, _, gradient = max(self.sizes, key=lambda size: size[2])
        return f"the gradients together overflow; the largest, {gradient:.3g}, is of {name}"


def examine(cause: Cause) -> Finding:
    """Runs the cause again and finds where numbers cease to be finite. Weights and optimizers stay as they are."""
    restore_random_states(cause.random, next(tensors_in(cause.batch)).device)
    weight = next(iter(broken_weights(cause.model)), None)
    with first_broken_output(cause.model) as modules:
        if cause.step is None:
            cause.model.eval()
            with torch.no_grad():
                cause.model(cause.batch)
            sizes = [(name, largest(tensor), 0.0) for name, tensor in cause.model.named_parameters()]
            return Finding({}, weight, modules[0] if modules else None, None, None, sizes)
        with broken_gradients(cause.step) as gradients:
            losses = {name: float(loss) for name, loss in cause.step.gradients(cause.batch).items()}
    parameters = {name: tensor for name, tensor in cause.model.named_parameters() if tensor.grad is not None}
    gradients += [name for name, tensor in parameters.items() if not _dense(tensor).isfinite().all()]
    norm = cause.step.gradient_norm()
    finite = not modules and not gradients and math.isfinite(float(norm)) and not non_finite_losses(losses)
    return Finding(
        losses,
        weight,
        modules[0] if modules else None,
        gradients[0] if gradients else None,
        update_unless_overflowing(cause.step, norm) if finite else None,
        [(name, largest(tensor), largest(_dense(tensor))) for name, tensor in parameters.items()],
        any(isinstance(optimizer, FTRL) for optimizer in cause.step.optimizers),
    )


@contextmanager
def first_broken_output(model: nn.Module) -> Iterator[list[str]]:
    """The names of the modules whose output is not finite, in the order in which they end."""
    broken: list[str] = []

    def look(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not all(tensor.isfinite().all() for tensor in tensors_in(output) if tensor.is_floating_point()):
                broken.append(name)

        return hook

    hooks = [module.register_forward_hook(look(name)) for name, module in model.named_modules()]
    try:
        yield broken
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def broken_gradients(step: Step) -> Iterator[list[str]]:
    """The names of the parameters whose gradient is not finite, in the order in which they get it."""
    broken: list[str] = []

    def look(name: str) -> Callable[[Tensor], None]:
        def hook(gradient: Tensor) -> None:
            values = gradient._values() if gradient.is_sparse else gradient
            if not values.isfinite().all():
                broken.append(name)

        return hook

    trained = [(name, tensor) for name, tensor in step.model.named_parameters() if tensor.requires_grad]
    hooks = [tensor.register_hook(look(name)) for name, tensor in trained]
    try:
        yield broken
    finally:
        for hook in hooks:
            hook.remove()


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in what a module returns."""
    match value:
        case Tensor():
            yield value
        case dict() | list() | tuple():
            for item in value.values() if isinstance(value, dict) else value:
                yield from tensors_in(item)
        case _ if is_dataclass(value):
            yield from tensors_in(vars(value))


def largest(tensor: Tensor) -> float:
    """The largest absolute value; nan if there is one."""
    return float(tensor.detach().abs().max()) if tensor.numel() else 0.0


def explanation(where: str, what: str, finding: Finding | None, advice: str) -> str:
    """What happened where, what was first, and what to change."""
    details = [non_finite_losses(finding.losses), finding.first] if finding else []
    return f"{where}: {'; '.join(filter(None, [what, *details, advice]))}"


def what_to_lower(config: TrainerConfig, finding: Finding | None) -> str:
    """Advice against numbers that grow in training."""
    if finding and finding.weight:
        return ""
    ftrl = f", trainer.ftrl.learning_rate ({config.ftrl.learning_rate:g})" if finding and finding.ftrl else ""
    clip = "null" if config.clip_norm is None else f"{config.clip_norm:g}"
    return f"lower trainer.learning_rate ({config.learning_rate:g} now){ftrl} or trainer.clip_norm ({clip})"


def _dense(parameter: Tensor) -> Tensor:
    """The values of a parameter's gradient."""
    assert parameter.grad is not None
    return parameter.grad._values() if parameter.grad.is_sparse else parameter.grad
