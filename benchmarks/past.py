"""What a sample costs by the number of its user's past events: milliseconds of a step, and memory.

usage: python benchmarks/past.py [--lengths L ...] [--rounds N]

As many users at every length, each with L events of 2 categories, so that at 100 events a search already finds all it
keeps. A step gathers a batch of users' last rows, and trains on it, on one thread. The cases take turns; times are
medians over rounds. Memory is what a step adds to the process at its peak, each case in a process of its own.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

import recexp
from recexp.dataset.batch import Batches, Samples
from recexp.dataset.config import FeatureKind, FeaturesConfig
from recexp.dataset.prepare import prepare
from recexp.dataset.raw import Raw
from recexp.model import Train, create, search_of
from recexp.process import own_process
from recexp.trainer.state import Progress
from recexp.trainer.step import Step

RETURNING = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}  # what is freed goes back at once
N_USERS, N_ITEMS, BATCH = 64, 2000, 256
SOFT = "model.search=soft model.loss_weights.auxiliary=1"
CASES = {  # name: model and overrides, of which {} is the length
    "sim, hard": "sim",
    "sim, soft in the last 1,000": f"sim {SOFT}",
    "sim, soft in all": f"sim {SOFT} model.long_length={{}}",
    "din, the last 50": "din",
    "din, all": "din dataset.max_history={}",
}


def made(case: str, length: int) -> Callable[[], None]:
    """A step of a case, warmed up."""
    model, *typed = CASES[case].format(length).split()
    config = recexp.load_config([f"model={model}", "dataset.max_history=50", "trainer.threads=1", *typed])
    features = FeaturesConfig(
        user={}, item={"category": FeatureKind.categorical}, context={}, derived=config.dataset.features.derived
    )
    options, random = replace(config.dataset, features=features), np.random.default_rng(0)
    n = N_USERS * (length + BATCH // N_USERS)
    user, moment = np.divmod(np.arange(n), n // N_USERS)
    items = pd.DataFrame({"category": np.arange(N_ITEMS) % 2})
    item, label = random.integers(N_ITEMS, size=n), random.integers(2, size=n)
    raw = Raw(origin="past", label=label, user=user, item=item, timestamp=moment, items=items)
    dataset = prepare(raw, options)
    torch.manual_seed(0)
    network = create(config.model, dataset.schema).train()
    batches = Batches(dataset, options, search=search_of(network))
    stage = Train(name="train", model=network)
    step = Step(stage, config.loss_weights, config.model.embedding_l2, config.trainer, batches, 1)
    samples = Samples(torch.arange(n, dtype=torch.int32)[moment >= length])

    def once() -> None:
        step(batches.gather(samples, "test"), Progress())

    for _ in range(2):
        once()
    return once


def memory(case: str, length: int) -> float:
    """MB that a step adds at its peak, in this process."""
    once = made(case, length)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak is counted anew
    before = _status("VmRSS")
    once()
    return _status("VmHWM") - before


def _status(name: str) -> float:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--memory", nargs=2, metavar=("CASE", "L"), help="of one case alone")
    typed = parser.parse_args()
    torch.set_num_threads(1)
    if typed.memory:
        print(memory(typed.memory[0], int(typed.memory[1])))
        return
    own_process()
    cases = [(case, length) for case in CASES for length in typed.lengths]
    steps = {key: made(*key) for key in cases}
    taken: dict[tuple[str, int], list[float]] = {key: [] for key in cases}
    for _ in range(typed.rounds):
        for key, once in steps.items():
            began = time.perf_counter()
            once()
            taken[key].append(time.perf_counter() - began)
    print(f"{'a sample, by past events':34}" + "".join(f"{length:>20,}" for length in typed.lengths))
    for case in CASES:
        cells = []
        for length in typed.lengths:
            command = [sys.executable, __file__, "--memory", case, str(length)]
            run = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | RETURNING)
            peak = float(run.stdout.split()[-1])
            micro = statistics.median(taken[case, length]) / BATCH * 1e6
            cells.append(f"{micro:8,.0f} us {peak * 1024 / BATCH:5,.0f} KB")
        print(f"{case:34}" + "".join(f"{cell:>20}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
