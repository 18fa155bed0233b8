"""Training steps on a GPU, recorded as a CUDA graph and replayed.

A step is hundreds of small kernels; starting them one by one from Python takes several times as long as they run. A
graph starts them together, from gathering the batch to the optimizers' update, and gives the same numbers. It is
recorded for full batches; the last batch of an epoch is handled as on a CPU.
"""

import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from recexp.dataset.batch import Samples
from recexp.trainer.state import Progress
from recexp.trainer.step import Step

logger = logging.getLogger(__name__)
WARM_UP = 3  # steps before the graph, to create what is created only once, such as the optimizers' state


class Replay:
    """Takes the steps of a Step as a graph. If they cannot be recorded, it logs why and takes them kernel by kernel."""

    def __init__(self, step: Step, batch_size: int) -> None:
        self.step, self.batch_size = step, batch_size
        self.obstacle = obstacle(step)
        self.stream = torch.cuda.Stream()  # warm-up and recording run beside the default stream
        self.n_taken = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self._log_obstacle()

    def take(self, samples: Samples, progress: Progress) -> dict[str, Tensor]:
        """Like Step.take, but the next call overwrites what is returned."""
        if self.obstacle or len(samples) != self.batch_size:
            return self.step.take(samples, progress)
        self.n_taken += 1
        if self.n_taken <= WARM_UP:
            return self._try(lambda: self.step.take(samples, progress))
        self.step.set_learning_rates(progress)
        if self.graph is None:
            self._record(samples)
        for name, value in vars(samples).items():
            if value is not None:
                getattr(self.samples, name).copy_(value)
        assert self.graph is not None
        self.graph.replay()
        return self.losses

    def _record(self, samples: Samples) -> None:
        copies = {name: value.clone() for name, value in vars(samples).items() if value is not None}
        self.samples = Samples(**copies)  # where the graph reads
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=self.stream):
            self.losses = self.step.optimize(self.step.gather(self.samples))

    def _try(self, take: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Takes a warm-up step. The last one checks whether anything waits for the GPU, which no graph can do."""
        default = torch.cuda.current_stream()
        self.stream.wait_stream(default)
        with torch.cuda.stream(self.stream), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            before = torch.cuda.get_sync_debug_mode()
            torch.cuda.set_sync_debug_mode("warn" if self.n_taken == WARM_UP else before)
            try:
                losses = take()
            finally:
                torch.cuda.set_sync_debug_mode(before)
        default.wait_stream(self.stream)
        for warning in caught:
            if "called a synchronizing" in str(warning.message):  # not the warning that the mode is a prototype
                self.obstacle = f"{Path(warning.filename).name}:{warning.lineno} waits for the GPU"
        self._log_obstacle()
        return losses

    def _log_obstacle(self) -> None:
        if self.obstacle:
            logger.info("slower than it might be: steps are not replayed as a CUDA graph, since %s", self.obstacle)


def obstacle(step: Step) -> str | None:
    """Why steps cannot be recorded, if that is known before trying."""
    if any(getattr(module, "sparse", False) for module in step.model.modules()):
        return "how many rows of a table a step updates varies"
    for optimizer in step.optimizers:
        if not isinstance(optimizer, torch.optim.Adam | torch.optim.SGD):  # AdamW is an Adam
            return f"{type(optimizer).__name__} has no form for it"
    return None
