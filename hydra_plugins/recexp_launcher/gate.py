"""The gate before any launcher of a sweep: all jobs are composed, checked and written before the first one starts.

The launcher then gets directories, and the results of its jobs are read from these, whether it returns or raises.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from recexp.compose import compose_job
from recexp.error import UserError, first_line
from recexp.process import cores
from recexp.run.directory import check_data, check_reopens
from recexp.run.read import read_config
from recexp.sweep.folder import FOLDER_OVERRIDE, Job, Stopped, begin, find_job, job_path, quoted
from recexp.sweep.job import objective
from recexp.sweep.pool import Task

BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"  # in this process, for a debugger
logger = logging.getLogger("recexp.sweep")


class Gated(Callback):
    """Puts the gate before the launcher that a file or override chose."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        gate = {"_target_": f"{__name__}.{Gate.__name__}", "_recursive_": False, "chosen": config.hydra.launcher}
        with open_dict(config.hydra):
            config.hydra.launcher = gate


class Gate(Launcher):
    """chosen: the configuration of the launcher behind the gate."""

    def __init__(self, chosen: DictConfig) -> None:
        self.chosen = chosen
        self.fingerprints: dict[str, str] = {}  # of the data, by dataset options and whether AUC is computed
        self.warnings: dict[str, None] = {}  # of what in the data makes metrics mislead, each once
        self.announced = False

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        assert isinstance(task_function, Task)
        with open_dict(config.hydra):
            config.hydra.launcher = self.chosen
        self.loader, self.config, self.sweep = hydra_context.config_loader, config, task_function.sweep
        task = replace(task_function, apart=self.chosen._target_ != BASIC)
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task, config=config
        )

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs the jobs that have not ended. A job's value is its objective, NaN if it failed.

        Raises UserError before any starts, and Stopped after a failure if run.fail_fast is true.
        """
        if not job_overrides:
            return []
        threads = threads_per_job(self.chosen, len(job_overrides))
        jobs = [self._job(number, words, threads) for number, words in enumerate(job_overrides, initial_job_idx)]
        for job in jobs:
            self._check(job)
        begin(self.sweep, jobs)
        left = [job for job in jobs if not job.ended]
        self._announce(len(jobs), len(left))
        fail_fast = any(job.config.run.fail_fast for job in left)
        for batch in batches(left, self.chosen, fail_fast):
            self._run(batch, fail_fast)
        return [_returned(job) for job in jobs]

    def _job(self, number: int, words: Sequence[str], threads: int) -> Job:
        """A job, composed and checked. Raises ConfigError, or what Hydra raises."""
        words = [word for word in words if not FOLDER_OVERRIDE.match(word)]
        if before := find_job(self.sweep.folder, number):
            threads = read_config(before)["trainer"]["threads"]  # as when it began
        config = compose_job(self.loader, self.config, words, number, threads)
        path = job_path(self.sweep.folder, number, config)
        config.run.dir = str(path)
        return Job(number, path, config, words)

    def _check(self, job: Job) -> None:
        """Loads the data, which also prepares them for all jobs. Raises UserError."""
        from recexp import registry
        from recexp.dataset.prepare import load
        from recexp.dataset.warning import warnings_of_run
        from recexp.experiment import resolve_device
        from recexp.unread import unread

        if before := find_job(self.sweep.folder, job.number):
            check_reopens(before, job.config)
        if not on_cluster(self.chosen):
            resolve_device(job.config.device)
        auc = registry.get("trainer", job.config.trainer.name).predicts_labels
        options = repr((job.config.dataset, auc))
        if options not in self.fingerprints:
            dataset = load(job.config.dataset)
            self.fingerprints[options] = dataset.fingerprint
            lines = warnings_of_run(dataset, job.config.dataset, auc)
            self.warnings |= dict.fromkeys(f"data: {line}" for line in lines)
        name = job.config.model.name
        self.warnings |= dict.fromkeys(f"model={name}: {line}" for line in unread(job.config, job.overrides))
        check_data(job.path, self.fingerprints[options])

    def _announce(self, n_jobs: int, n_left: int) -> None:
        if not self.announced:
            logger.info("sweep  %s", self.sweep.folder)
        if n_left < n_jobs:
            logger.info("%d of %d jobs have ended before", n_jobs - n_left, n_jobs)
        for warning in self.warnings:
            logger.warning("%s", warning)
        self.warnings = {}
        self.announced = True

    def _run(self, jobs: Sequence[Job], fail_fast: bool) -> None:
        """A launcher's error over a job that died does not end the sweep; an error before any job began does."""
        fail = f"++run.fail_fast={str(fail_fast).lower()}"
        overrides = [[*job.overrides, f"++run.dir={quoted(job.path.absolute())}", fail] for job in jobs]
        try:
            self.launcher.launch(overrides, jobs[0].number)
        except (UserError, Stopped):
            raise
        except Exception as error:
            if not any(job.began for job in jobs):
                raise
            message = first_line(error)
            logger.error("%s: %s: %s", type(self.launcher).__name__, type(error).__name__, message)
        if fail_fast and not all(job.ended for job in jobs):
            raise Stopped


def threads_per_job(launcher: DictConfig, n: int) -> int:
    """Each job's threads: cpus_per_task on a cluster; on this machine, its cores divided by the parallel jobs."""
    if on_cluster(launcher):
        return launcher.cpus_per_task or 1
    return max(1, cores() // min(n, at_once(launcher)))


def on_cluster(launcher: DictConfig) -> bool:
    """Whether jobs run on other machines, as submitit's do."""
    return "cpus_per_task" in launcher


def at_once(launcher: DictConfig) -> int:
    """How many jobs a launcher runs at once on this machine; joblib's -1 means one per core."""
    n_jobs = launcher.get("n_jobs") or 1
    return n_jobs if n_jobs > 0 else cores()


def batches(jobs: list[Job], launcher: DictConfig, fail_fast: bool) -> list[list[Job]]:
    """One batch of all jobs; batches of parallel jobs if a failure must end the sweep and the launcher would go on."""
    stops = launcher._target_.startswith("hydra_plugins.recexp_launcher.")
    size = at_once(launcher) if fail_fast and not stops else max(1, len(jobs))
    return [jobs[start : start + size] for start in range(0, len(jobs), size)]


def _returned(job: Job) -> JobReturn:
    returned = JobReturn(overrides=job.overrides, status=JobStatus.COMPLETED)
    returned.return_value = objective(job.path)
    return returned
