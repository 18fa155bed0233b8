"""The trainer's loop beside a bare PyTorch loop over the same batches, and the cost of determinism. Interleaved rounds.

usage: python benchmarks/loop.py [model ...] [--rounds N] [--rows N]

Both loops train the same model from the same weights with Adam on the same rows, without clipping and L2. The bare loop
has no metrics, no logging and no progress bar. A third column is the trainer without deterministic mode. Ratios are
taken within a round, so that drift in the machine's speed cancels out.
"""

import argparse
import operator
import statistics
import time

import torch
from torch import nn

import recexp
from recexp.dataset.batch import Batches
from recexp.experiment import build
from recexp.layer.loss import bce
from recexp.model import Train
from recexp.trainer.default import Trainer
from recexp.trainer.loop import epoch
from recexp.trainer.state import Progress
from recexp.trainer.step import Step

PLAIN = ["trainer.clip_norm=null", "trainer.patience=null"]


def bare(model: nn.Module, batches: Batches, batch_size: int) -> float:
    """Seconds of one epoch."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    model.train()
    began = time.perf_counter()
    for batch in batches.epoch("train", batch_size, seed=0):
        optimizer.zero_grad()
        bce(model(batch).logits, batch.label).backward()
        optimizer.step()
    return time.perf_counter() - began


def trained(trainer: Trainer, model: nn.Module, batches: Batches) -> float:
    """Seconds of one epoch of the trainer."""
    stage = Train(name="train", model=model)
    with trainer.numerics():
        step = Step(stage, {"target": 1.0}, 0.0, trainer.config, batches, epochs=1)
        began = time.perf_counter()
        epoch(stage, step.take, batches, trainer.config.batch_size, trainer.seed, Progress())
        return time.perf_counter() - began


def measure(name: str, rounds: int, rows: int) -> None:
    overrides = [f"model={name}", *PLAIN, f"dataset.n_events={rows}", f"dataset.n_users={rows // 50}"]
    if name == "dien":
        overrides.append("model.loss_weights.auxiliary=0")
    loose = build(recexp.load_config([*overrides, "trainer.deterministic=false"]))
    strict = build(recexp.load_config(overrides))
    batches = Batches(strict.dataset, strict.config.dataset, "cpu")
    torch.set_num_threads(strict.config.trainer.threads)
    start = {key: value.clone() for key, value in strict.model.state_dict().items()}
    runs = {
        "bare": lambda: bare(strict.model, batches, strict.config.trainer.batch_size),
        "trainer": lambda: trained(strict.trainer, strict.model, batches),
        "not deterministic": lambda: trained(loose.trainer, strict.model, batches),
    }
    seconds: dict[str, list[float]] = {key: [] for key in runs}
    for _ in range(rounds + 1):
        for key, once in runs.items():
            strict.model.load_state_dict(start)
            seconds[key].append(once())
    n = batches.size("train")
    seconds = {key: values[1:] for key, values in seconds.items()}  # the first round warms up
    speeds = {key: n / statistics.median(values) for key, values in seconds.items()}
    ratio = {key: statistics.median(map(operator.truediv, seconds["bare"], values)) for key, values in seconds.items()}
    told = [f"{key} {speeds[key]:,.0f} samples/s = {ratio[key]:.3f}" for key in runs]
    print(f"{name:8} {'   '.join(told)}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", default=["deepfm", "din", "dien"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=50_000)
    typed = parser.parse_args()
    for model in typed.models:
        measure(model, typed.rounds, typed.rows)
