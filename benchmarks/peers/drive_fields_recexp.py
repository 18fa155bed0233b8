"""recexp's trainer on models over fields, taken step by step so that batches can be limited."""

from worker import FirstSteps, Job, timed, work  # isort: skip  # starts the clock

from typing import Any

import pandas  # noqa: F401  # otherwise imported within preparation
import torch

import recexp
from recexp.dataset.batch import Batches
from recexp.experiment import Experiment, build
from recexp.process import own_process
from recexp.trainer.loop import epoch
from recexp.trainer.state import Progress
from recexp.trainer.step import Step


def prepare(job: Job) -> Experiment:
    settings = job.settings
    training = [f"trainer.{name}={settings[name]}" for name in ("batch_size", "eval_batch_size", "learning_rate")]
    return build(recexp.load_config([
        *settings["overrides"], *training, "dataset.cache_dir=null", "trainer.clip_norm=null",
        f"trainer.threads={job.threads}", f"seed={job.seed}", "device=cpu",
    ]))  # fmt: skip


class Recexp:
    def __init__(self, job: Job, experiment: Experiment) -> None:
        own_process()
        torch.set_num_threads(job.threads)
        self.config, self.trainer, self.seed = experiment.config, experiment.trainer, job.seed
        batches = Batches(experiment.dataset, self.config.dataset)
        self.batches = FirstSteps(batches, job.max_batches)
        [self.stage] = self.trainer.stages(experiment.model)
        weights = self.trainer.weights(self.config)
        self.step = Step(self.stage, weights, 0.0, self.config.trainer, batches, job.epochs)
        self.n_rows = self.batches.rows(batches.size("train"), self.config.trainer.batch_size)
        self.n_test, self.progress = batches.size("test"), Progress()
        self.parameters = sum(parameter.numel() for parameter in experiment.model.parameters())

    def epoch(self) -> float:
        progress, batch_size = self.progress, self.config.trainer.batch_size
        take = self.trainer.step_function(self.step)
        with self.trainer.numerics():
            seconds = timed(lambda: epoch(self.stage, take, self.batches, batch_size, self.seed, progress))
            self.catch_up_seconds = timed(self.step.catch_up)
        progress.end_epoch(None, 1, {})
        return seconds


def measure(job: Job, library: Recexp) -> dict[str, Any]:
    speeds = [library.n_rows / library.epoch() for _ in range(job.epochs)]
    middle = sorted(speeds[1:] or speeds)[len(speeds[1:]) // 2]
    return {"samples_per_second": middle, "catch_up_seconds": library.catch_up_seconds,
            "parameters": library.parameters}  # fmt: skip


if __name__ == "__main__":
    work(Job(), prepare, Recexp, measure)
