"""Torch-RecHub through its CTRTrainer and DataGenerator. Its DIEN always has its auxiliary loss, here of weight 0."""

from worker import Job, Rows, timed, work  # isort: skip  # starts the clock

import numpy as np
import torch
from torch import nn
from torch_rechub.basic.features import SequenceFeature, SparseFeature
from torch_rechub.models import ranking
from torch_rechub.trainers import CTRTrainer
from torch_rechub.utils.data import DataGenerator


def prepare(job: Job) -> dict[str, tuple[dict[str, np.ndarray], np.ndarray]]:
    return {part: (inputs(rows, job), rows.label) for part, rows in job.rows().items()}


def inputs(rows: Rows, job: Job) -> dict[str, np.ndarray]:
    columns = {name: column.astype(np.int64) for name, column in rows.columns.items()}
    if rows.history is not None:
        columns["history"] = rows.history.astype(np.int64)
    if job.model == "dien":
        sampled = np.random.default_rng(0).choice(columns["item"], rows.history.shape)
        columns["negatives"] = np.where(columns["history"] > 0, sampled, 0)
    return columns


def build_model(job: Job) -> nn.Module:
    settings, sizes = job.settings, job.vocabulary
    dim, mlp = settings["embedding_dim"], {"dims": settings["hidden_sizes"]}
    if job.model == "deepfm":
        fields = [SparseFeature(name, vocab_size=size, embed_dim=dim) for name, size in sizes.items()]
        return ranking.DeepFM(deep_features=fields, fm_features=fields, mlp_params=mlp)
    shared = {"vocab_size": sizes["item"], "embed_dim": dim, "padding_idx": 0}
    user = [SparseFeature("user", vocab_size=sizes["user"], embed_dim=dim)]
    item = [SparseFeature("item", **shared)]
    history = [SequenceFeature("history", pooling="concat", shared_with="item", **shared)]
    sides = {"features": user, "history_features": history, "target_features": item, "mlp_params": mlp}
    if job.model == "din":
        return ranking.DIN(**sides, attention_mlp_params={"dims": settings["attention_hidden_sizes"]})
    if job.model == "dien":
        negatives = [SequenceFeature("negatives", pooling="concat", shared_with="item", **shared)]
        return ranking.DIEN(**sides, neg_history_features=negatives, alpha=0.0)
    model = ranking.BST(**sides, nhead=settings["n_heads"], dropout=0.0, max_seq_len=settings["max_history"] + 1)
    # Its feed-forward size is fixed at torch's default, 2,048; this is the same encoder with the common size.
    layer = nn.TransformerEncoderLayer(
        dim, settings["n_heads"], settings["feedforward_size"], dropout=0.0, activation=nn.LeakyReLU(), batch_first=True
    )
    model.transformer_layers = nn.TransformerEncoder(layer, num_layers=1)
    return model


class TorchRecHub:
    def __init__(self, job: Job, parts: dict[str, tuple[dict[str, np.ndarray], np.ndarray]]) -> None:
        torch.set_num_threads(job.threads)
        torch.manual_seed(job.seed)
        self.model = build_model(job)
        self.n_rows, self.n_test = len(parts["train"][1]), len(parts["test"][1])
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())
        (valid_x, valid_y), (test_x, test_y) = parts["valid"], parts["test"]
        loaders = DataGenerator(*parts["train"]).generate_dataloader(
            x_val=valid_x, y_val=valid_y, x_test=test_x, y_test=test_y, batch_size=job.settings["batch_size"]
        )
        self.loaders = dict(zip(("train", "valid", "test"), loaders, strict=True))
        self.trainer = CTRTrainer(
            self.model,
            optimizer_params={"lr": job.settings["learning_rate"]},
            device="cpu",
            loss_mode=job.model != "dien",  # whether the model returns no loss of its own
        )

    def epoch(self) -> float:
        return timed(lambda: self.trainer.train_one_epoch(self.loaders["train"]))

    def auc(self, part: str) -> float:
        return self.trainer.evaluate(self.model, self.loaders[part])


if __name__ == "__main__":
    work(Job(), prepare, TorchRecHub)
