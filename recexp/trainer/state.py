"""The state of the training loop."""

import math
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from recexp.error import RunError


@dataclass
class Totals:
    """Running sums over the rows of an epoch."""

    losses: dict[str, Tensor] = field(default_factory=dict)  # by name, unweighted
    rows: int = 0

    def add(self, losses: dict[str, Tensor], n_rows: int) -> None:
        """losses: means over n_rows."""
        for name, loss in losses.items():
            self.losses[name] = self.losses.get(name, 0) + loss * n_rows
        self.rows += n_rows

    def means(self) -> dict[str, float]:
        """The mean of each named loss; waits for the device. Raises FloatingPointError naming those not finite."""
        means = {name: float(total) / self.rows for name, total in self.losses.items()}
        if broken := [f"loss '{name}' is {mean}" for name, mean in means.items() if not math.isfinite(mean)]:
            raise FloatingPointError(f"{' and '.join(broken)}; lower trainer.learning_rate or trainer.clip_norm.")
        return means


@dataclass
class Progress:
    """How far training has come. A checkpoint holds all of it but the totals."""

    stage: int = 0
    epoch: int = 0  # finished in this stage
    step: int = 0  # finished in this stage; schedules read it
    best_epoch: int = 0
    best: float | None = None  # monitored value
    bad_epochs: int = 0  # since the best
    learning_rate_scale: float = 1.0  # product of all reductions on plateaus
    lines: int = 0  # of metrics.jsonl
    finished: bool = False
    stopped: bool = False  # early, by the recorder
    seconds: float = 0.0  # of training and validation, in earlier processes too
    speeds: list[float] = field(default_factory=list)  # samples per second in each epoch of this stage
    losses: dict[str, float] = field(default_factory=dict)  # of the best epoch
    totals: Totals = field(default_factory=Totals, compare=False)  # of the current epoch

    @classmethod
    def load(cls, state: dict[str, Any]) -> "Progress":
        """Raises RunError if another version of recexp saved it."""
        try:
            return cls(**state)
        except TypeError as error:
            raise RunError(f"the checkpoint is of another version of recexp: {error}") from error

    def saved(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "totals"}

    def end_step(self, losses: dict[str, Tensor], n_rows: int) -> None:
        self.step += 1
        self.totals.add(losses, n_rows)

    def end_epoch(self, value: float | None, sign: int, losses: dict[str, float]) -> None:
        """value: the monitored metric, better where sign * value is larger."""
        self.epoch += 1
        if self.improved(value, sign):
            self.best, self.best_epoch, self.bad_epochs, self.losses = value, self.epoch, 0, losses
        else:
            self.bad_epochs += 1

    def improved(self, value: float | None, sign: int) -> bool:
        """Whether a value is the best so far; until there is one, every epoch counts as an improvement."""
        return self.best is None or (value is not None and sign * value > sign * self.best)

    def after_stage(self, n_stages: int) -> "Progress":
        """The start of the next stage, or the end."""
        if self.stage + 1 == n_stages:
            return replace(self, finished=True)
        return Progress(stage=self.stage + 1, lines=self.lines, seconds=self.seconds)
