"""Training on a GPU: steps replayed as a CUDA graph, steps run kernel by kernel, and a bare loop in plain PyTorch.

usage: python benchmarks/gpu.py [model ...] [--data ml-100k] [--rounds N] [--batch-size N]

Models and rows are those of benchmarks/peers; all data are on the GPU, for the bare loop too. Each number is the median
over rounds of interleaved epochs, without the first round, which records the graph.
"""

import argparse
import json
import operator
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F

import recexp
from recexp.config import Precision
from recexp.dataset.batch import Batches
from recexp.experiment import build
from recexp.model import Train
from recexp.trainer.loop import epoch, numerics
from recexp.trainer.replay import Replay
from recexp.trainer.state import Progress
from recexp.trainer.step import Step

sys.path.insert(0, str(Path(__file__).parent / "peers"))
import bare_models
from data import MODELS, kind_of, write_movielens
from drive_bare import tensors
from worker import read_rows

CUDA = torch.device("cuda")


def timed(epoch: Callable[[], object]) -> Callable[[], float]:
    """A function that runs an epoch and returns its seconds, until the GPU is done."""

    def seconds() -> float:
        torch.cuda.synchronize()
        began = time.perf_counter()
        epoch()
        torch.cuda.synchronize()
        return time.perf_counter() - began

    return seconds


def bare(model: str, folder: Path, settings: dict) -> Callable[[], object]:
    """An epoch of the loop that one would write by hand."""
    columns = [each.to(CUDA) for each in tensors(read_rows(folder / kind_of(model))["train"])]
    net = bare_models.build(model, settings).to(CUDA)
    optimizer = torch.optim.Adam(net.parameters(), lr=settings["learning_rate"], fused=True)

    def epoch() -> None:
        net.train()
        for rows in torch.randperm(len(columns[0]), device=CUDA).split(settings["batch_size"]):
            label, *inputs = (each[rows] for each in columns)
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(net(*inputs), label).backward()
            optimizer.step()

    return epoch


def trained(overrides: list[str], replayed: bool, precision: Precision) -> tuple[Callable[[], object], int]:
    """An epoch of the trainer, and its number of rows."""
    experiment = build(recexp.load_config([*overrides, "device=cuda"]))
    config = replace(experiment.config.trainer, precision=precision)
    batches = Batches(experiment.dataset, experiment.config.dataset, CUDA)
    stage = Train(name="train", model=experiment.model)
    with numerics(config):
        step = Step(stage, experiment.config.model.loss_weights, 0.0, config, batches, epochs=1)
        take = Replay(step, config.batch_size).take if replayed else step.take

    def train() -> None:
        with numerics(config):
            epoch(stage, take, batches, config.batch_size, 0, Progress())

    return train, batches.size("train")


def measure(model: str, folder: Path, overrides: list[str], settings: dict, rounds: int) -> None:
    replayed, n_rows = trained(overrides, True, Precision.fp32)
    runs = {
        "bare": bare(model, folder, settings),
        "replayed": replayed,
        "replayed bf16": trained(overrides, True, Precision.bf16)[0],
        "one by one": trained(overrides, False, Precision.fp32)[0],
    }
    clocks = {name: timed(epoch) for name, epoch in runs.items()}
    every = [{name: clock() for name, clock in clocks.items()} for _ in range(rounds + 1)][1:]
    seconds = {name: [each[name] for each in every] for name in runs}
    told = []
    for name, values in seconds.items():
        ratio = statistics.median(map(operator.truediv, seconds["bare"], values))
        told.append(f"{name} {n_rows / statistics.median(values):,.0f} = {ratio:.2f}")
    print(f"{model:8} {settings['batch_size']:6}  {'   '.join(told)}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--data", help="folder or zip of MovieLens 100K; by default it is downloaded once")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, help="instead of the experiments' own")
    typed = parser.parse_args()
    source = [f"dataset.path={typed.data}"] if typed.data else []
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; samples/s, and times the bare loop's speed")
    with tempfile.TemporaryDirectory() as name:
        write_movielens(source, Path(name))
        for model in typed.models:
            settings = json.loads((Path(name) / f"{model}.json").read_text("utf-8"))
            size = typed.batch_size or settings["batch_size"]
            overrides = [f"+experiment=peers/{model}", f"trainer.batch_size={size}", *source]
            measure(model, Path(name), overrides, settings | {"batch_size": size}, typed.rounds)
