"""Startup time: help, a mistake, the first batch and step, beside a bare `import torch`. Interleaved whole processes.

usage: python benchmarks/startup.py [--rounds N]
"""

import argparse
import operator
import statistics
import subprocess
import sys
import tempfile
import time

CLI = "import sys; sys.argv = ['recexp', *sys.argv[1:]]; from recexp.cli import main; main()"
BATCH = """
import recexp
from recexp.dataset.batch import Batches
from recexp.experiment import build
experiment = build(recexp.load_config(['model=dien', 'dataset.cache_dir=cache']))
batches = Batches(experiment.dataset, experiment.config.dataset, 'cpu')
batch = next(batches.epoch('train', 256, 0))
"""
STEP = """
from recexp.model import Train
from recexp.trainer.state import Progress
from recexp.trainer.step import Step
weights, options = experiment.config.model.loss_weights, experiment.config.trainer
Step(Train(name='train', model=experiment.model), weights, 0.0, options, batches, 1)(batch, Progress())
"""
TORCH = "import torch"
COMMANDS = {
    TORCH: ["-c", "import torch"],
    "recexp --help": ["-c", CLI, "--help"],
    "recexp trainer.epochs=0 (a mistake)": ["-c", CLI, "trainer.epochs=0"],
    "to the first batch, warm cache": ["-c", BATCH],
    "to the first step, warm cache": ["-c", BATCH + STEP],  # torch.optim imports torch._dynamo
    "import torch, torch._dynamo": ["-c", "import torch._dynamo"],
}


def seconds(command: list[str], folder: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *command], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds + 1):
            for name, command in COMMANDS.items():
                taken[name].append(seconds(command, folder))
    taken = {name: values[1:] for name, values in taken.items()}  # the first round fills the caches
    for name, values in taken.items():
        beyond = statistics.median(map(operator.sub, values, taken[TORCH]))  # within a round
        told = f"median {statistics.median(values):.2f} s   min {min(values):.2f}   max {max(values):.2f}"
        print(f"{name:38} {told}   {TORCH} {beyond:+.2f} s")
