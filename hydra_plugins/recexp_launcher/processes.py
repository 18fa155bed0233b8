"""Hydra's `hydra/launcher=processes`: each job in its own process. It runs directories, so it needs the gate."""

import os
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from recexp.error import ConfigError
from recexp.metric.table import is_number


class Processes(Launcher):
    def __init__(self, n_jobs: int, job_timeout: float | None = None) -> None:
        self.n_jobs, self.job_timeout = n_jobs, job_timeout
        self.environment: dict[str, str] = {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from recexp.sweep.pool import start_server

        if not isinstance(self.n_jobs, int) or self.n_jobs < 1:
            raise ConfigError(f"hydra.launcher.n_jobs = {self.n_jobs}: must be 1 or more.")
        if self.job_timeout is not None and not (is_number(self.job_timeout) and self.job_timeout > 0):
            raise ConfigError(f"hydra.launcher.job_timeout = {self.job_timeout}: must be seconds above 0, or null.")
        self.environment, self.sweep = dict(config.hydra.job.env_set), config.hydra.sweep
        start_server()  # it imports while the gate checks the jobs

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from recexp.sweep.pool import Pool
        from recexp.sweep.progress import Progress

        paths = [directory(overrides) for overrides in job_overrides]
        fail_fast = any("++run.fail_fast=true" in overrides for overrides in job_overrides)
        with Progress(paths, self.sweep.get("n_jobs", 0)) as progress:  # a search knows how many jobs there will be
            Pool(self.n_jobs, gpus(), self.environment, self.job_timeout).run(paths, progress, fail_fast)
        return [JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED) for overrides in job_overrides]


def directory(overrides: Sequence[str]) -> Path:
    """The run.dir that the gate added to a job's overrides."""
    words = [word for word in overrides if word.startswith("++run.dir=")]
    return Path(str(OverridesParser.create().parse_override(words[-1]).value()))


def gpus() -> list[str]:
    """The devices that CUDA_VISIBLE_DEVICES can name, if there are several."""
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (named.split(",") if named else [str(n) for n in range(count)])[:count] if count > 1 else []
