"""The plugin: from Hydra's arguments to a search, and from a trial's overrides to a launcher's job."""

import logging
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from hydra_plugins.recexp_launcher.gate import at_once
from hydra_plugins.recexp_sweeper._options import Options
from recexp.compose import compose_job
from recexp.config import Config
from recexp.error import ConfigError
from recexp.tree import to_dataclass

logger = logging.getLogger("recexp.search")
INSTALL = "pip install 'recexp[optuna]'"


class OptunaSweeper(Sweeper):
    """Asks Optuna for trials and has any launcher run them, hydra.sweeper.n_jobs at once."""

    def __init__(self, **options: Any) -> None:  # hydra.sweeper; Options has the types
        self.raw_options = options
        self.config: DictConfig | None = None
        self.hydra_context: HydraContext | None = None
        self.launcher: Launcher | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Raises ConfigError for a wrong option, and if Optuna is missing."""
        _require_optuna()
        options = to_dataclass(Options, OmegaConf.create(self.raw_options), "hydra.sweeper")
        self.config, self.hydra_context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        self.options = replace(options, n_jobs=options.n_jobs or at_once(config.hydra.launcher))

    def sweep(self, arguments: list[str]) -> None:
        """Runs trials until the study has n_trials. Raises ConfigError for a missing or invalid space."""
        from hydra_plugins.recexp_sweeper import _space
        from hydra_plugins.recexp_sweeper._closing import count
        from hydra_plugins.recexp_sweeper._search import Search

        assert self.config is not None and self.launcher is not None and self.hydra_context is not None
        params = [f"{key}={value}" for key, value in self.options.params.items()]
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides([*params, *arguments])
        fixed, space = _space.split(overrides)
        seeds = _space.seeds(overrides)
        if not space:
            raise ConfigError(
                "hydra/sweeper = optuna: nothing to search; type a space, as in model.dropout=interval(0,0.5), "
                "or add one of recexp's own, as in +sweep=din."
            )
        config = _space.checked([*fixed, *seeds[0]], space, self.job)
        folder = Path(self.config.hydra.sweep.dir)
        search = Search(self.options, config, folder, fixed, space, self.job, self.launcher, seeds)
        with open_dict(self.config.hydra.sweep):
            self.config.hydra.sweep.n_jobs = search.n_trials * len(seeds)
        search.run()
        logger.info(count(search.trials()))

    def job(self, words: list[str]) -> Config:
        """The checked configuration of a job. Raises ConfigError, or what Hydra raises."""
        assert self.config is not None and self.hydra_context is not None
        return compose_job(self.hydra_context.config_loader, self.config, words)


def _require_optuna() -> None:
    try:
        installed = version("optuna")
    except PackageNotFoundError:
        raise ConfigError(f"hydra/sweeper = optuna: Optuna is not installed; {INSTALL}") from None
    if int(installed.split(".")[0]) < 4:
        raise ConfigError(f"hydra/sweeper = optuna: needs Optuna 4 or newer, and this is {installed}; {INSTALL}")
