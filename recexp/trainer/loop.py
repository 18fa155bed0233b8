"""An epoch of training, and the settings of torch under which it runs."""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from recexp.config import TrainerConfig
from recexp.dataset.batch import Batches, Samples
from recexp.model import Train, reads_history
from recexp.trainer.state import Progress, Totals

Take = Callable[[Samples, Progress], dict[str, Tensor]]  # takes a step, like Step.take
STEPS_BETWEEN_LOOKS = 50  # at the losses: reading one waits for the device


def epoch(
    stage: Train, take: Take, batches: Batches, batch_size: int, seed: int, progress: Progress
) -> dict[str, float]:
    """One pass over the training samples; returns the mean of each named loss.

    All its randomness comes from (seed, stage, epoch), so a run resumed from a checkpoint needs no random state.
    """
    seed = int(np.random.SeedSequence((seed, progress.stage, progress.epoch)).generate_state(1)[0])
    torch.manual_seed(seed)
    set_mode(stage)
    progress.totals = Totals()
    with progress_bar(batches.size("train"), f"{stage.name} {progress.epoch + 1}") as bar:
        for samples in batches.samples("train", batch_size, seed, reads_history(stage.model)):
            progress.end_step(take(samples, progress), len(samples))
            if progress.step % STEPS_BETWEEN_LOOKS == 0:
                shown = {name: f"{mean:.4f}" for name, mean in progress.totals.means().items()}
                bar.set_postfix(shown, refresh=False)
            bar.update(len(samples))
    return progress.totals.means()


def set_mode(stage: Train) -> None:
    """Sets training mode, but evaluation mode for modules without a trained parameter: their statistics stay too."""
    stage.model.train()
    for prefix, module in stage.model.named_modules():
        names = [f"{prefix}.{name}".lstrip(".") for name, _ in module.named_parameters()]
        if names and not any(name.startswith(stage.trained) for name in names):
            module.eval()


def progress_bar(rows: int, title: str) -> tqdm:
    """A progress bar on a terminal, nothing elsewhere."""
    return tqdm(desc=title, total=rows, leave=False, disable=None, unit=" rows", unit_scale=True)


@contextlib.contextmanager
def numerics(config: TrainerConfig) -> Iterator[None]:
    """Sets threads and determinism as configured, and restores them afterwards."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    mode: Any = torch.utils.deterministic
    fill = mode.fill_uninitialized_memory
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS refuses the mode without it
    torch.set_num_threads(config.threads or threads)
    torch.use_deterministic_algorithms(config.deterministic)
    mode.fill_uninitialized_memory = False  # it costs a pass and changes nothing
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
        mode.fill_uninitialized_memory = fill
