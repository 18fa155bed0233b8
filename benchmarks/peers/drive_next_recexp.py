"""recexp's trainer of next items and its ranking of test, taken step by step so that batches can be limited."""

from worker import FirstSteps, Job, work  # isort: skip  # starts the clock


import pandas  # noqa: F401  # otherwise imported within preparation
import torch
from ranker import LOG, K, clock_of, measure, ranking_job

import recexp
from recexp.dataset.batch import Batches
from recexp.experiment import Experiment, build
from recexp.metric.full_ranking import evaluate_ranking, ranked_users
from recexp.process import own_process
from recexp.trainer.loop import epoch
from recexp.trainer.state import Progress
from recexp.trainer.step import Step

LOSSES = {
    "sampled": ["trainer.loss=sampled_softmax"],
    "shared": ["trainer.loss=sampled_softmax", "trainer.negatives.shared=true"],
    "full": ["trainer.loss=cross_entropy"],
}
OWN = {"sasrec": ("n_heads", "hidden_size"), "gru4rec": ()}


def prepare(job: Job) -> Experiment:
    settings = job.settings
    names = ("embedding_dim", "dropout", *OWN[settings["model"]])
    training = ("batch_size", "eval_batch_size", "learning_rate")
    return build(recexp.load_config([
        f"model={settings['model']}", *(f"model.{name}={settings[name]}" for name in names),
        "dataset=sequence", f"dataset.path={job.folder / LOG}", f"dataset.max_history={settings['max_history']}",
        "dataset.cache_dir=null", "trainer=next_item", *(f"trainer.{name}={settings[name]}" for name in training),
        *LOSSES[settings["loss"]], f"trainer.negatives.n={settings['n_negatives']}", "trainer.negatives.logq=false",
        "trainer.clip_norm=null", f"trainer.ranking.cutoffs=[{K}]", f"trainer.monitor=ndcg@{K}/all",
        f"trainer.threads={job.threads}", f"seed={job.seed}", "device=cpu",
    ]))  # fmt: skip


class Recexp:
    def __init__(self, job: Job, experiment: Experiment) -> None:
        own_process()
        torch.set_num_threads(job.threads)
        self.config, self.model, self.trainer = experiment.config, experiment.model, experiment.trainer
        self.batches = Batches(experiment.dataset, self.config.dataset)
        windows = self.trainer.training_batches(self.batches)
        self.windows, self.seed = FirstSteps(windows, job.max_batches), job.seed
        [self.stage] = self.trainer.stages(self.model)
        self.step = Step(self.stage, self.trainer.weights(self.config), 0.0, self.config.trainer, windows, job.epochs)
        self.n_epoch = windows.size("train")
        self.n_users = len(ranked_users(self.batches, "test", self.config.trainer.ranking.relevant))
        self.n_rows = self.windows.rows(self.n_epoch, job.settings["batch_size"])
        self.progress, self.clock = Progress(), clock_of(job)

    def epoch(self) -> float:
        progress, batch_size = self.progress, self.config.trainer.batch_size
        began = self.clock()
        with self.trainer.numerics():
            epoch(self.stage, self.trainer.step_function(self.step), self.windows, batch_size, self.seed, progress)
        seconds = self.clock() - began
        progress.end_epoch(None, 1, {})
        return seconds

    def rank(self) -> float:
        config = self.config.trainer
        with self.trainer.numerics():
            found = evaluate_ranking(
                self.model, self.batches, "test", config.ranking, config.eval_batch_size, best=True
            )
        return found.metrics.values[f"hr@{K}/all"]


if __name__ == "__main__":
    work(ranking_job(), prepare, Recexp, measure)
