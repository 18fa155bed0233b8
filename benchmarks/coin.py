"""Which metrics move away from chance where nothing can be predicted: labels are tosses of a coin.

`python benchmarks/coin.py`, half a minute. Scores are made from the histories that recexp gathers, under both values of
dataset.history_until. The value by chance is what the same scores get for labels tossed anew. docs/protocols.md has the
results.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

import recexp
from recexp.dataset.batch import Batch, Batches
from recexp.dataset.config import DatasetConfig, FeaturesConfig, HistoryUntil
from recexp.dataset.log import Dataset
from recexp.dataset.prepare import prepare
from recexp.dataset.raw import Raw
from recexp.metric.binary import auc_by_group, best_threshold, evaluate
from recexp.metric.table import PREDICTION_METRICS

LENGTHS = (5, 10, 20, 50, 100)  # events of a user: three in five to train, one to valid, one to test
FEW = (5, 10, 50)  # users of a small log
N_EVENTS, N_TOSSES = 100_000, 50
N_ERRORS = 5  # standard errors from the value by chance that count as a bias


def last(batch: Batch) -> Tensor:
    """The label of the last event in the history as 1 or -1, 0 without one: (B,)."""
    end = (batch.mask.sum(1) - 1).clamp(min=0)[:, None]
    return ((2 * batch.history_label - 1) * batch.mask).gather(1, end)[:, 0]


def mean(batch: Batch) -> Tensor:
    """The mean of the labels in the history, from -1 to 1, 0 without one: (B,)."""
    return ((2 * batch.history_label - 1) * batch.mask).sum(1) / batch.mask.sum(1).clamp(min=1)


@dataclass(frozen=True)
class Measured:
    """A metric of labels that depend on nothing, and of the same scores with labels tossed anew."""

    value: float
    chance: float  # mean over tosses
    deviation: float  # over tosses

    @property
    def errors(self) -> float:
        """Distance from the value by chance in standard errors."""
        off = abs(self.value - self.chance)
        return off / self.deviation if off > 1e-9 else 0.0


SCORES: dict[str, Callable[[Batch], Tensor]] = {  # logits
    "constant": lambda batch: torch.zeros(len(batch)),
    "random": lambda batch: torch.randn(len(batch), generator=torch.Generator().manual_seed(0)),
    "repeats the last label": last,
    "bets against the last label": lambda batch: -last(batch),
    "mean of the labels so far": mean,
    "against the mean of the labels so far": lambda batch: -mean(batch),
}


def tosses(length: int, n_users: int, config: DatasetConfig, seed: int = 0) -> Dataset:
    """A log of users with as many events each, whose labels depend on nothing."""
    n = n_users * length
    label = np.random.default_rng(seed).integers(2, size=n)
    user, time = np.divmod(np.arange(n), length)
    return prepare(Raw(origin="coin", label=label, user=user, item=time % 2, timestamp=time), config)


def configs(length: int) -> dict[HistoryUntil, DatasetConfig]:
    """The options of the data under both protocols: histories hold all events."""
    config = recexp.load_config(["model=din", "dataset.split.ratios=[0.6,0.2,0.2]"]).dataset
    bare = FeaturesConfig(user={}, item={}, context={}, derived=config.features.derived)
    config = replace(config, features=bare, max_history=length)
    return {until: replace(config, history_until=until) for until in HistoryUntil}


def measured(batches: Batches, score: Callable[[Batch], Tensor], n_tosses: int) -> dict[str, Measured]:
    """Every metric of test that has a value."""
    valid, test = (next(batches.epoch(split, batches.size(split))) for split in ("valid", "test"))
    logits, user = score(test).double().numpy(), test.user.numpy()
    threshold = best_threshold(valid.label.numpy(), score(valid).double().numpy())

    def values(label: np.ndarray) -> dict[str, float | None]:
        return evaluate(label, logits, user, threshold).values

    random = np.random.default_rng(1)
    fresh = [values(random.integers(2, size=len(logits))) for _ in range(n_tosses)]
    found = {}
    for name, value in values(test.label.numpy()).items():
        tossed = [other for toss in fresh if (other := toss[name]) is not None]
        if value is not None and tossed:
            found[name] = Measured(value, float(np.mean(tossed)), float(np.std(tossed)))
    return found


def by_length(
    n_events: int, lengths: tuple[int, ...] = LENGTHS, n_tosses: int = N_TOSSES
) -> dict[tuple[str, str, int], dict[str, Measured]]:
    """All metrics by score, history_until and events of a user."""
    found = {}
    for length in lengths:
        for until, config in configs(length).items():
            batches = Batches(tosses(length, n_events // length, config), config)
            found |= {(name, until.name, length): measured(batches, score, n_tosses) for name, score in SCORES.items()}
    return found


def few_users(n_users: int, n_events: int, length: int = LENGTHS[-1]) -> tuple[float, float]:
    """Mean auc over logs of so few users, and its standard error, of the mean of the labels so far until the target."""
    config = configs(length)[HistoryUntil.target]
    batches = Batches(tosses(length, n_events // length, config), config)
    test = next(batches.epoch("test", batches.size("test")))
    log = (test.user.numpy() - 1) // n_users
    auc, _ = auc_by_group(test.label.numpy() == 1, mean(test).double().numpy(), log)
    return float(np.nanmean(auc)), float(np.nanstd(auc) / len(auc) ** 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=N_EVENTS, help="of each log")
    n_events = parser.parse_args().events
    found = by_length(n_events)
    print("gauc by events of a user; by chance .5\n")
    print(f"{'':38}{'until':8}" + "".join(f"{length:>8}" for length in LENGTHS))
    for name in SCORES:
        for until in HistoryUntil:
            cells = [found[name, until.name, length].get("gauc") for length in LENGTHS]
            print(f"{name:38}{until.name:8}" + "".join(f"{cell.value:8.3f}" if cell else f"{'-':>8}" for cell in cells))
    print("\nevery metric, furthest from chance of all scores and lengths\n")
    for until in HistoryUntil:
        for name in PREDICTION_METRICS:
            of_metric = [metrics[name] for key, metrics in found.items() if key[1] == until.name and name in metrics]
            worst = max(of_metric, key=lambda metric: metric.errors)
            biased = "  biased" if worst.errors > N_ERRORS else ""
            print(f"{name:20}{until.name:8}{worst.value - worst.chance:+8.4f}{worst.errors:6.1f} errors{biased}")
    print("\nauc of the mean of the labels so far, until target, in logs of few users\n")
    for n_users in FEW:
        value, error = few_users(n_users, n_events)
        print(f"{n_users:>3} users  {value:.4f} +- {error:.4f}")


if __name__ == "__main__":
    main()
