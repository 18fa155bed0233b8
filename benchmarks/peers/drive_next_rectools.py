"""RecTools' SASRecModel through fit_partial, recommend and calc_metrics. Lightning's own option limits the batches."""

from worker import Job, work  # isort: skip  # starts the clock

import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from ranker import K, clock_of, measure, ranking_job, read_log
from rectools import Columns
from rectools.dataset import Dataset
from rectools.metrics import NDCG, HitRate, calc_metrics
from rectools.models import SASRecModel

LOSSES = {"sampled": "sampled_softmax", "full": "softmax"}
COPIES = 5  # of the logits of a batch, padding included, that its softmax holds at once


def prepare(job: Job) -> dict[str, pd.DataFrame]:
    """The interactions for training, for ranking (all that is known before test), and of test."""
    log = read_log(job)
    length = np.array([len(items) for items in log])
    place = np.concatenate([np.arange(n) for n in length])
    events = pd.DataFrame({
        Columns.User: np.repeat(np.arange(1, len(log) + 1), length), Columns.Item: np.concatenate(log),
        Columns.Weight: 1.0, Columns.Datetime: pd.Timestamp(0) + pd.to_timedelta(place, unit="s"),
    })  # fmt: skip
    left = np.repeat(length, length) - place  # events from this one to the user's last
    return {"train": events[left > 2], "known": events[left > 1], "test": events[left == 1]}


class Stopwatch(Callback):
    """Seconds of an epoch's batches."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.began = self.clock()

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.seconds = self.clock() - self.began


class RecTools:
    def __init__(self, job: Job, events: dict[str, pd.DataFrame]) -> None:
        torch.set_num_threads(job.threads)
        seed_everything(job.seed)
        settings, self.events = job.settings, events
        require_memory(settings)
        self.data = Dataset.construct(events["train"])
        self.model = SASRecModel(
            n_blocks=1, n_heads=settings["n_heads"], n_factors=settings["embedding_dim"],
            dropout_rate=settings["dropout"], session_max_len=settings["max_history"], loss=LOSSES[settings["loss"]],
            n_negatives=settings["n_negatives"], lr=settings["learning_rate"], batch_size=settings["batch_size"],
            recommend_batch_size=settings["eval_batch_size"], recommend_torch_device="cpu",
            get_trainer_func=lambda: Trainer(
                accelerator="cpu", devices=1, max_epochs=job.epochs, limit_train_batches=job.max_batches or 1.0,
                callbacks=[Stopwatch(clock_of(job))], enable_progress_bar=False, enable_model_summary=False,
                enable_checkpointing=False, logger=False,
            ),
        )  # fmt: skip
        self.n_epoch = int((events["train"].groupby(Columns.User).size() > 1).sum())
        self.n_users = len(events["test"])
        self.n_rows = min(self.n_epoch, job.max_batches * settings["batch_size"] or self.n_epoch)

    def epoch(self) -> float:
        self.model.fit_partial(self.data, min_epochs=1, max_epochs=1)
        [stopwatch] = [one for one in self.model.fit_trainer.callbacks if isinstance(one, Stopwatch)]
        return stopwatch.seconds

    def rank(self) -> float:
        test, known = self.events["test"], Dataset.construct(self.events["known"])
        found = self.model.recommend(test[Columns.User].unique(), known, k=K, filter_viewed=True)
        metrics = {"hr": HitRate(K), "ndcg": NDCG(K)}
        return calc_metrics(metrics, found, test)["hr"]


def require_memory(settings: dict[str, Any]) -> None:
    """Exits if the softmax over all items would take more than half of the machine's memory."""
    needed = COPIES * 4 * settings["batch_size"] * settings["max_history"] * settings["n_items"]
    if settings["loss"] == "full" and needed > os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2:
        sys.exit(f"RecTools' softmax would hold {needed / 2**30:.0f} GB of logits")


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    work(ranking_job(), prepare, RecTools, measure)
