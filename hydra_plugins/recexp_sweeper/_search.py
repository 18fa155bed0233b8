"""The search: trials in batches, each batch run by a launcher, watched, and reported to the study."""

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from hydra.plugins.launcher import Launcher
from optuna.trial import FrozenTrial, TrialState

from hydra_plugins.recexp_sweeper import _space
from hydra_plugins.recexp_sweeper._closing import best_trial
from hydra_plugins.recexp_sweeper._options import Options, Pruner, Sampler
from hydra_plugins.recexp_sweeper._study import open_study, sampler
from hydra_plugins.recexp_sweeper._watch import Job, Watch, directory
from recexp.compose import one_line
from recexp.config import Config
from recexp.error import ConfigError, UserError
from recexp.run.status import ENDED
from recexp.sweep.outcome import read_outcome

logger = logging.getLogger("recexp.search")


class Search:
    """Runs trials until the study has n_trials.

    job: turns a job's overrides into its checked configuration, or raises. seeds: what each of a trial's jobs adds to
    the overrides; a trial's metrics are means over them. A trial's user attributes: folder and job identify the
    directory of its first run; directory, state, valid.METRIC and test.METRIC are its result; error says why it failed;
    again is the number of the failed trial that it replaces.
    """

    def __init__(
        self,
        options: Options,
        config: Config,
        folder: Path,
        fixed: list[str],
        space: _space.Space,
        job: Callable[[list[str]], Config],
        launcher: Launcher,
        seeds: list[list[str]] | None = None,
    ) -> None:
        self.options, self.folder, self.fixed, self.space = options, folder, fixed, space
        self.job, self.launcher, self.seeds = job, launcher, seeds or [[]]
        self.at_once = max(1, (options.n_jobs or 1) // len(self.seeds))  # trials
        if len(self.seeds) > 1 and options.pruner.name is not Pruner.none:
            raise ConfigError(
                f"hydra.sweeper.pruner.name = {options.pruner.name.name}: compares single runs, and a trial "
                "has one for each seed; set pruner.name=none or one seed."
            )
        self.objective = config.objective or config.trainer.monitor
        self.grid = _grid(options, space)
        self.n_trials = len(self.grid) or options.n_trials
        folder.mkdir(parents=True, exist_ok=True)
        self.study = open_study(options, config, folder, self.objective, space, self.seeds)
        self.first = len(self.study.trials)  # number of the first trial of this process

    def run(self) -> None:
        """Raises what the launcher raises, if that ends the sweep."""
        for trial in self._own():
            if trial.state is TrialState.RUNNING and "job" not in trial.user_attrs:
                self._fail(optuna.Trial(self.study, trial._trial_id), "the search was killed before it began")
        while jobs := self._left() or self._next():
            self._launch(jobs)

    def trials(self) -> list[FrozenTrial]:
        """All trials that have begun, including those of other processes that share the study."""
        return [trial for trial in self.study.get_trials(deepcopy=False) if trial.state is not TrialState.WAITING]

    def _left(self) -> list[Job]:
        """Jobs that an earlier process left running, or that failed in it: one batch of consecutive numbers."""
        jobs: list[Job] = []
        for number, last in sorted(self._latest().items()):
            failed = (
                last.state is TrialState.FAIL and last.number < self.first and last.user_attrs["state"] not in ENDED
            )
            if not failed and last.state is not TrialState.RUNNING:
                continue
            if jobs and (number != jobs[-1].number + 1 or len(jobs) == self.at_once * len(self.seeds)):
                break
            trial = self._again(last) if failed else optuna.Trial(self.study, last._trial_id)
            jobs += self._jobs(number, trial, reported=0 if failed else last.last_step or 0)
        return jobs

    def _jobs(self, number: int, trial: optuna.Trial, reported: int = 0) -> list[Job]:
        """The jobs of a trial, one for each seed, numbered from `number` on."""
        words = _space.job_words(self.fixed, trial.params)
        return [Job(number + n, trial, [*words, *seed], reported) for n, seed in enumerate(self.seeds)]

    def _own(self) -> list[FrozenTrial]:
        """The trials of this folder. A study stored in the folder serves only it; one elsewhere may be shared."""
        folder, shared = str(self.folder.absolute()), bool(self.options.storage)
        return [trial for trial in self.trials() if not shared or trial.user_attrs.get("folder") == folder]

    def _latest(self) -> dict[int, FrozenTrial]:
        """The last trial of each first job."""
        return {trial.user_attrs["job"]: trial for trial in self._own() if "job" in trial.user_attrs}

    def _again(self, failed: FrozenTrial) -> optuna.Trial:
        """A new trial in place of a failed one, as a study never changes a reported result."""
        kept = {key: failed.user_attrs[key] for key in ("folder", "job")}
        self.study.enqueue_trial(failed.params, user_attrs={**kept, "again": failed.number})
        return self.study.ask(self.space)

    def _next(self) -> list[Job]:
        """As many new trials as may run at once and remain; one whose configuration is invalid fails at once."""
        jobs: list[Job] = []
        while len(jobs) < self.at_once * len(self.seeds):
            begun = sum("again" not in trial.user_attrs for trial in self.trials())
            if begun >= self.n_trials:
                break
            jobs += self._ask(begun)
        return jobs

    def _ask(self, begun: int) -> list[Job]:
        self.study.sampler = sampler(self.options, begun)
        if self.grid:
            self.study.enqueue_trial(self.grid[begun], skip_if_exists=True)
        trial = self.study.ask(self.space)
        trial.set_user_attr("folder", str(self.folder.absolute()))
        number = max(self._latest(), default=-len(self.seeds)) + len(self.seeds)
        jobs = self._jobs(number, trial)
        if mistake := self._mistake(jobs[0].words):
            self._fail(trial, mistake)
            return []
        trial.set_user_attr("job", number)
        return jobs

    def _mistake(self, words: list[str]) -> str | None:
        """Why these overrides are invalid, or None: each value may be valid while the combination is not."""
        try:
            self.job(words)
        except UserError as error:
            return str(error)
        except Exception as error:  # Hydra's
            return str(one_line(error, words))
        return None

    def _launch(self, jobs: list[Job]) -> None:
        """Runs the jobs and reports to the study what their directories say.

        If that raises, their trials stay as they are: they run when the search is resumed.
        """
        with Watch(jobs if len(self.seeds) == 1 else [], self.folder, self.objective) as watch:
            self.launcher.launch([job.words for job in jobs], jobs[0].number)
        for start in range(0, len(jobs), len(self.seeds)):
            self._tell(jobs[start : start + len(self.seeds)], watch.pruned)

    def _tell(self, jobs: list[Job], pruned: set[int]) -> None:
        """Reports a trial's result: of the first of its jobs that has not ended, or the means over all."""
        results = [self._result(job) for job in jobs]
        result = next((result for result in results if result["state"] not in ENDED), results[0])
        state, error = result["state"], result["error"]
        metrics = _means([result["metrics"] for result in results])
        value, trial = metrics.get(f"valid.{self.objective}"), jobs[0].trial
        for name, attribute in {"directory": results[0]["directory"], "state": state, **metrics}.items():
            if attribute is not None:
                trial.set_user_attr(name, attribute)
        if state not in ENDED:
            self._fail(trial, error or f"ended as {state}")
        elif jobs[0].number in pruned or any(result["state"] == "pruned" for result in results):
            self.study.tell(trial, state=TrialState.PRUNED)
        elif value is None:
            self._fail(trial, f"valid {self.objective} cannot be computed")
        else:
            self.study.tell(trial, value)
            if (best := best_trial(self.trials(), self.objective)) and best.number == trial.number:
                logger.info("best so far: %s", " ".join(_space.words(trial.params)))

    def _result(self, job: Job) -> dict[str, Any]:
        """State, error, directory, and the metrics that choose a trial or stand beside it, of one job."""
        if not (path := directory(self.folder, job.number)):
            return {"state": "missing", "error": "left no directory", "directory": None, "metrics": {}}
        outcome = read_outcome(path)
        metrics = {
            name: value
            for name, value in outcome.record.metrics.items()
            if name == f"valid.{self.objective}" or name.startswith("test.")
        }
        return {"state": outcome.record.state, "error": outcome.error, "directory": path.name, "metrics": metrics}

    def _fail(self, trial: optuna.Trial, why: str) -> None:
        trial.set_user_attr("error", why)
        self.study.tell(trial, state=TrialState.FAIL)
        if "job" not in trial.user_attrs:
            logger.info("failed without a job: %s: %s", " ".join(_space.words(trial.params)), why)


def _means(metrics: list[dict[str, float | None]]) -> dict[str, float | None]:
    """Each metric's mean; None if one of them lacks it."""
    values = {name: [each.get(name) for each in metrics] for name in metrics[0]}
    return {
        name: None if None in column else math.fsum(filter(None, column)) / len(column)
        for name, column in values.items()
    }


def _grid(options: Options, space: _space.Space) -> list[dict[str, Any]]:
    """The settings in order if the sampler is grid, otherwise none. Raises ConfigError for more than n_trials."""
    if options.sampler is not Sampler.grid:
        return []
    settings = _space.grid(space)
    if len(settings) > options.n_trials:
        raise ConfigError(
            f"hydra.sweeper.n_trials = {options.n_trials}: the grid has {len(settings)} settings; "
            f"write hydra.sweeper.n_trials={len(settings)} for all, or take sampler=random."
        )
    return settings
