"""What conf/hydra/sweeper/optuna.yaml may hold: types and ranges."""

from dataclasses import dataclass
from enum import Enum
from typing import Any

from recexp.config import require


class Sampler(Enum):
    tpe = "learns from the trials before: tree-structured Parzen estimator"
    gp = "learns from the trials before: Gaussian process; for few keys, mostly intervals"
    random = "draws each trial anew"
    grid = "every combination once"


class Pruner(Enum):
    none = "every trial runs to its end"
    median = "stops a trial whose best epoch is worse than half of the trials were at that epoch"
    asha = "at a few epochs, each `reduction` times the one before, lets one in `reduction` go on"


@dataclass(kw_only=True)
class PrunerOptions:
    name: Pruner
    startup_trials: int
    warmup_epochs: int
    reduction: int

    def __post_init__(self) -> None:
        require(self.startup_trials >= 0, "hydra.sweeper.pruner.startup_trials", self.startup_trials, "0 or more")
        require(self.warmup_epochs >= 1, "hydra.sweeper.pruner.warmup_epochs", self.warmup_epochs, "1 or more")
        require(self.reduction >= 2, "hydra.sweeper.pruner.reduction", self.reduction, "2 or more")


@dataclass(kw_only=True)
class Options:
    n_trials: int
    n_jobs: int | None
    sampler: Sampler
    startup_trials: int
    seed: int
    storage: str | None
    study_name: str | None
    pruner: PrunerOptions
    params: dict[str, Any]

    def __post_init__(self) -> None:
        require(self.n_trials >= 1, "hydra.sweeper.n_trials", self.n_trials, "1 or more")
        require(self.n_jobs is None or self.n_jobs >= 1, "hydra.sweeper.n_jobs", self.n_jobs, "1 or more, or null")
        require(self.startup_trials >= 0, "hydra.sweeper.startup_trials", self.startup_trials, "0 or more")
        require(0 <= self.seed < 2**31, "hydra.sweeper.seed", self.seed, "0 or more, and below 2^31")
