"""The joint-loss trainer. It walks a model's stages and knows no model.

Step, epoch, evaluation, checkpoint: each a function. All randomness of an epoch comes from (seed, stage, epoch), so a run
that goes on from a checkpoint needs no random state to be the run that never stopped.
"""

import contextlib
import logging
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from recexp.config import L2Rows, Precision, Schedule, TrainerConfig
from recexp.dataset.batch import Batch, Batches
from recexp.layer.embedding import SideEmbedding
from recexp.model import Fit, Stage, Train, stages
from recexp.registry import register
from recexp.trainer import checkpoint
from recexp.trainer.loss import add_l2, clip, joint
from recexp.trainer.metric import HIGHER_IS_BETTER, Metrics, best_threshold, evaluate
from recexp.trainer.optimizer import optimizer, rate_factor

logger = logging.getLogger(__name__)


class Recorder(Protocol):
    """Where a trainer's lines and checkpoints go: a run directory."""

    checkpoints: Any  # the folder

    def epoch(self, line: dict[str, Any]) -> None: ...
    def rewind(self, lines: int) -> None: ...


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
    seconds: float = 0.0  # of training and validation, before this process included
    speeds: list[float] = field(default_factory=list)  # samples a second, each epoch of this stage
    losses: dict[str, float] = field(default_factory=dict)  # of the best epoch


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
    test: Metrics
    test_scores: Scores


@register("default", kind="trainer")
class Trainer:
    def __init__(self, config: TrainerConfig, device: torch.device, seed: int) -> None:
        self.config, self.device, self.seed = config, device, seed

    def fit(self, model: nn.Module, batches: Batches, weights: dict[str, float], l2: float, recorder: Recorder) -> Result:
        """Trains all stages, reloads the best epoch on valid and scores it on test.

        weights: of the named losses. l2: strength of the embeddings' L2 term. Goes on from the recorder's last
        checkpoint where there is one. Raises FloatingPointError when a loss is no longer finite.
        """
        with self._numerics():
            progress = self._resume(model, recorder)
            walk = stages(model)
            while progress.stage < len(walk) and not progress.finished:
                self._stage(walk[progress.stage], len(walk), model, batches, weights, l2, progress, recorder)
            return self._result(model, batches, progress)

    def _stage(
        self, stage: Stage, n_stages: int, model: nn.Module, batches: Batches, weights: dict[str, float], l2: float,
        progress: Progress, recorder: Recorder,
    ) -> None:  # fmt: skip
        if isinstance(stage, Fit):
            self._fit(stage, model, batches, progress, recorder)
        else:
            self._train(stage, model, batches, weights, l2, progress, recorder)
        if progress.stage + 1 == n_stages:
            progress.finished = True
        else:
            progress.stage, progress.epoch, progress.best, progress.bad_epochs, progress.rate = progress.stage + 1, 0, None, 0, 1.0
            progress.speeds = []
        tag = f"s{progress.stage}-{'end' if progress.finished else 'start'}"
        checkpoint.save(recorder.checkpoints, "last", tag, checkpoint.model_tensors(model), asdict(progress))

    def _fit(self, stage: Fit, model: nn.Module, batches: Batches, progress: Progress, recorder: Recorder) -> None:
        began = time.perf_counter()
        training = batches.training()
        stage.fit(training)
        seconds = time.perf_counter() - began
        valid = self._valid(model, batches)
        progress.epoch = progress.best_epoch = 1
        progress.seconds += time.perf_counter() - began
        progress.speeds = [len(training) / max(seconds, 1e-9)]
        self._record(stage.name, {}, valid, seconds, progress, recorder)

    def _train(
        self, stage: Train, model: nn.Module, batches: Batches, weights: dict[str, float], l2: float, progress: Progress,
        recorder: Recorder,
    ) -> None:  # fmt: skip
        config = self.config
        epochs = stage.epochs or config.epochs
        step = Step(stage, weights, l2, config, batches, epochs)
        if progress.epoch and (saved := checkpoint.load(recorder.checkpoints, "last", self.device)):
            checkpoint.load_optimizers(step.optimizers, saved[0])
        while progress.epoch < epochs and not self._exhausted(progress):
            began = time.perf_counter()
            losses, seconds = self._epoch(stage, step, batches, progress, epochs)
            progress.epoch += 1
            progress.speeds.append(batches.size("train") / seconds)
            valid = self._valid(stage.model, batches)
            progress.seconds += time.perf_counter() - began
            self._judge(valid, losses, progress)
            self._record(stage.name, losses, valid, seconds, progress, recorder)
            self._save(model, step, progress, recorder, last=progress.epoch == epochs or self._exhausted(progress))
        if best := checkpoint.load(recorder.checkpoints, "best", self.device):
            checkpoint.load_model(model, best[0])

    def _epoch(
        self, stage: Train, step: "Step", batches: Batches, progress: Progress, epochs: int
    ) -> tuple[dict[str, float], float]:
        """One pass over the training rows: the mean of each named loss, and the seconds it took."""
        seed = int(np.random.SeedSequence((self.seed, progress.stage, progress.epoch)).generate_state(1)[0])
        torch.manual_seed(seed)
        stage.model.train()
        steps = batches.steps("train", self.config.batch_size)
        totals: dict[str, Tensor] = {}
        began = time.perf_counter()
        with _bar(batches.size("train"), f"{stage.name} {progress.epoch + 1}/{epochs}") as bar:
            for index, batch in enumerate(batches.epoch("train", self.config.batch_size, seed)):
                parts = step(batch, progress.epoch * steps + index, progress.rate)
                for name, part in parts.items():
                    totals[name] = totals.get(name, 0) + part.detach() * len(batch)
                if not bar.disable and index % 20 == 0:  # reading a loss waits for the device
                    bar.set_postfix({name: f"{float(part):.4f}" for name, part in parts.items()}, refresh=False)
                bar.update(len(batch))
        losses = {name: float(total) / batches.size("train") for name, total in totals.items()}
        seconds = time.perf_counter() - began
        for name, value in losses.items():
            if not np.isfinite(value):
                raise FloatingPointError(f"loss '{name}' is {value} in epoch {progress.epoch + 1}; lower trainer.learning_rate "
                                         "or trainer.clip_norm.")  # fmt: skip
        return losses, seconds

    def score(self, model: nn.Module, batches: Batches, part: str) -> Scores:
        """The model's logits for all samples of a part, in evaluation mode."""
        model.eval()
        labels, logits, users, items = [], [], [], []
        with torch.inference_mode(), autocast(self.config, self.device):
            for batch in batches.epoch(part, self.config.eval_batch_size):
                logits.append(model(batch).logits.double())
                labels.append(batch.label)
                users.append(batch.user)
                items.append(batch.target)
        columns = [torch.cat(each).cpu().numpy() for each in (labels, logits, users, items)]
        return Scores(*columns[:2], *(columns[2:] if batches.max_history else (None, None)))

    def _valid(self, model: nn.Module, batches: Batches) -> Metrics | None:
        if not batches.size("valid"):
            return None
        scores = self.score(model, batches, "valid")
        return evaluate(scores.label, scores.logits, scores.user, best_threshold(scores.label, scores.logits))

    def _result(self, model: nn.Module, batches: Batches, progress: Progress) -> Result:
        threshold, valid = None, None
        if batches.size("valid"):
            scores = self.score(model, batches, "valid")
            threshold = best_threshold(scores.label, scores.logits)
            valid = evaluate(scores.label, scores.logits, scores.user, threshold)
        scores = self.score(model, batches, "test")
        return Result(progress, valid, evaluate(scores.label, scores.logits, scores.user, threshold), scores)

    def _judge(self, valid: Metrics | None, losses: dict[str, float], progress: Progress) -> None:
        """Whether this epoch is the best so far; without a valid value the last epoch is."""
        value = valid.values[self.config.monitor] if valid else None
        sign = 1 if HIGHER_IS_BETTER[self.config.monitor] else -1
        if value is None or progress.best is None or sign * value > sign * progress.best:
            progress.best, progress.best_epoch, progress.bad_epochs, progress.losses = value, progress.epoch, 0, losses
            return
        progress.bad_epochs += 1
        if self.config.schedule is Schedule.plateau:
            progress.rate *= 0.1

    def _exhausted(self, progress: Progress) -> bool:
        return self.config.patience is not None and progress.bad_epochs >= self.config.patience

    def _record(
        self, stage: str, losses: dict[str, float], valid: Metrics | None, seconds: float, progress: Progress, recorder: Recorder
    ) -> None:  # fmt: skip
        recorder.epoch({
            "stage": stage, "epoch": progress.epoch, "losses": losses, "valid": valid.values if valid else {},
            "seconds": round(seconds, 3), "samples_per_second": round(progress.speeds[-1], 1),
        })  # fmt: skip
        progress.lines += 1

    def _save(self, model: nn.Module, step: "Step", progress: Progress, recorder: Recorder, last: bool) -> None:
        tag = f"s{progress.stage}-e{progress.epoch}"
        tensors = checkpoint.model_tensors(model)
        if progress.best_epoch == progress.epoch:
            checkpoint.save(recorder.checkpoints, "best", tag, tensors, asdict(progress))
        if last or progress.epoch % self.config.checkpoint_every == 0:
            tensors = tensors | checkpoint.optimizer_tensors(step.optimizers)
            checkpoint.save(recorder.checkpoints, "last", tag, tensors, asdict(progress))

    def _resume(self, model: nn.Module, recorder: Recorder) -> Progress:
        saved = checkpoint.load(recorder.checkpoints, "last", self.device)
        if saved is None:
            recorder.rewind(0)
            return Progress()
        tensors, state = saved
        checkpoint.load_model(model, tensors)
        progress = Progress(**{key: value for key, value in state.items() if key != "tensors"})
        recorder.rewind(progress.lines)
        logger.info("going on after epoch %d of stage %d", progress.epoch, progress.stage + 1)
        return progress

    @contextlib.contextmanager
    def _numerics(self) -> Iterator[None]:
        """Threads and determinism as configured, and as they were afterwards."""
        threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
        fill = torch.utils.deterministic.fill_uninitialized_memory
        torch.set_num_threads(self.config.threads or threads)
        torch.use_deterministic_algorithms(self.config.deterministic)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs a pass, changes nothing
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(deterministic)
            torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


class Step:
    """One optimizer step of a stage."""

    def __init__(
        self, stage: Train, weights: dict[str, float], l2: float, config: TrainerConfig, batches: Batches, epochs: int
    ) -> None:
        self.model, self.weights, self.l2, self.config = stage.model, weights, l2, config
        self.steps = epochs * batches.steps("train", config.batch_size)
        self.tables = [module for module in stage.model.modules() if isinstance(module, SideEmbedding)]
        for table in self.tables:
            table.table.sparse = config.sparse
        self.counts = [self._counts(table, batches) for table in self.tables]
        named = list(stage.model.named_parameters())
        for name, parameter in named:
            parameter.requires_grad_(name.startswith(stage.trained))
        self.trained = [parameter for _, parameter in named if parameter.requires_grad]
        self.optimizers = optimizer(config, [pair for pair in named if pair[1].requires_grad], [table.table for table in self.tables])

    def __call__(self, batch: Batch, index: int, rate: float) -> dict[str, Tensor]:
        """Moves the parameters; returns the named losses, unweighted."""
        for each in self.optimizers:
            each.zero_grad()
        with autocast(self.config, batch.label.device):
            parts = self.model.losses(self.model(batch), batch)  # type: ignore[operator]
            loss = joint(parts, self.weights)
        loss.backward()
        for table, counts in zip(self.tables, self.counts, strict=True):
            add_l2(table, self.l2, self.config.l2_rows, counts)
        if self.config.clip_norm:
            clip([parameter.grad for parameter in self.trained if parameter.grad is not None], self.config.clip_norm)
        factor = rate * rate_factor(self.config.schedule, index, self.steps, self.config.warmup_steps)
        for each in self.optimizers:
            for group in each.param_groups:
                group["lr"] = self.config.learning_rate * factor
            each.step()
        return parts

    def _counts(self, table: SideEmbedding, batches: Batches) -> Tensor | None:
        if self.config.l2_rows is L2Rows.all or not self.l2:
            return None
        return batches.counts(table.name)


def autocast(config: TrainerConfig, device: torch.device) -> torch.autocast:
    """Matrix products in the configured precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.precision is Precision.bf16)


def _bar(rows: int, title: str) -> tqdm:
    """A progress bar on a terminal, nothing elsewhere."""
    return tqdm(desc=title, total=rows, leave=False, disable=None, unit=" rows", unit_scale=True)
