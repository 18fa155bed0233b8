"""How long until something happens: help, a first batch, beside a bare `import torch`. Interleaved, whole processes.

usage: python benchmarks/startup.py [--rounds N]
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time

CLI = "import sys; sys.argv = ['recexp', *sys.argv[1:]]; from recexp.cli import main; main()"
FIRST_BATCH = """
import recexp
from recexp.dataset.batch import Batches
from recexp.experiment import build
from recexp.model import Train
from recexp.trainer.step import Step
experiment = build(recexp.load_config(['model=dien']))
batches = Batches(experiment.dataset, experiment.config.dataset, 'cpu')
step = Step(Train(name='train', model=experiment.model), experiment.config.model.loss_weights, 0.0,
            experiment.config.trainer, batches, 1)
step(next(batches.epoch('train', 256, 0)), 0, 1.0)
"""
COMMANDS = {
    "python -c 'import torch'": ["-c", "import torch"],
    "recexp --help": ["-c", CLI, "--help"],
    "recexp trainer.epochs=0 (a mistake)": ["-c", CLI, "trainer.epochs=0"],
    "to the first step, warm cache": ["-c", FIRST_BATCH],
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
    for name, values in taken.items():
        values = values[1:]  # the first round fills the caches
        print(f"{name:38} median {statistics.median(values):.2f} s   min {min(values):.2f}   max {max(values):.2f}")
