"""Estimates the memory and the seconds per epoch of training, from a few real steps on a throwaway model."""

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
from recexp.metric.full_ranking import ranked_users
from recexp.metric.scoring import evaluate_split
from recexp.model import Fit, Train, reads_history
from recexp.trainer.default import Trainer
from recexp.trainer.divergence import Diverged
from recexp.trainer.loop import TakeStep, set_mode
from recexp.trainer.optimizer import optimizer_overrides
from recexp.trainer.state import Progress
from recexp.trainer.step import Step, autocast

WARM_UP = 5  # steps not measured: the first ones fill caches, and on a GPU are recorded
SECONDS, MIN_STEPS, MAX_STEPS = 3.0, 10, 300  # how long steps are measured, and how many at least and at most
EVAL_BATCHES = 8  # batches of validation that are measured
RANKED_USERS = 64  # users for whom ranking is measured, or more where that takes no time


@dataclass(frozen=True)
class Estimate:
    """The cost of one stage. A stage that is fitted in closed form takes one epoch, which is not measured."""

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
    """One estimate per stage; arguments as in `Trainer.fit`. Changes the model. Raises Failure if it diverges."""
    overrides = optimizer_overrides(trainer.config, model, optimizers)
    stage_estimates = []
    training_batches = trainer.training_batches(batches)
    with trainer.numerics():
        for stage in trainer.stages(model):
            if isinstance(stage, Fit):
                stage_estimates.append(Estimate(stage.name, epochs=1))
                continue
            step = Step(stage, weights, l2, trainer.config, training_batches, trainer.n_epochs(stage), overrides)
            try:
                stage_estimates.append(_estimate(trainer, stage, step, batches))
            except Diverged as diverged:
                raise Failure(
                    f"stage {stage.name}, {diverged.steps}: {diverged.what}; its cost is not known"
                ) from diverged
    return stage_estimates


def _estimate(trainer: Trainer, stage: Train, step: Step, eval_batches: Batches) -> Estimate:
    """eval_batches: what evaluation reads; `step` trains on the same batches, or on windows of their events."""
    size, batches = trainer.config.batch_size, step.batches
    began, seconds = time.perf_counter(), []
    for taken, spent in enumerate(_steps(stage, trainer.step_function(step), batches, size, trainer.seed)):
        if taken >= WARM_UP:
            seconds.append(spent)
        if len(seconds) >= MAX_STEPS or (len(seconds) >= MIN_STEPS and time.perf_counter() - began > SECONDS):
            break
    median, n_rows = statistics.median(seconds), batches.size("train")
    return Estimate(
        stage=stage.name,
        epochs=trainer.n_epochs(stage),
        n_steps=batches.steps("train", size),
        step=median,
        epoch=_startup_seconds(stage, batches, size) + median * n_rows / min(size, n_rows),
        validation=_scoring_seconds(trainer, stage, eval_batches)
        + _ranking_seconds(trainer, stage, batches, eval_batches),
        memory=_memory(stage, step, size),
    )


def _steps(stage: Train, take: TakeStep, batches: Batches, size: int, seed: int) -> Iterator[float]:
    """Takes steps, epoch after epoch; yields the seconds of each on a full batch, without the start of an epoch."""
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


def _startup_seconds(stage: Train, batches: Batches, size: int) -> float:
    """Seconds until an epoch has its first samples: shuffling, and drawing negatives."""
    began = time.perf_counter()
    next(batches.samples("train", size, 0, reads_history(stage.model)))
    return time.perf_counter() - began


def _scoring_seconds(trainer: Trainer, stage: Train, batches: Batches) -> float:
    """Seconds of scoring the validation split, from its first rows; 0 if no labels are predicted."""
    size, rows = trainer.config.eval_batch_size, batches.rows["valid"]
    if not len(rows) or not trainer.predicts_labels:
        return 0.0
    few = copy.copy(batches)
    for n_rows in (size, EVAL_BATCHES * size):  # the first to warm up
        few.rows = batches.rows | {"valid": rows[:n_rows]}
        began = time.perf_counter()
        evaluate_split(stage.model, few, "valid", size, autocast(trainer.config, trainer.device))
        seconds = time.perf_counter() - began
    return seconds * len(rows) / len(few.rows["valid"])


def _ranking_seconds(trainer: Trainer, stage: Train, batches: Batches, eval_batches: Batches) -> float:
    """Seconds of ranking items for the users of the validation split, from some of them; 0 if nothing is ranked."""
    config = trainer.config.ranking
    n_users = len(ranked_users(eval_batches, "valid", config.relevant, config.valid_users)) if config.protocol else 0
    if not n_users:
        return 0.0
    few = copy.copy(trainer)

    def seconds(n: int) -> float:
        few.config = replace(trainer.config, ranking=replace(config, valid_users=n))
        began = time.perf_counter()
        few.rank(stage.model, batches, "valid")
        return time.perf_counter() - began

    n = min(RANKED_USERS, n_users)
    spent = seconds(n)
    if n < n_users and spent < SECONDS / 2:  # users are ranked in blocks, so few of them tell too little
        n = min(n_users, int(n * SECONDS / spent))
        spent = seconds(n)
    return spent * n_users / n


def _memory(stage: Train, step: Step, size: int) -> dict[str, int]:
    """Bytes by purpose after some steps, so that gradients and optimizer state are dense or by row as in training."""
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
    tensors: list[Tensor] = []
    for item in fields(value):
        member = getattr(value, item.name)
        if item.name == "catalogue" or member is None:
            continue
        tensors += [member] if isinstance(member, Tensor) else _tensors(member)
    return tensors


def _bytes(value: Any) -> int:
    """The bytes of a tensor; 0 for a plain number, such as an optimizer's step count."""
    if not isinstance(value, Tensor):
        return 0
    return value._values().nbytes + value._indices().nbytes if value.is_sparse else value.nbytes
