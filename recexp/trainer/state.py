"""The state of the training loop."""

import math
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recexp.error import DamagedFile

UNSAVED = ("finished", "stopped", "totals")


@dataclass
class Progress:
    """How far training has come. A checkpoint holds it, its totals as tensors."""

    stage: int = 0
    epoch: int = 0  # finished in this stage
    step: int = 0  # finished in this stage; schedules read it
    taken: int = 0  # steps of the current epoch
    rows: int = 0  # of those steps
    epoch_seconds: float = 0.0  # of those steps, in earlier processes too
    best_epoch: int = 0
    best: float | None = None  # monitored value
    bad_epochs: int = 0  # since the best
    learning_rate_scale: float = 1.0  # product of all reductions on plateaus
    cut: bool = False  # whether patience has ended an earlier stage
    lines: int = 0  # of metrics.jsonl
    finished: bool = False
    stopped: bool = False  # early, by the recorder
    seconds: float = 0.0  # of training and validation, in earlier processes too
    speeds: list[float] = field(default_factory=list)  # samples per second in each epoch of this stage
    losses: dict[str, float] = field(default_factory=dict)  # of the best epoch
    totals: dict[str, Tensor] = field(default_factory=dict, compare=False)  # sums of the named losses over those rows

    @classmethod
    def load(cls, state: Any, path: Path) -> "Progress":
        """path: of the checkpoint. Raises DamagedFile if this is not what `saved` returned."""
        expected = {item.name for item in fields(cls)} - {*UNSAVED}
        if not isinstance(state, dict) or state.keys() != expected:
            raise DamagedFile(f"{path}: damaged or of another version of recexp (its progress).")
        default = cls()
        if wrong := [name for name, value in state.items() if not _like(value, getattr(default, name))]:
            raise DamagedFile(f"{path}: damaged (its progress has a wrong {wrong[0]}).")
        if (state["taken"] > 0) != (state["rows"] > 0):
            raise DamagedFile(f"{path}: damaged (its progress has steps without rows).")
        return cls(**state)

    def saved(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in UNSAVED}

    @property
    def tag(self) -> str:
        """A name of this state."""
        return f"s{self.stage}-e{self.epoch}-n{self.step}"

    def end_step(self, losses: dict[str, Tensor], n_rows: int) -> None:
        """losses: means over n_rows, unweighted."""
        self.step += 1
        self.taken += 1
        self.rows += n_rows
        for name, loss in losses.items():
            self.totals[name] = self.totals.get(name, 0) + loss * n_rows

    def mean_losses(self) -> dict[str, float]:
        """The mean of each named loss over the epoch so far; waits for the device."""
        return {name: float(total) / self.rows for name, total in self.totals.items()}

    def end_epoch(self, value: float | None, sign: int, losses: dict[str, float]) -> None:
        """value: the monitored metric, better where sign * value is larger."""
        self.epoch += 1
        self.taken, self.rows, self.epoch_seconds, self.totals = 0, 0, 0.0, {}
        if self.improved(value, sign):
            self.best, self.best_epoch, self.bad_epochs, self.losses = value, self.epoch, 0, losses
        else:
            self.bad_epochs += 1

    def improved(self, value: float | None, sign: int) -> bool:
        """Whether a value is the best so far; until there is one, every epoch counts as an improvement."""
        return self.best is None or (value is not None and sign * value > sign * self.best)

    def after_stage(self, n_stages: int, cut: bool = False) -> "Progress":
        """The start of the next stage, or the end. cut: whether patience has ended this one."""
        if self.stage + 1 == n_stages:
            return replace(self, finished=True)
        return Progress(stage=self.stage + 1, lines=self.lines, seconds=self.seconds, cut=self.cut or cut)


def random_states(device: torch.device) -> dict[str, Tensor]:
    """The states of torch's random generators that training on a device draws from."""
    states = {"random.cpu": torch.get_rng_state()}
    return states | ({"random.cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def restore_random_states(tensors: dict[str, Tensor], device: torch.device) -> None:
    """Restores what `random_states` returned, from the tensors of a checkpoint. Raises DamagedFile."""
    try:
        torch.set_rng_state(tensors["random.cpu"].cpu())
        if device.type == "cuda" and "random.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random.cuda"].cpu(), device)
    except (KeyError, TypeError, RuntimeError) as error:
        raise DamagedFile(f"the checkpoint holds no state of the random generators ({error})") from error


def _like(value: Any, default: Any) -> bool:
    """True if a value read from JSON has the type of a field with this default."""
    match default:
        case None:
            return value is None or _like(value, 0.0)
        case bool():
            return isinstance(value, bool)
        case int():
            return isinstance(value, int) and not isinstance(value, bool) and value >= 0
        case float():
            return isinstance(value, float | int) and not isinstance(value, bool) and math.isfinite(value)
        case list():
            return isinstance(value, list) and all(_like(item, 0.0) for item in value)
        case _:
            return isinstance(value, dict) and all(_like(item, 0.0) for item in value.values())
