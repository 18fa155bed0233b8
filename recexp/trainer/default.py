"""The joint-loss trainer. It walks a model's stages and knows no model.

A step is in step.py, an epoch in loop.py, evaluation in metric/scoring.py, a checkpoint in checkpoint.py.
"""

import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from recexp.config import Optimizer, Schedule, TrainerConfig
from recexp.dataset.batch import Batches
from recexp.metric.binary import Metrics, evaluate
from recexp.metric.scoring import Scores, evaluate_split, score
from recexp.metric.table import MONITORED
from recexp.model import Fit, Stage, Train, stages
from recexp.registry import register
from recexp.trainer import checkpoint
from recexp.trainer.loop import Take, epoch, numerics
from recexp.trainer.optimizer import optimizer_overrides
from recexp.trainer.recorder import Recorder
from recexp.trainer.replay import Replay
from recexp.trainer.state import Progress
from recexp.trainer.step import Step, autocast

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """What is trained, on what, with which losses, and where it is recorded."""

    model: nn.Module
    batches: Batches
    weights: dict[str, float]  # of the named losses
    l2: float  # strength of the L2 term of embeddings
    recorder: Recorder
    overrides: Mapping[Tensor, Optimizer]
    stages: list[Stage]

    def best_name(self, stage: Stage) -> str:
        """The name of a stage's best checkpoint; the last stage's is the run's."""
        return "best" if stage is self.stages[-1] else stage.name


@dataclass(frozen=True)
class Result:
    progress: Progress
    valid: Metrics | None
    test: Metrics | None  # None if training was stopped early, like its scores
    test_scores: Scores | None


@register("default", kind="trainer")
class Trainer:
    def __init__(self, config: TrainerConfig, device: torch.device, seed: int) -> None:
        self.config, self.device, self.seed = config, device, seed

    def fit(
        self,
        model: nn.Module,
        batches: Batches,
        weights: dict[str, float],
        l2: float,
        recorder: Recorder,
        optimizers: Mapping[str, Optimizer] = MappingProxyType({}),
    ) -> Result:
        """Trains all stages, reloads the epoch that is best on valid and scores it on test, unless stopped early.

        weights: of the named losses. l2: strength of the L2 term of embeddings. optimizers: overrides by the
        name of a module. Resumes from the recorder's last checkpoint if there is one.
        Raises ConfigError for a module that does not exist, FloatingPointError once a loss is no longer finite.
        """
        overrides = optimizer_overrides(self.config, model, optimizers)
        task = Task(model, batches, weights, l2, recorder, overrides, stages(model))
        with self.numerics():
            progress = self._resume(task)
            while not progress.finished:
                stage = task.stages[progress.stage]
                if isinstance(stage, Fit):
                    self._fit(stage, task, progress)
                else:
                    self._train(stage, task, progress)
                if progress.stopped:
                    return Result(progress, self._validate(stage.model, batches)[0], None, None)
                progress = progress.after_stage(len(task.stages))
                self._save("last", task, progress)
            return self._result(task, progress)

    def numerics(self) -> contextlib.AbstractContextManager[None]:
        return numerics(self.config)

    def _fit(self, stage: Fit, task: Task, progress: Progress) -> None:
        """Fits a stage in closed form."""
        began = time.perf_counter()
        training = task.batches.training()
        stage.fit(training)
        seconds = time.perf_counter() - began
        valid, _ = self._validate(stage.model, task.batches)
        progress.epoch = progress.best_epoch = 1
        progress.speeds = [len(training) / max(seconds, 1e-9)]
        progress.seconds += time.perf_counter() - began
        self._record(stage, task, progress, {}, valid, seconds)
        self._save(task.best_name(stage), task, progress)

    def _train(self, stage: Train, task: Task, progress: Progress) -> None:
        """Trains a stage by gradient descent, then reloads its best epoch."""
        config, folder = self.config, task.recorder.checkpoints
        epochs = stage.epochs or config.epochs
        step = Step(stage, task.weights, task.l2, config, task.batches, epochs, task.overrides)
        if progress.epoch and (last := checkpoint.load(folder, "last", self.device)):
            checkpoint.load_optimizers(step.optimizers, last[0])
        take = Replay(step, config.batch_size).take if config.cuda_graph and self.device.type == "cuda" else step.take
        while not self._over(progress, epochs):
            if progress.epoch and task.recorder.stopped():
                progress.stopped = True
                break
            self._epoch(stage, take, task, progress)
            if progress.best_epoch == progress.epoch:
                self._save(task.best_name(stage), task, progress)
            if progress.epoch % config.checkpoint_every == 0 or self._over(progress, epochs):
                self._save("last", task, progress, step.optimizers)
        if best := checkpoint.load(folder, task.best_name(stage), self.device):
            checkpoint.load_model(task.model, best[0])

    def _epoch(self, stage: Train, take: Take, task: Task, progress: Progress) -> None:
        """Trains an epoch, validates and records it."""
        monitor, began = self.config.monitor, time.perf_counter()
        losses = epoch(stage, take, task.batches, self.config.batch_size, self.seed, progress)
        seconds = time.perf_counter() - began
        valid, _ = self._validate(stage.model, task.batches)
        progress.speeds.append(task.batches.size("train") / seconds)
        progress.seconds += time.perf_counter() - began
        progress.end_epoch(valid.values[monitor] if valid else None, MONITORED[monitor].sign, losses)
        plateau = self.config.plateau
        if self.config.schedule is Schedule.plateau and progress.bad_epochs:
            progress.learning_rate_scale *= plateau.factor if progress.bad_epochs % plateau.patience == 0 else 1
        self._record(stage, task, progress, losses, valid, seconds)

    def _validate(self, model: nn.Module, batches: Batches) -> tuple[Metrics | None, float | None]:
        """Metrics of the validation split, and the threshold that is best on it; None for both if it has no rows."""
        return evaluate_split(model, batches, "valid", self.config.eval_batch_size, autocast(self.config, self.device))

    def _result(self, task: Task, progress: Progress) -> Result:
        valid, threshold = self._validate(task.model, task.batches)
        precision = autocast(self.config, self.device)
        scores = score(task.model, task.batches, "test", self.config.eval_batch_size, precision)
        return Result(progress, valid, evaluate(scores.labels, scores.logits, scores.users, threshold), scores)

    def _over(self, progress: Progress, epochs: int) -> bool:
        """Whether the stage has had its epochs, or as many without improvement as patience allows."""
        patience = self.config.patience
        return progress.epoch >= epochs or (patience is not None and progress.bad_epochs >= patience)

    def _record(
        self,
        stage: Stage,
        task: Task,
        progress: Progress,
        losses: dict[str, float],
        valid: Metrics | None,
        seconds: float,
    ) -> None:
        line: dict[str, Any] = {
            "stage": stage.name, "last_stage": stage is task.stages[-1], "epoch": progress.epoch,
            "losses": losses, "valid": valid.values if valid else {},
            "seconds": round(seconds, 3), "samples_per_second": round(progress.speeds[-1], 1),
        }  # fmt: skip
        task.recorder.epoch(line)
        progress.lines += 1

    def _save(
        self, name: str, task: Task, progress: Progress, optimizers: Sequence[torch.optim.Optimizer] = ()
    ) -> None:
        tag = f"s{progress.stage}-e{progress.epoch}{'-end' if progress.finished else ''}"
        tensors = checkpoint.model_tensors(task.model) | checkpoint.optimizer_tensors(optimizers)
        checkpoint.save(task.recorder.checkpoints, name, tag, tensors, progress.saved())

    def _resume(self, task: Task) -> Progress:
        """Loads the last checkpoint's weights and returns its progress; without one, that of a fresh start."""
        saved = checkpoint.load(task.recorder.checkpoints, "last", self.device)
        if saved is None:
            task.recorder.rewind(0)
            return Progress()
        tensors, state = saved
        checkpoint.load_model(task.model, tensors)
        progress = Progress.load({key: value for key, value in state.items() if key != "tensors"})
        task.recorder.rewind(progress.lines)
        logger.info("going on after epoch %d of stage %d", progress.epoch, progress.stage + 1)
        return progress
