"""What the trainer writes to in tests: lines in memory, and checkpoints in a folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recexp.trainer import tensors as tensor_files
from recexp.trainer.checkpoint import read_document

TIMES = ("seconds", "samples_per_second", "peak_memory_mb", "check")  # check covers the others of its line


class Stopped(BaseException):
    """Stands for a kill."""


class Recorder:
    """Keeps lines in memory; after each calls `then(number of lines)`."""

    def __init__(self, folder: Path, then: Callable[[int], None] = lambda lines: None) -> None:
        self.checkpoints, self.then, self.identity = folder, then, "run"
        self.lines: list[dict[str, Any]] = []
        self.asked_to_stop = False

    def epoch(self, line: dict[str, Any]) -> None:
        self.lines.append(line)
        self.then(len(self.lines))

    def rewind(self, lines: int) -> None:
        del self.lines[lines:]

    def stopped(self) -> bool:
        return self.asked_to_stop

    @property
    def told(self) -> list[dict[str, Any]]:
        return [untimed(line) for line in self.lines]


def untimed(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if name not in TIMES}


def stop_after(n: int) -> Callable[[int], None]:
    def then(lines: int) -> None:
        if lines == n:
            raise Stopped

    return then


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def checkpoint(folder: Path, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A checkpoint's tensors and its progress."""
    document = read_document(folder / f"{name}.json")
    return tensor_files.read(folder / document["tensors"], document, torch.device("cpu")), document["progress"]


def trained_states(model: nn.Module, folder: Path) -> tuple[Recorder, list[dict[str, Tensor]]]:
    """A recorder, and the list to which it adds the model's state after each epoch."""
    states: list[dict[str, Tensor]] = []
    return Recorder(folder, lambda lines: states.append(state(model))), states
