"""The joint-loss trainer. It walks a model's stages and knows no model.

Step, epoch, evaluation, checkpoint: each a function. All randomness of an epoch comes from (seed, stage, epoch), so a
run that goes on from a checkpoint needs no random state to be the run that never stopped.
"""

import contextlib
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from recexp.config import Optimizer, Schedule, TrainerConfig
from recexp.dataset.batch import Batches, Samples
from recexp.metric.binary import Metrics, best_threshold, evaluate
from recexp.metric.table import MONITORED
from recexp.model import Fit, Stage, Train, reads_history, stages
from recexp.registry import register
from recexp.trainer import checkpoint
from recexp.trainer.optimizer import own_optimizers
from recexp.trainer.replay import Replay
from recexp.trainer.step import Step, autocast

logger = logging.getLogger(__name__)
Take = Callable[[Samples, int, float], dict[str, Tensor]]  # a step, as Step.take
LOOKED_AT = 50  # steps between looks at the losses: reading one waits for the device


class Recorder(Protocol):
    """Where a trainer's lines and checkpoints go: a run directory."""

    checkpoints: Any  # the folder

    def epoch(self, line: dict[str, Any]) -> None: ...
    def rewind(self, lines: int) -> None: ...
    def stopped(self) -> bool: ...  # asked between epochs: whether to end before its time


@dataclass(frozen=True)
class Task:
    """What is trained, on what, by which losses, and where it is recorded."""

    model: nn.Module
    batches: Batches
    weights: dict[str, float]  # of the named losses
    l2: float  # strength of the embeddings' L2 term
    recorder: Recorder
    own: Mapping[Tensor, Optimizer]  # optimizers of the parameters that have not the trainer's
    walk: list[Stage]


@dataclass
class Progress:
    """Where training stands: what a checkpoint holds beside tensors."""

    stage: int = 0
    epoch: int = 0  # finished in this stage
    best_epoch: int = 0
    best: float | None = None  # monitored value
    bad_epochs: int = 0  # since the best
    rate: float = 1.0  # what plateaus have left of the learning rate
    lines: int = 0  # of metrics.jsonl
    finished: bool = False
    stopped: bool = False  # before its time, by the recorder
    seconds: float = 0.0  # of training and validation, before this process included
    speeds: list[float] = field(default_factory=list)  # samples a second, each epoch of this stage
    losses: dict[str, float] = field(default_factory=dict)  # of the best epoch

    def judge(self, value: float | None, sign: int, losses: dict[str, float]) -> None:
        """Whether the epoch is the best so far; while there is no value the last epoch is."""
        if self.best is None or (value is not None and sign * value > sign * self.best):
            self.best, self.best_epoch, self.bad_epochs, self.losses = value, self.epoch, 0, losses
        else:
            self.bad_epochs += 1

    def after_stage(self, n_stages: int) -> "Progress":
        """The start of the next stage, or the end."""
        if self.stage + 1 == n_stages:
            return replace(self, finished=True)
        return Progress(stage=self.stage + 1, lines=self.lines, seconds=self.seconds)


@dataclass(frozen=True)
class Scores:
    """Logits of a part's samples in their order, with what metrics need. numpy arrays (n,)."""

    label: np.ndarray
    logits: np.ndarray
    user: np.ndarray | None  # rows of the log's users
    item: np.ndarray | None


@dataclass(frozen=True)
class Result:
    progress: Progress
    valid: Metrics | None
    test: Metrics | None  # None, as its scores, where training was stopped before its time
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
        """Trains all stages, reloads the best epoch on valid and scores it on test, unless the recorder stopped it.

        weights: of the named losses. l2: strength of the embeddings' L2 term. optimizers: of parts of the model, by the
        prefix of their parameters' names. Goes on from the recorder's last checkpoint where there is one.
        Raises ConfigError for a part that is not there, FloatingPointError when a loss is no longer finite.
        """
        own = own_optimizers(self.config, model, optimizers)
        task = Task(model, batches, weights, l2, recorder, own, stages(model))
        with self.numerics():
            progress = self._resume(task)
            while not progress.finished:
                stage = task.walk[progress.stage]
                if isinstance(stage, Fit):
                    self._fit(stage, task, progress)
                else:
                    self._train(stage, task, progress)
                if progress.stopped:
                    return Result(progress, self._valid(stage.model, batches)[0], None, None)
                progress = progress.after_stage(len(task.walk))
                self._save("last", task, progress)
            return self._result(task, progress)

    def _fit(self, stage: Fit, task: Task, progress: Progress) -> None:
        began = time.perf_counter()
        training = task.batches.training()
        stage.fit(training)
        seconds = time.perf_counter() - began
        valid, _ = self._valid(stage.model, task.batches)
        progress.epoch = progress.best_epoch = 1
        progress.speeds = [len(training) / max(seconds, 1e-9)]
        progress.seconds += time.perf_counter() - began
        self._record(stage, task, progress, {}, valid, seconds)
        self._save(_best(stage, task), task, progress)

    def _train(self, stage: Train, task: Task, progress: Progress) -> None:
        config = self.config
        epochs = stage.epochs or config.epochs
        step = Step(stage, task.weights, task.l2, config, task.batches, epochs, task.own)
        if progress.epoch and (saved := checkpoint.load(task.recorder.checkpoints, "last", self.device)):
            checkpoint.load_optimizers(step.optimizers, saved[0])
        take = Replay(step, config.batch_size).take if config.cuda_graph and self.device.type == "cuda" else step.take
        while not self._over(progress, epochs):
            if progress.epoch and task.recorder.stopped():
                progress.stopped = True
                break
            began = time.perf_counter()
            losses, seconds = self._epoch(stage, take, task.batches, progress)
            valid, _ = self._valid(stage.model, task.batches)
            progress.epoch += 1
            progress.speeds.append(task.batches.size("train") / seconds)
            progress.seconds += time.perf_counter() - began
            value = valid.values[config.monitor] if valid else None
            progress.judge(value, MONITORED[config.monitor].sign, losses)
            if config.schedule is Schedule.plateau and progress.bad_epochs:
                progress.rate *= 0.1
            self._record(stage, task, progress, losses, valid, seconds)
            if progress.best_epoch == progress.epoch:
                self._save(_best(stage, task), task, progress)
            if progress.epoch % config.checkpoint_every == 0 or self._over(progress, epochs):
                self._save("last", task, progress, step.optimizers)
        if best := checkpoint.load(task.recorder.checkpoints, _best(stage, task), self.device):
            checkpoint.load_model(task.model, best[0])

    def _epoch(self, stage: Train, take: Take, batches: Batches, progress: Progress) -> tuple[dict[str, float], float]:
        """One pass over the training rows: the mean of each named loss, and the seconds it took."""
        seed = int(np.random.SeedSequence((self.seed, progress.stage, progress.epoch)).generate_state(1)[0])
        torch.manual_seed(seed)
        set_mode(stage)
        first = progress.epoch * batches.steps("train", self.config.batch_size)
        totals: dict[str, Tensor] = {}
        seen = 0
        began = time.perf_counter()
        with _bar(batches.size("train"), f"{stage.name} {progress.epoch + 1}") as bar:
            read = batches.samples("train", self.config.batch_size, seed, reads_history(stage.model))
            for count, samples in enumerate(read):
                for name, part in take(samples, first + count, progress.rate).items():
                    totals[name] = totals.get(name, 0) + part * len(samples)
                seen += len(samples)
                if (count + 1) % LOOKED_AT == 0:
                    shown = {name: f"{mean:.4f}" for name, mean in _means(totals, seen).items()}
                    bar.set_postfix(shown, refresh=False)
                bar.update(len(samples))
        return _means(totals, seen), time.perf_counter() - began

    def score(self, model: nn.Module, batches: Batches, part: str) -> Scores:
        """The model's logits for all samples of a part, in evaluation mode."""
        model.eval()
        labels, logits, users, items = [], [], [], []
        with torch.inference_mode(), autocast(self.config, self.device):
            for batch in batches.epoch(part, self.config.eval_batch_size, histories=reads_history(model)):
                logits.append(model(batch).logits.double())
                labels.append(batch.label)
                users.append(batch.user)
                items.append(batch.target)
        columns = [torch.cat(each).cpu().numpy() for each in (labels, logits, users, items)]
        return Scores(*columns[:2], *(columns[2:] if batches.max_history else (None, None)))

    def _valid(self, model: nn.Module, batches: Batches) -> tuple[Metrics | None, float | None]:
        """Metrics of the valid part, and the threshold that is best on it; None where there are no such rows."""
        if not batches.size("valid"):
            return None, None
        scores = self.score(model, batches, "valid")
        threshold = best_threshold(scores.label, scores.logits)
        return evaluate(scores.label, scores.logits, scores.user, threshold), threshold

    def _result(self, task: Task, progress: Progress) -> Result:
        valid, threshold = self._valid(task.model, task.batches)
        scores = self.score(task.model, task.batches, "test")
        return Result(progress, valid, evaluate(scores.label, scores.logits, scores.user, threshold), scores)

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
        task.recorder.epoch({
            "stage": stage.name, "last_stage": stage is task.walk[-1], "epoch": progress.epoch,
            "losses": losses, "valid": valid.values if valid else {},
            "seconds": round(seconds, 3), "samples_per_second": round(progress.speeds[-1], 1),
        })  # fmt: skip
        progress.lines += 1

    def _save(
        self, name: str, task: Task, progress: Progress, optimizers: Sequence[torch.optim.Optimizer] = ()
    ) -> None:
        tag = f"s{progress.stage}-e{progress.epoch}{'-end' if progress.finished else ''}"
        tensors = checkpoint.model_tensors(task.model) | checkpoint.optimizer_tensors(optimizers)
        checkpoint.save(task.recorder.checkpoints, name, tag, tensors, asdict(progress))

    def _resume(self, task: Task) -> Progress:
        saved = checkpoint.load(task.recorder.checkpoints, "last", self.device)
        if saved is None:
            task.recorder.rewind(0)
            return Progress()
        tensors, state = saved
        checkpoint.load_model(task.model, tensors)
        progress = Progress(**{key: value for key, value in state.items() if key != "tensors"})
        task.recorder.rewind(progress.lines)
        logger.info("going on after epoch %d of stage %d", progress.epoch, progress.stage + 1)
        return progress

    @contextlib.contextmanager
    def numerics(self) -> Iterator[None]:
        """Threads and determinism as configured, and as they were afterwards."""
        threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
        mode: Any = torch.utils.deterministic
        fill = mode.fill_uninitialized_memory
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS refuses the mode without
        torch.set_num_threads(self.config.threads or threads)
        torch.use_deterministic_algorithms(self.config.deterministic)
        mode.fill_uninitialized_memory = False  # it costs a pass and changes nothing
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(deterministic)
            mode.fill_uninitialized_memory = fill


def _best(stage: Stage, task: Task) -> str:
    """The name of a stage's best checkpoint: the last stage's is the run's."""
    return "best" if stage is task.walk[-1] else stage.name


def set_mode(stage: Train) -> None:
    """Training mode, but evaluation mode for modules whose parameters all stay: so do their running statistics."""
    stage.model.train()
    for prefix, module in stage.model.named_modules():
        names = [f"{prefix}.{name}".lstrip(".") for name, _ in module.named_parameters()]
        if names and not any(name.startswith(stage.trained) for name in names):
            module.eval()


def _means(totals: dict[str, Tensor], rows: int) -> dict[str, float]:
    """The mean of each named loss. Raises FloatingPointError naming those that are not finite."""
    means = {name: float(total) / rows for name, total in totals.items()}
    if broken := [f"loss '{name}' is {mean}" for name, mean in means.items() if not math.isfinite(mean)]:
        raise FloatingPointError(f"{' and '.join(broken)}; lower trainer.learning_rate or trainer.clip_norm.")
    return means


def _bar(rows: int, title: str) -> tqdm:
    """A progress bar on a terminal, nothing elsewhere."""
    return tqdm(desc=title, total=rows, leave=False, disable=None, unit=" rows", unit_scale=True)
