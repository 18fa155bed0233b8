"""An epoch of training, and the settings of torch under which it runs."""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from recexp.config import TrainerConfig
from recexp.dataset.batch import Batch, Batches, Samples
from recexp.model import Fit, Train, reads_history
from recexp.process import OthersWatch
from recexp.trainer.divergence import STEPS_BETWEEN_LOOKS, Diverged, broken_weights, finite_means
from recexp.trainer.state import Progress

logger = logging.getLogger(__name__)

SECONDS_BEFORE_LOOK = 3  # at what other processes use: over a shorter time, a brief one would count for too much
TakeStep = Callable[[Samples, Progress], dict[str, Tensor]]  # takes a step, like Step.take


def epoch(
    stage: Train,
    take: TakeStep,
    batches: Batches,
    batch_size: int,
    seed: int,
    progress: Progress,
    after_step: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """One pass over the training samples, or the rest of one; returns the mean of each named loss.

    All its randomness comes from (seed, stage, epoch). To resume within an epoch, restore the random states first.
    """
    seed = int(np.random.SeedSequence((seed, progress.stage, progress.epoch)).generate_state(1)[0])
    if not progress.taken:
        torch.manual_seed(seed)
    set_mode(stage)
    with progress_bar(progress.rows, batches.size("train"), f"{stage.name} {progress.epoch + 1}") as bar:
        began = time.perf_counter()
        for samples in batches.samples("train", batch_size, seed, reads_history(stage.model), progress.taken):
            progress.end_step(take(samples, progress), len(samples))
            if progress.step % STEPS_BETWEEN_LOOKS == 0:
                shown = {name: f"{mean:.4f}" for name, mean in finite_means(progress).items()}
                bar.set_postfix(shown, refresh=False)
            bar.update(len(samples))
            now = time.perf_counter()
            progress.epoch_seconds += now - began
            after_step()
            began = time.perf_counter()
        means = finite_means(progress)
        progress.epoch_seconds += time.perf_counter() - began
    return means


def with_crowding_warning(take: TakeStep, threads: int) -> TakeStep:
    """A `take` that warns once, after the first seconds, if other processes use cores that these threads need.

    Each of a step's many short operations ends when its last thread does. A thread whose core is taken holds up all
    others, which may make the step thirty times as long.
    """
    others, looked = OthersWatch(), False

    def take_and_look(samples: Samples, progress: Progress) -> dict[str, Tensor]:
        nonlocal looked
        losses = take(samples, progress)
        if not looked and others.seconds() > SECONDS_BEFORE_LOOK:
            looked = True
            if warning := crowding_warning(threads, others.cores()):
                logger.warning("%s", warning)
        return losses

    return take_and_look


def crowding_warning(threads: int, used: float) -> str:
    """The warning that threads wait for each other; "" if they need not. used: cores that other processes use."""
    cores = os.cpu_count() or 1
    free = cores - used
    if threads == 1 or free > threads - 0.3:
        return ""
    return (
        f"other processes use {used:.1f} of {cores} cores, and the {threads} threads of this run wait for each other: "
        f"trainer.threads={max(1, round(free))} may be several times as fast."
    )


def fit(stage: Fit, training: Batch) -> None:
    """Fits a stage in closed form. Raises Diverged."""
    advice = "the model's own options or its data are out of proportion"
    try:
        stage.fit(training)
    except torch.linalg.LinAlgError as error:
        raise Diverged(f"its equations cannot be solved ({error})", advice=advice) from error
    if broken := broken_weights(stage.model):
        raise Diverged(f"weights of {broken[0]} are not finite", advice=advice)


def set_mode(stage: Train) -> None:
    """Sets training mode. Modules whose parameters are all frozen get evaluation mode, so their statistics stay too."""
    stage.model.train()
    for prefix, module in stage.model.named_modules():
        names = [f"{prefix}.{name}".lstrip(".") for name, _ in module.named_parameters()]
        if names and not any(name.startswith(stage.trained) for name in names):
            module.eval()


def progress_bar(done: int, rows: int, title: str) -> tqdm:
    """A progress bar on a terminal, nothing elsewhere."""
    bar = {"leave": False, "disable": None, "file": sys.__stderr__}
    return tqdm(desc=title, initial=done, total=rows, unit=" rows", unit_scale=True, **bar)


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
