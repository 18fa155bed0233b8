"""How often the leaderboard reports a difference between equal models: at most 5 times in 100, or its p means nothing.

`python benchmarks/calibration.py`, two minutes: first on simulated values, then on real runs that differ only by seed,
assigned at random to rows of equal models. A family of rows counts as one false call, however many of its rows differ
significantly. docs/statistics.md has the results.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

import recexp
from recexp.report.leaderboard import Choice, leaderboard
from recexp.report.statistics import holm
from recexp.run.record import Record, read_all

Draw = Callable[[np.random.Generator, int], np.ndarray]  # (random, n) -> n values of equal models
LEVEL = 0.05
DRAWN: dict[str, Draw] = {
    "normal": lambda random, n: random.normal(size=n),
    "heavy tails (t, 3 df)": lambda random, n: random.standard_t(3, size=n),
    "skewed (lognormal)": lambda random, n: random.lognormal(size=n),
}
TRAINED = ("model=fm", "+experiment=smoke", "trainer.epochs=5", "trainer.threads=1", "trainer.predictions=false")
METRICS = ("test.auc", "test.gauc", "test.logloss")
FAMILIES: dict[str, list[range]] = {  # seeds of each row
    "2 rows, 5 common seeds": [range(5)] * 2,
    "2 rows, 3 common seeds": [range(3)] * 2,
    "2 rows, 5 other seeds each": [range(5), range(5, 10)],
    "2 rows, 3 and 10 other seeds": [range(3), range(3, 13)],
    "5 rows, 5 common seeds": [range(5)] * 5,
    "5 rows, 5 other seeds each": [range(5 * row, 5 * row + 5) for row in range(5)],
}


def called(values: np.ndarray, family: list[range], baseline: str | None, metric: str) -> tuple[bool, bool]:
    """Whether any difference is significant among rows that take these values in order.

    Second: the same if p is corrected only for the rows shown, not for all pairs among which the best was chosen.
    """
    left = iter(values.tolist())
    records = [
        Record(Path(f"{row}-{seed}"), "finished", {"model.name": str(row), "seed": seed}, {metric: next(left)}, "data")
        for row, seeds in enumerate(family)
        for seed in seeds
    ]
    board = leaderboard(records, Choice(metric=metric, baseline=baseline))
    differences = [row.difference for row in board.rows if row.difference and row.difference.p is not None]
    naive = holm([difference.p for difference in differences])
    return any(difference.p_corrected <= LEVEL for difference in differences), any(p <= LEVEL for p in naive)


def rates(draw: Draw, family: list[range], baseline: str | None, metric: str, n: int, seed: int = 0) -> np.ndarray:
    """The share of n families with a significant difference, and the share that a naive correction would report."""
    random = np.random.default_rng(seed)
    size = sum(map(len, family))
    return np.mean([called(draw(random, size), family, baseline, metric) for _ in range(n)], axis=0)


def train(folder: Path, n_seeds: int) -> list[Record]:
    """Real runs that differ only by seed."""
    for seed in range(n_seeds):
        recexp.train(recexp.load_config([*TRAINED, f"seed={seed}", f"run.dir={folder / str(seed)}"]))
    return read_all([folder])


def one_of(values: np.ndarray) -> Draw:
    return lambda random, n: random.choice(values, size=n, replace=False)


def print_rates(title: str, draw: Draw, metric: str, n: int) -> None:
    """Prints one line per family."""
    for name, family in FAMILIES.items():
        named, _ = rates(draw, family, "model=0", metric, n)
        best, naive = rates(draw, family, None, metric, n)
        print(f"{title:30}{name:32}{named:14.1%}{best:16.1%}{naive:28.1%}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=2000, help="families of simulated values")
    parser.add_argument("--seeds", type=int, default=100, help="real runs")
    parser.add_argument("--comparisons", type=int, default=3000, help="families of real runs")
    typed = parser.parse_args()
    print(f"{'false calls among':62}{'a named row':>14}{'the best row':>16}{'the best, pairs uncounted':>28}")
    for name, draw in DRAWN.items():
        print_rates(name, draw, "test.auc", typed.draws)
    with tempfile.TemporaryDirectory() as folder:
        records = train(Path(folder), typed.seeds)
    for metric in METRICS:
        values = np.array([record.metrics[metric] for record in records])
        print_rates(f"fm, {len(values)} seeds, {metric}", one_of(values), metric, typed.comparisons)


if __name__ == "__main__":
    main()
