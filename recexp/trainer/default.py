"""The joint-loss trainer. It walks a model's stages and knows no model.

A step is in step.py, an epoch in loop.py, evaluation in metric/scoring.py, a checkpoint in checkpoint.py.
"""

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn

from recexp.config import Config, Optimizer, Schedule, TrainerConfig, every
from recexp.dataset.batch import Batch, Batches
from recexp.error import Terminated
from recexp.metric.binary import Metrics
from recexp.metric.full_ranking import Ranking, evaluate_ranking
from recexp.metric.scoring import Scores, evaluate_held_out, evaluate_split
from recexp.metric.table import prediction_metric
from recexp.model import Fit, Stage, Train, stages
from recexp.process import Stop, stoppable
from recexp.registry import register
from recexp.trainer import broken
from recexp.trainer.checkpoint import Checkpoints, model_tensors
from recexp.trainer.divergence import Diverged, Watched, finite_scores, require_finite
from recexp.trainer.loop import TakeStep, epoch, fit, numerics, with_crowding_warning
from recexp.trainer.optimizer import optimizer_overrides
from recexp.trainer.recorder import Recorder
from recexp.trainer.replay import Replay
from recexp.trainer.saving import Saving
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
    checkpoints: Checkpoints
    stop: Stop


@dataclass(frozen=True)
class Result:
    progress: Progress
    valid: Metrics | None
    test: Metrics | None  # None if training was stopped early, like its scores
    test_scores: Scores | None
    ranking: Ranking | None = None  # of test, where a run ranks


@register("default", kind="trainer")
class Trainer:
    batch_type: type = Batch  # of a training step
    predicts_labels = True  # if so, evaluation reports metrics of labels

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
        The first SIGTERM or Ctrl-C ends the step, and raises Terminated or KeyboardInterrupt after a checkpoint.
        Raises ConfigError for a module that does not exist, Failure once numbers are no longer finite.
        """
        overrides = optimizer_overrides(self.config, model, optimizers)
        batches = self.training_batches(batches)
        model_stages = self.stages(model)
        identity = recorder.identity
        if self.config.schedule in (Schedule.linear, Schedule.cosine):
            identity += str(self.config.epochs)  # more epochs change these learning rates from the first step on
        names = [*(stage.name for stage in model_stages[:-1]), "best"]
        checkpoints = Checkpoints(recorder.checkpoints, identity, names, self.device)
        with self.numerics(), stoppable() as stop:
            task = Task(model, batches, weights, l2, recorder, overrides, model_stages, checkpoints, stop)
            progress, tensors = self._resume(task)
            while not progress.finished:
                progress = self._stage(task, progress, tensors)
                if progress.stopped:
                    return Result(progress, self._validate(task.stages[progress.stage].model, batches), None, None)
                tensors = {}
            with stop.at_once():
                result = self._result(task, progress)
            checkpoints.finish()
            return result

    def training_batches(self, batches: Batches) -> Batches:
        """The batches that an epoch trains on."""
        return batches

    def stages(self, model: nn.Module) -> list[Stage]:
        """The stages of a model, as they are trained."""
        return stages(model)

    def weights(self, config: Config) -> dict[str, float]:
        """The weights of the named losses."""
        return config.loss_weights

    def numerics(self) -> contextlib.AbstractContextManager[None]:
        return numerics(self.config)

    def _stage(self, task: Task, progress: Progress, tensors: dict[str, Tensor]) -> Progress:
        """Trains a stage, or the rest of one. tensors: of the checkpoint that it resumes from, if any."""
        stage = task.stages[progress.stage]
        with self._divergence_explained(task, progress):
            if isinstance(stage, Fit):
                self._fit(stage, task, progress)
            else:
                self._train(stage, task, progress, tensors)
        if progress.stopped:
            return progress
        cut = self._out_of_patience(progress, self.n_epochs(stage))
        following = progress.after_stage(len(task.stages), cut)
        if not following.finished:
            task.checkpoints.save_last(model_tensors(task.model), following)
        return following

    def _fit(self, stage: Fit, task: Task, progress: Progress) -> None:
        """Fits a stage in closed form, unless a checkpoint holds it already."""
        if progress.epoch:
            return
        began = time.perf_counter()
        training = task.batches.training()
        with task.stop.at_once():
            fit(stage, training)
            seconds = time.perf_counter() - began
            valid = self._validate(stage.model, task.batches)
        progress.epoch = progress.best_epoch = 1
        progress.speeds = [len(training) / max(seconds, 1e-9)]
        progress.seconds += time.perf_counter() - began
        self._record(stage, task, progress, {}, valid, seconds)
        task.checkpoints.save_best(task.checkpoints.stages[progress.stage], task.model, progress)
        task.checkpoints.save_last(model_tensors(task.model), progress)

    def _train(self, stage: Train, task: Task, progress: Progress, tensors: dict[str, Tensor]) -> None:
        """Trains a stage by gradient descent, then reloads its best epoch."""
        config, best = self.config, task.checkpoints.stages[progress.stage]
        epochs = self.n_epochs(stage)
        step = Step(stage, task.weights, task.l2, config, task.batches, epochs, task.overrides)
        interval = every(config.checkpoint_every)
        assert interval is not None
        saving = Saving(task.checkpoints, interval, task.stop, task.model, step.optimizers, progress)
        saving.restore(tensors)
        take = self.step_function(step)
        while not self._stage_over(progress, epochs):
            if progress.epoch and not progress.taken and task.recorder.stopped():
                progress.stopped = True
                break
            self._epoch(stage, step, take, task, progress, saving)
            if progress.best_epoch == progress.epoch:
                task.checkpoints.save_best(best, task.model, progress)
            saving.after_epoch(last=self._stage_over(progress, epochs))
        step.release()
        task.checkpoints.load_best(best, task.model)

    def _epoch(self, stage: Train, step: Step, take: TakeStep, task: Task, progress: Progress, saving: Saving) -> None:
        """Trains an epoch, or the rest of one, validates and records it."""
        monitor, batches = self.config.monitor, task.batches
        losses = epoch(stage, take, batches, self.config.batch_size, self.seed, progress, saving.after_step)
        began = time.perf_counter()
        step.catch_up()
        seconds = progress.epoch_seconds + time.perf_counter() - began
        began = time.perf_counter()
        require_finite(stage.model)
        try:
            with task.stop.at_once():
                valid = self._validate(stage.model, batches)
        except (KeyboardInterrupt, Terminated):
            saving.save()
            raise
        progress.speeds.append(batches.size("train") / seconds)
        progress.seconds += seconds + time.perf_counter() - began
        metric = prediction_metric(monitor)
        assert metric is not None
        progress.end_epoch(valid.values[monitor] if valid else None, metric.sign, losses)
        plateau, bad_epochs = self.config.plateau, progress.bad_epochs
        if self.config.schedule is Schedule.plateau and bad_epochs and bad_epochs % plateau.patience == 0:
            progress.learning_rate_scale *= plateau.factor
        self._record(stage, task, progress, losses, valid, seconds)

    def _validate(self, model: nn.Module, batches: Batches) -> Metrics | None:
        """Metrics of the validation split; None if it has no rows."""
        size, precision = self.config.eval_batch_size, autocast(self.config, self.device)
        with finite_scores(model, batches, "valid", size):
            valid = evaluate_split(model, batches, "valid", size, precision)[0]
            return self._with_ranking(valid, model, batches, "valid")[0] if valid else None

    def _result(self, task: Task, progress: Progress) -> Result:
        size, precision = self.config.eval_batch_size, autocast(self.config, self.device)
        model, batches = task.model, task.batches
        with self._divergence_explained(task, progress), finite_scores(model, batches, "test", size):
            valid, test, scores = evaluate_held_out(model, batches, size, precision)
            if valid:
                valid, _ = self._with_ranking(valid, model, batches, "valid")
            test, ranking = self._with_ranking(test, model, batches, "test")
        return Result(progress, valid, test, scores, ranking)

    def _with_ranking(
        self, metrics: Metrics, model: nn.Module, batches: Batches, split: str
    ) -> tuple[Metrics, Ranking | None]:
        """The metrics of predicted labels followed by those of the ranking, if a ranking protocol is configured."""
        if self.config.ranking.protocol is None:
            return metrics, None
        ranking = self.rank(model, batches, split)
        return metrics.merged(ranking.metrics), ranking

    def rank(self, model: nn.Module, batches: Batches, split: str) -> Ranking:
        """Ranks items for the users of a split; of test, also by group and with each user's best items."""
        config = self.config
        size, precision = config.eval_batch_size, autocast(config, self.device)
        return evaluate_ranking(model, batches, split, config.ranking, size, precision, best=split == "test")

    @property
    def _on_graph(self) -> bool:
        return self.config.cuda_graph and self.device.type == "cuda"

    def step_function(self, step: Step) -> TakeStep:
        """The function that takes the steps of a stage on this device."""
        if self._on_graph:
            return Replay(step, self.config.batch_size).take
        take = Watched(step).take
        return with_crowding_warning(take, torch.get_num_threads()) if self.device.type == "cpu" else take

    def n_epochs(self, stage: Stage) -> int:
        return 1 if isinstance(stage, Fit) else stage.epochs or self.config.epochs

    def _stage_over(self, progress: Progress, epochs: int) -> bool:
        """True if the stage has had all its epochs, or as many without improvement as patience allows."""
        return progress.epoch >= epochs or self._out_of_patience(progress, epochs)

    def _out_of_patience(self, progress: Progress, epochs: int) -> bool:
        """True if patience ends the stage before its last epoch."""
        patience = self.config.patience
        return progress.epoch < epochs and patience is not None and progress.bad_epochs >= patience

    @contextlib.contextmanager
    def _divergence_explained(self, task: Task, progress: Progress) -> Iterator[None]:
        """Turns Diverged into a Failure that says where and why, and keeps the broken step for `recexp replay`."""
        try:
            yield
        except Diverged as diverged:
            name, folder = task.stages[progress.stage].name, task.recorder.checkpoints
            where = ", ".join(filter(None, [f"stage {name}", f"epoch {progress.epoch + 1}", diverged.steps]))
            if diverged.cause:
                broken.keep(folder, task.model, diverged.cause, where, diverged.what, progress.stage)
            raise broken.failure(diverged, where, folder.parent, self.config, self._on_graph) from diverged

    def _record(
        self,
        stage: Stage,
        task: Task,
        progress: Progress,
        losses: dict[str, float],
        valid: Metrics | None,
        seconds: float,
    ) -> None:
        task.recorder.epoch({
            "stage": stage.name, "last_stage": stage is task.stages[-1], "epoch": progress.epoch,
            "losses": losses, "valid": valid.values if valid else {},
            "seconds": round(seconds, 3), "samples_per_second": round(progress.speeds[-1], 1),
        })  # fmt: skip
        progress.lines += 1

    def _resume(self, task: Task) -> tuple[Progress, dict[str, Tensor]]:
        """Loads the newest state's weights; returns its progress and tensors, or those of a fresh start."""
        saved = task.checkpoints.resume(task.model)
        task.recorder.rewind(saved.progress.lines if saved else 0)
        if saved is None:
            return Progress(), {}
        progress = saved.progress
        step = f", step {progress.taken}" if progress.taken else ""
        logger.info("going on after epoch %d%s of stage %d", progress.epoch, step, progress.stage + 1)
        return progress, saved.tensors
