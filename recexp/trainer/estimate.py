"""What training will take, from a few real steps on a model that nobody keeps: memory, and seconds an epoch."""

import copy
import itertools
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from recexp.config import Optimizer
from recexp.dataset.batch import Batch, Batches
from recexp.error import Failure
from recexp.metric.full_ranking import questions
from recexp.metric.scoring import evaluate_split
from recexp.model import Fit, Train, reads_history
from recexp.trainer.default import Trainer
from recexp.trainer.divergence import Diverged
from recexp.trainer.loop import Take, set_mode
from recexp.trainer.optimizer import optimizer_overrides
from recexp.trainer.state import Progress
from recexp.trainer.step import Step, autocast

WARM_UP = 5  # steps: the first ones fill caches, and on a GPU are recorded
SECONDS, FEWEST, MOST = 3.0, 10, 300  # how long steps are measured, and how many of them at least and at most
EVALUATED = 8  # batches of validation that are measured
RANKED = 64  # users for whom ranking is measured, or more where that takes no time


@dataclass(frozen=True)
class Estimate:
    """One stage. A stage that is fitted in closed form takes one epoch, which is not measured."""

    stage: str
    epochs: int  # at most
    n_steps: int = 0  # an epoch; 0 if it is fitted in closed form
    step: float = 0.0  # seconds, the median
    epoch: float = 0.0  # seconds of training
    validation: float = 0.0  # seconds after each epoch
    memory: Mapping[str, int] | None = None  # bytes, by what they are for

    @property
    def seconds(self) -> float:
        return self.epochs * (self.epoch + self.validation)


def estimates(
    trainer: Trainer,
    model: nn.Module,
    batches: Batches,
    weights: dict[str, float],
    l2: float,
    optimizers: Mapping[str, Optimizer],
) -> list[Estimate]:
    """One for each stage, with the arguments of `Trainer.fit`. Changes the model. Raises Failure if it diverges."""
    overrides = optimizer_overrides(trainer.config, model, optimizers)
    found = []
    walked = trainer.walked(batches)
    with trainer.numerics():
        for stage in trainer.stages(model):
            if isinstance(stage, Fit):
                found.append(Estimate(stage.name, epochs=1))
                continue
            step = Step(stage, weights, l2, trainer.config, walked, trainer.n_epochs(stage), overrides)
            try:
                found.append(_estimate(trainer, stage, step, batches))
            except Diverged as diverged:
                raise Failure(
                    f"stage {stage.name}, {diverged.steps}: {diverged.what}; its cost is not known"
                ) from diverged
    return found


def _estimate(trainer: Trainer, stage: Train, step: Step, of_rows: Batches) -> Estimate:
    """of_rows: what evaluation reads; `step` walks over the same, or over windows of it."""
    size, batches = trainer.config.batch_size, step.batches
    began, seconds = time.perf_counter(), []
    for taken, spent in enumerate(_steps(stage, trainer.taking(step), batches, size, trainer.seed)):
        if taken >= WARM_UP:
            seconds.append(spent)
        if len(seconds) >= MOST or (len(seconds) >= FEWEST and time.perf_counter() - began > SECONDS):
            break
    median, n_rows = statistics.median(seconds), batches.size("train")
    return Estimate(
        stage=stage.name,
        epochs=trainer.n_epochs(stage),
        n_steps=batches.steps("train", size),
        step=median,
        epoch=_beginning(stage, batches, size) + median * n_rows / min(size, n_rows),
        validation=_scoring(trainer, stage, of_rows) + _ranking(trainer, stage, batches, of_rows),
        memory=_memory(stage, step, size),
    )


def _steps(stage: Train, take: Take, batches: Batches, size: int, seed: int) -> Iterator[float]:
    """Takes steps, epoch after epoch; yields the seconds of each on a full batch, without what begins an epoch."""
    set_mode(stage)
    progress, full = Progress(), min(size, batches.size("train"))
    for epoch in itertools.count(seed):
        began = None
        for samples in batches.samples("train", size, epoch, reads_history(stage.model)):
            began = began or time.perf_counter()
            progress.end_step(take(samples, progress), len(samples))
            now = time.perf_counter()
            if len(samples) == full:
                yield now - began
            began = now
        progress.taken, progress.rows, progress.totals = 0, 0, {}


def _beginning(stage: Train, batches: Batches, size: int) -> float:
    """Seconds until an epoch has its first samples: it is shuffled, and negatives are drawn."""
    began = time.perf_counter()
    next(batches.samples("train", size, 0, reads_history(stage.model)))
    return time.perf_counter() - began


def _scoring(trainer: Trainer, stage: Train, batches: Batches) -> float:
    """Seconds of scoring the validation split, from its first rows; 0 if no labels are predicted."""
    size, rows = trainer.config.eval_batch_size, batches.rows["valid"]
    if not len(rows) or not trainer.predicts_labels:
        return 0.0
    few = copy.copy(batches)
    for n_rows in (size, EVALUATED * size):  # the first to warm up
        few.rows = batches.rows | {"valid": rows[:n_rows]}
        began = time.perf_counter()
        evaluate_split(stage.model, few, "valid", size, autocast(trainer.config, trainer.device))
        seconds = time.perf_counter() - began
    return seconds * len(rows) / len(few.rows["valid"])


def _ranking(trainer: Trainer, stage: Train, batches: Batches, of_rows: Batches) -> float:
    """Seconds of ranking items for the users of the validation split, from some of them; 0 if nothing is ranked."""
    config = trainer.config.ranking
    n_users = len(questions(of_rows, "valid", config.relevant, config.valid_users)) if config.protocol else 0
    if not n_users:
        return 0.0
    few = copy.copy(trainer)

    def seconds(n: int) -> float:
        few.config = replace(trainer.config, ranking=replace(config, valid_users=n))
        began = time.perf_counter()
        few.ranked(stage.model, batches, "valid")
        return time.perf_counter() - began

    n = min(RANKED, n_users)
    spent = seconds(n)
    if n < n_users and spent < SECONDS / 2:  # users are ranked in blocks, so few of them tell too little
        n = min(n_users, int(n * SECONDS / spent))
        spent = seconds(n)
    return spent * n_users / n


def _memory(stage: Train, step: Step, size: int) -> dict[str, int]:
    """Bytes after steps were taken: of the gradients and the optimizer's state as they are, dense or by row."""
    set_mode(stage)
    batch = step.gather(next(step.batches.samples("train", size, 0, reads_history(stage.model))))
    activations = _activation_bytes(step, batch)
    gradients = [parameter.grad for parameter in step.trained if parameter.grad is not None]
    states = [state for optimizer in step.optimizers for state in optimizer.state.values()]
    return {
        "weights": sum(tensor.nbytes for tensor in stage.model.state_dict().values()),
        "gradients": sum(map(_bytes, gradients)),
        "optimizer state": sum(_bytes(value) for state in states for value in state.values()),
        "batch": sum(map(_bytes, _tensors(batch))),
        "activations": activations,
    }


def _activation_bytes(step: Step, batch: Batch) -> int:
    """Bytes that the forward pass keeps for the backward pass, the weights not counted."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.layout is torch.strided:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step.gradients(batch)
    for tensor in (*step.model.parameters(), *step.model.buffers(), *_tensors(batch), *_tensors(batch.catalogue)):
        kept.pop(tensor.untyped_storage().data_ptr(), None)
    return sum(kept.values())


def _tensors(value: Any) -> list[Tensor]:
    """The tensors of a dataclass and of those in it, without the catalogue, which all batches share."""
    members = [getattr(value, item.name) for item in fields(value) if item.name != "catalogue"]
    there = [member for member in members if member is not None]
    return [tensor for member in there for tensor in ([member] if isinstance(member, Tensor) else _tensors(member))]


def _bytes(value: Any) -> int:
    """The bytes of a tensor; of a number that an optimizer counts in, none."""
    if not isinstance(value, Tensor):
        return 0
    return value._values().nbytes + value._indices().nbytes if value.is_sparse else value.nbytes
