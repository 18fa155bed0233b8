"""Writes states to resume from: as often as configured, and after a signal."""

import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recexp.config import Every
from recexp.process import Stop
from recexp.trainer.checkpoint import Checkpoints, load_optimizers, model_tensors, optimizer_tensors
from recexp.trainer.divergence import finite_means
from recexp.trainer.state import Progress, random_states, restore_random_states


class Saving:
    """The states of one stage."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        every: Every,
        stop: Stop,
        model: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        progress: Progress,
    ) -> None:
        self.checkpoints, self.every, self.stop = checkpoints, every, stop
        self.model, self.optimizers, self.progress = model, optimizers, progress
        self.saved_at = time.monotonic()

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Restores all but the model and the progress. tensors: of the checkpoint resumed from, if any."""
        if self.progress.step:
            load_optimizers(self.optimizers, tensors)
        if self.progress.taken:
            restore_random_states(tensors, self.checkpoints.device)

    def after_step(self) -> None:
        """Raises KeyboardInterrupt or Terminated if a signal has come."""
        steps, minutes = self.every.unit == "steps", self.every.unit == "min"
        if (
            self.stop.signal is not None
            or (steps and self.progress.step % self.every.n == 0)
            or (minutes and time.monotonic() - self.saved_at > 60 * self.every.n)
        ):
            self.save()
            self.stop.check()

    def after_epoch(self, last: bool) -> None:
        """As after_step. last: no epoch of the stage follows."""
        epochs = self.every.unit == "epochs" and self.progress.epoch % self.every.n == 0
        if last or epochs or self.stop.signal is not None:
            self.save()
            self.stop.check()

    def save(self) -> None:
        progress, tensors = self.progress, model_tensors(self.model) | optimizer_tensors(self.optimizers)
        if progress.taken:
            finite_means(progress)  # raises Diverged: nobody could resume from other losses
            tensors |= {f"totals.{name}": total for name, total in progress.totals.items()}
            tensors |= random_states(self.checkpoints.device)
        self.checkpoints.save_last(tensors, progress)
        self.saved_at = time.monotonic()
