"""Optuna's objects: the study with its storage, the sampler and the pruner."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import distribution_to_json
from optuna.exceptions import ExperimentalWarning
from sqlalchemy.exc import SQLAlchemyError

from hydra_plugins.recexp_sweeper._options import Options, Pruner, PrunerOptions, Sampler
from hydra_plugins.recexp_sweeper._space import Space
from recexp.config import Config
from recexp.error import ConfigError, RunError, first_line
from recexp.metric.table import higher_is_better
from recexp.tree import flat, to_dict

SEARCHED = "searched"  # the study's attribute that holds what it searches
# Keys that may differ between the processes of a search.
ELSEWHERE = ("run.", "logger", "device", "plugins", "trainer.threads", "dataset.cache_dir", "dataset.path",
             "dataset.user_path", "dataset.item_path")  # fmt: skip


def open_study(
    options: Options, config: Config, folder: Path, objective: str, space: Space, seeds: list[list[str]]
) -> optuna.Study:
    """The study, made if there is none; its direction is the objective's.

    Raises ConfigError if its storage cannot be opened, RunError if the study has searched something else so far.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    url = options.storage or f"sqlite:///{(folder / 'study.db').absolute()}"
    name = options.study_name or (str(folder) if options.storage else "search")
    try:
        study = optuna.create_study(
            storage=url,
            study_name=name,
            pruner=_pruner(options.pruner),
            direction="maximize" if higher_is_better(f"valid.{objective}") else "minimize",
            load_if_exists=True,
        )
    except (SQLAlchemyError, ImportError, ValueError) as error:
        reason = first_line(error)
        raise ConfigError(f"hydra.sweeper.storage = {options.storage}: cannot be opened: {reason}") from error
    identity = {key: value for key, value in flat(to_dict(config)) if not key.startswith(ELSEWHERE)}
    spaces = {key: distribution_to_json(item) for key, item in space.items()}
    of_seeds = {"seed": ",".join(word.removeprefix("seed=") for (word,) in seeds)} if len(seeds) > 1 else {}
    _describe(study, {**identity, "objective": objective, **spaces, **of_seeds})
    return study


def sampler(options: Options, number: int) -> optuna.samplers.BaseSampler:
    """The sampler of one trial, seeded by its number, so that resuming a search changes none of its trials."""
    seed = int(np.random.SeedSequence((options.seed, number)).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # Optuna 4 calls constant_liar and GPSampler experimental
        if options.sampler is Sampler.tpe:
            # constant_liar keeps the trials of a batch apart, since none of them has a value yet.
            return optuna.samplers.TPESampler(n_startup_trials=options.startup_trials, seed=seed, constant_liar=True)
        if options.sampler is Sampler.gp:
            return optuna.samplers.GPSampler(n_startup_trials=options.startup_trials, seed=seed)
        return optuna.samplers.RandomSampler(seed)


def _describe(study: optuna.Study, searched: dict[str, Any]) -> None:
    """Records what the study searches, or compares it with what it has searched so far."""
    before = study.user_attrs.get(SEARCHED)
    if before is None:
        study.set_user_attr(SEARCHED, searched)
    elif different := sorted(key for key in {*before, *searched} if before.get(key) != searched.get(key)):
        key = different[0]
        raise RunError(
            f"study {study.study_name}: {key} is {searched.get(key)} here and {before.get(key)} in the study; "
            "a search goes on as it began."
        )


def _pruner(options: PrunerOptions) -> optuna.pruners.BasePruner:
    """Optuna's pruner; an epoch is a step, counted from 1."""
    if options.name is Pruner.median:
        return optuna.pruners.MedianPruner(options.startup_trials, options.warmup_epochs)
    if options.name is Pruner.asha:
        return optuna.pruners.SuccessiveHalvingPruner(options.warmup_epochs, options.reduction)
    return optuna.pruners.NopPruner()
