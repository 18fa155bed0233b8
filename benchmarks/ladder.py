"""Planted truth: does each model learn what it was designed to learn, and beat the one that lacks that part?

usage: python benchmarks/ladder.py [STRUCTURE ...] [--seeds N] [--threads N] [--events N]

For each planted structure alone, and for all together, models are trained from several seeds on the same synthetic log.
Printed: the share of the way from AUC 0.5 to the oracle's, mean and deviation over seeds.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import recexp

STRUCTURES = ("popularity", "interaction", "interest", "order", "drift")
LADDER = {
    "interaction": ("popularity", "linear", "fm", "deepfm"),
    "interest": ("deepfm", "seq_pooling", "din", "dien"),
    "order": ("seq_pooling", "din", "rnn", "dien"),
    "drift": ("deepfm", "seq_pooling", "din", "rnn", "dien"),
    "all": ("popularity", "linear", "fm", "deepfm", "seq_pooling", "din", "rnn", "dien"),
}


def shares(structure: str, model: str, seeds: int, more: list[str]) -> list[float]:
    """The share of the oracle for each seed."""
    alone = [f"dataset.{name}={1.0 if name == structure else 0.0}" for name in STRUCTURES]
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds):
            place = [
                f"model={model}",
                f"seed={seed}",
                f"run.dir={Path(folder) / str(seed)}",
                "trainer.predictions=false",
            ]
            config = recexp.load_config([*place, *([] if structure == "all" else alone), *more])
            found.append(recexp.train(config)["share_of_oracle"])
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("structures", nargs="*", default=list(LADDER))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--events", type=int, default=30_000)
    typed = parser.parse_args()
    more = [f"dataset.n_events={typed.events}", f"dataset.n_users={typed.events // 50}", "dataset.n_items=200"]
    more += ["trainer.batch_size=256", f"trainer.threads={typed.threads or 'null'}"]
    for structure in typed.structures:
        for model in LADDER[structure]:
            found = shares(structure, model, typed.seeds, more)
            spread = statistics.stdev(found) if len(found) > 1 else 0.0
            print(
                f"{structure:12} {model:12} {statistics.fmean(found):6.1%} ± {spread:.1%}   n={len(found)}", flush=True
            )
