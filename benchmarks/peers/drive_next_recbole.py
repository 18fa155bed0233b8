"""RecBole's sequential models through the calls of drive_recbole.py. A training sample is a prefix of a user's items.

It orders and splits the events itself, from a file that this writes, and ranks items that the user has seen.
"""

from worker import Job, work  # isort: skip  # starts the clock

import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
from drive_recbole import RecBole, loaders_of
from ranker import K, clock_of, measure, ranking_job, read_log
from recbole.config import Config

NAMES = {"sasrec": "SASRec", "gru4rec": "GRU4Rec"}
EVENTS = {"user_id": "token", "item_id": "token", "timestamp": "float"}


def configure(job: Job, folder: str) -> Config:
    settings, dim = job.settings, job.settings["embedding_dim"]
    assert settings["loss"] == "full", "RecBole has no sampled softmax"
    of_model: dict[str, Any] = {
        "sasrec": {
            "n_layers": 1, "n_heads": settings["n_heads"], "inner_size": settings["hidden_size"], "hidden_act": "relu",
            "hidden_dropout_prob": settings["dropout"], "attn_dropout_prob": settings["dropout"],
        },
        "gru4rec": {"num_layers": 1, "embedding_size": dim, "dropout_prob": settings["dropout"]},
    }  # fmt: skip
    given = of_model[settings["model"]] | {
        "data_path": folder, "checkpoint_dir": ".", "seed": job.seed, "load_col": {"inter": [*EVENTS]},
        "USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id", "TIME_FIELD": "timestamp",
        "MAX_ITEM_LIST_LENGTH": settings["max_history"], "hidden_size": dim, "loss_type": "CE",
        "train_neg_sample_args": None, "epochs": job.epochs, "train_batch_size": settings["batch_size"],
        "learning_rate": settings["learning_rate"], "eval_batch_size": settings["eval_batch_size"],
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"},
        "metrics": ["Hit", "NDCG"], "topk": [K], "valid_metric": f"NDCG@{K}",
        "use_gpu": False, "gpu_id": "", "show_progress": False, "state": "ERROR", "worker": 0, "log_wandb": False,
    }  # fmt: skip
    sys.argv = sys.argv[:1]  # RecBole would read the command line too
    return Config(model=NAMES[settings["model"]], dataset="events", config_dict=given)


def prepare(job: Job) -> tuple[Config, dict[str, Any]]:
    rows = [(user, item, time) for user, items in enumerate(read_log(job), 1) for time, item in enumerate(items)]
    events = pd.DataFrame(rows, columns=[f"{name}:{kind}" for name, kind in EVENTS.items()])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events" / "events.inter"
        path.parent.mkdir()
        events.to_csv(path, sep="\t", index=False)
        return loaders_of(configure(job, folder))


class NextItem(RecBole):
    def __init__(self, job: Job, prepared: tuple[Config, dict[str, Any]]) -> None:
        super().__init__(job, prepared)
        self.n_epoch, self.n_users = len(self.loaders["train"]._dataset), self.n_test
        self.clock = clock_of(job)

    def epoch(self) -> float:
        began = self.clock()
        super().epoch()
        return self.clock() - began

    def rank(self) -> float:
        return self.trainer.evaluate(self.loaders["test"], load_best_model=False)[f"hit@{K}"]


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    work(ranking_job(), prepare, NextItem, measure)
