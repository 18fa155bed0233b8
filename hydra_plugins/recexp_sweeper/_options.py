"""The options of conf/hydra/sweeper/optuna.yaml: types and ranges."""

from dataclasses import dataclass
from enum import Enum
from typing import Any

from recexp.option import at_least, check_ranges, random_seed


class Sampler(Enum):
    tpe = "learns from earlier trials: tree-structured Parzen estimator"
    gp = "learns from earlier trials: Gaussian process; for few keys, mostly intervals"
    random = "draws each trial anew"
    grid = "every combination once"


class Pruner(Enum):
    none = "every trial runs to its end"
    median = "stops a trial whose best epoch so far is worse than half of the earlier trials at that epoch"
    asha = "at a few epochs, each `reduction` times the last, lets one trial in `reduction` go on"


@dataclass(kw_only=True)
class PrunerOptions:
    name: Pruner
    startup_trials: int = at_least(0)
    warmup_epochs: int = at_least(1)
    reduction: int = at_least(2)

    def __post_init__(self) -> None:
        check_ranges(self, "hydra.sweeper.pruner")


@dataclass(kw_only=True)
class Options:
    n_trials: int = at_least(1)
    n_jobs: int | None = at_least(1, optional=True)
    sampler: Sampler
    startup_trials: int = at_least(0)
    seed: int = random_seed()
    storage: str | None
    study_name: str | None
    pruner: PrunerOptions
    params: dict[str, Any]

    def __post_init__(self) -> None:
        check_ranges(self, "hydra.sweeper")
