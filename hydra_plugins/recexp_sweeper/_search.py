"""The search: trials in batches, each batch run by a launcher, watched, and reported to the study."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from hydra.plugins.launcher import Launcher
from optuna.trial import FrozenTrial, TrialState

from hydra_plugins.recexp_sweeper import _space
from hydra_plugins.recexp_sweeper._closing import best_trial
from hydra_plugins.recexp_sweeper._options import Options, Sampler
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

    job: turns a job's overrides into its checked configuration, or raises. A trial's user attributes: folder
    and job identify its run directory; directory, state, valid.METRIC and test.METRIC are its result; error says why it
    failed; again is the number of the failed trial that it replaces.
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
    ) -> None:
        self.options, self.folder, self.fixed, self.space = options, folder, fixed, space
        self.job, self.launcher = job, launcher
        self.objective = config.objective or config.trainer.monitor
        self.grid = _grid(options, space)
        self.n_trials = len(self.grid) or options.n_trials
        folder.mkdir(parents=True, exist_ok=True)
        self.study = open_study(options, config, folder, self.objective, space)
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
            if jobs and (number != jobs[-1].number + 1 or len(jobs) == self.options.n_jobs):
                break
            trial = self._again(last) if failed else optuna.Trial(self.study, last._trial_id)
            words = [*self.fixed, *_space.words(last.params)]
            jobs.append(Job(number, trial, words, reported=0 if failed else last.last_step or 0))
        return jobs

    def _own(self) -> list[FrozenTrial]:
        """The trials of this folder. A study stored in the folder serves it alone; one elsewhere may be shared."""
        folder, shared = str(self.folder.absolute()), bool(self.options.storage)
        return [trial for trial in self.trials() if not shared or trial.user_attrs.get("folder") == folder]

    def _latest(self) -> dict[int, FrozenTrial]:
        """The last trial of each job."""
        return {trial.user_attrs["job"]: trial for trial in self._own() if "job" in trial.user_attrs}

    def _again(self, failed: FrozenTrial) -> optuna.Trial:
        """A new trial in place of a failed one, as a study never changes a reported result."""
        kept = {key: failed.user_attrs[key] for key in ("folder", "job")}
        self.study.enqueue_trial(failed.params, user_attrs={**kept, "again": failed.number})
        return self.study.ask(self.space)

    def _next(self) -> list[Job]:
        """As many new trials as may run at once and remain; one whose configuration is invalid fails at once."""
        jobs: list[Job] = []
        while len(jobs) < (self.options.n_jobs or 1):
            begun = sum("again" not in trial.user_attrs for trial in self.trials())
            if begun >= self.n_trials:
                break
            if job := self._ask(begun):
                jobs.append(job)
        return jobs

    def _ask(self, begun: int) -> Job | None:
        self.study.sampler = sampler(self.options, begun)
        if self.grid:
            self.study.enqueue_trial(self.grid[begun], skip_if_exists=True)
        trial = self.study.ask(self.space)
        trial.set_user_attr("folder", str(self.folder.absolute()))
        words = [*self.fixed, *_space.words(trial.params)]
        if mistake := self._mistake(words):
            self._fail(trial, mistake)
            return None
        number = 1 + max(self._latest(), default=-1)
        trial.set_user_attr("job", number)
        return Job(number, trial, words)

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
        with Watch(jobs, self.folder, self.objective) as watch:
            self.launcher.launch([job.words for job in jobs], jobs[0].number)
        for job in jobs:
            self._tell(job, job.number in watch.pruned)

    def _tell(self, job: Job, pruned: bool) -> None:
        path = directory(self.folder, job.number)
        outcome = read_outcome(path) if path else None
        state, error = (outcome.record.state, outcome.error) if outcome else ("missing", "left no directory")
        metrics = outcome.record.metrics if outcome else {}
        objective = f"valid.{self.objective}"
        value = metrics.get(objective)
        test = {name: score for name, score in metrics.items() if name.startswith("test.")}
        attributes = {"directory": path and path.name, "state": state, objective: value, **test}
        for name, attribute in attributes.items():
            if attribute is not None:
                job.trial.set_user_attr(name, attribute)
        if state not in ENDED:
            self._fail(job.trial, error or f"ended as {state}")
        elif pruned or state == "pruned":
            self.study.tell(job.trial, state=TrialState.PRUNED)
        elif value is None:
            self._fail(job.trial, f"valid {self.objective} cannot be computed")
        else:
            self.study.tell(job.trial, value)
            if (best := best_trial(self.trials(), self.objective)) and best.number == job.trial.number:
                logger.info("best so far: %s", " ".join(_space.words(job.trial.params)))

    def _fail(self, trial: optuna.Trial, why: str) -> None:
        trial.set_user_attr("error", why)
        self.study.tell(trial, state=TrialState.FAIL)
        if "job" not in trial.user_attrs:
            logger.info("failed without a job: %s: %s", " ".join(_space.words(trial.params)), why)


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
