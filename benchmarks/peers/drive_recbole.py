"""RecBole through its Config, data preparation and Trainer. It has no BST.

It trains on the common rows with their histories, given as `benchmark_filename`. With --prepare-only it reads, orders,
augments and splits the events itself; events with the same timestamp are then in each other's histories.
"""

import logging
import sys
import tempfile
from typing import Any

from worker import Job, Limited, timed, work  # isort: skip  # starts the clock

import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

NAMES = {
    "deepfm": "DeepFM", "din": "DIN", "dien": "DIEN", "dcnv2": "DCNV2", "ffm": "FFM", "nfm": "NFM", "pnn": "PNN",
    "xdeepfm": "xDeepFM", "autoint": "AutoInt",
}  # fmt: skip
HISTORIES = ["item_id_list", "neg_item_id_list"]
SPLIT = {"split": {"RS": [0.8, 0.1, 0.1]}, "mode": "labeled"}


def configure(job: Job) -> Config:
    settings = job.settings
    given: dict[str, Any] = {
        "data_path": str(job.folder / "recbole"), "checkpoint_dir": tempfile.mkdtemp(), "seed": job.seed,
        "USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id", "LABEL_FIELD": "label", "TIME_FIELD": "timestamp",
        "epochs": job.epochs, "train_batch_size": settings["batch_size"], "learning_rate": settings["learning_rate"],
        "eval_batch_size": settings["eval_batch_size"], "train_neg_sample_args": None, "metrics": ["AUC"],
        "valid_metric": "AUC", "use_gpu": False, "gpu_id": "", "show_progress": False, "state": "ERROR", "worker": 0,
        "embedding_size": settings["embedding_dim"], "mlp_hidden_size": settings.get("hidden_sizes"),
        "dropout_prob": 0.0, "MAX_ITEM_LIST_LENGTH": settings["max_history"], "alpha": 0.0, "gru_type": "AUGRU",
        "log_wandb": False,
    }  # fmt: skip
    given |= over_fields(job)
    columns = [{"user": "user_id", "item": "item_id"}.get(name, name) for name in job.vocabulary] + ["label"]
    if job.kind == "sequence":
        given["eval_args"] = SPLIT | {"order": "TO", "group_by": "user"}
        columns += ["timestamp"] if job.prepare_only else HISTORIES
    else:
        given["eval_args"] = SPLIT | {"order": "RO", "group_by": None}
    if not job.prepare_only:
        given["benchmark_filename"] = ["train", "valid", "test"]
        if job.kind == "sequence":
            given["alias_of_item_id"] = HISTORIES
    given["load_col"] = {"inter": columns}
    sys.argv = sys.argv[:1]  # RecBole would read the command line too
    return Config(model=NAMES[job.model], dataset=job.kind, config_dict=given)


def over_fields(job: Job) -> dict[str, Any]:
    """What models over fields have beside an MLP, without L2."""
    settings = job.settings
    match job.model:
        case "dcnv2":
            return {"structure": "parallel", "cross_layer_num": settings["n_layers"], "reg_weight": 0}
        case "xdeepfm":
            return {"direct": True, "cin_layer_size": settings["cin_sizes"], "reg_weight": 0}
        case "autoint":
            sizes = {"n_layers": settings["n_layers"], "num_heads": settings["n_heads"]}
            return sizes | {"attention_size": settings["attention_size"], "dropout_probs": [0.0, 0.0, 0.0]}
        case "ffm":
            names = ("user_id", "item_id", *(name for name in job.vocabulary if name not in ("user", "item")))
            return {"fields": {number: [name] for number, name in enumerate(names)}}
    return {}


def prepare(job: Job) -> tuple[Config, dict[str, Any]]:
    return loaders_of(configure(job))


def loaders_of(config: Config) -> tuple[Config, dict[str, Any]]:
    """The loaders of the splits."""
    init_seed(config["seed"], True)
    loaders = data_preparation(config, create_dataset(config))
    return config, dict(zip(("train", "valid", "test"), loaders, strict=True))


class RecBole:
    def __init__(self, job: Job, prepared: tuple[Config, dict[str, Any]]) -> None:
        config, loaders = prepared
        torch.set_num_threads(job.threads)
        init_seed(config["seed"], True)
        train = Limited(loaders["train"], job.max_batches)
        self.loaders = loaders | {"train": train}
        self.n_rows = train.rows(len(train._dataset), job.settings["batch_size"])
        self.n_test = len(loaders["test"]._dataset)
        model = get_model(config["model"])(config, train._dataset).to(config["device"])
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        self.trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
        self.trainer.eval_collector.data_collect(train)
        self.n_epochs = 0

    def epoch(self) -> float:
        self.n_epochs += 1
        return timed(lambda: self.trainer._train_epoch(self.loaders["train"], self.n_epochs - 1))

    def auc(self, part: str) -> float:
        return self.trainer.evaluate(self.loaders[part], load_best_model=False)["auc"]


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    work(Job(), prepare, RecBole)
