"""DeepCTR-Torch through compile, fit and predict. It has no BST."""

import time

from worker import Job, Rows, work  # isort: skip  # starts the clock

import numpy as np
import torch
from deepctr_torch.callbacks import Callback
from deepctr_torch.inputs import SparseFeat, VarLenSparseFeat
from deepctr_torch.models import DCN, DIEN, DIN, NFM, ONN, PNN, AutoInt, DeepFM, FiBiNET, xDeepFM
from sklearn.metrics import roc_auc_score

FIELDS = {
    "deepfm": DeepFM, "dcnv2": DCN, "nfm": NFM, "pnn": PNN, "onn": ONN, "xdeepfm": xDeepFM, "autoint": AutoInt,
    "fibinet": FiBiNET,
}  # fmt: skip


def prepare(job: Job) -> dict[str, tuple[dict[str, np.ndarray], np.ndarray]]:
    return {part: (inputs(rows), rows.label) for part, rows in job.rows().items()}


def inputs(rows: Rows) -> dict[str, np.ndarray]:
    if rows.history is None or rows.length is None:
        return dict(rows.columns)
    return rows.columns | {"hist_item": rows.history, "length": rows.length}


def build_model(job: Job) -> torch.nn.Module:
    settings, dim = job.settings, job.settings["embedding_dim"]
    fields = [SparseFeat(name, size, embedding_dim=dim) for name, size in job.vocabulary.items()]
    common = {
        "dnn_hidden_units": settings["hidden_sizes"], "l2_reg_embedding": 0, "seed": job.seed, "device": "cpu",
    }  # fmt: skip
    if job.model in FIELDS:
        return over_fields(job.model, settings, fields, common)
    item = SparseFeat("hist_item", job.vocabulary["item"], embedding_dim=dim, embedding_name="item")
    fields.append(VarLenSparseFeat(item, maxlen=settings["max_history"], length_name="length"))
    if job.model == "din":
        return DIN(fields, ["item"], att_hidden_size=settings["attention_hidden_sizes"], **common)
    return DIEN(fields, ["item"], gru_type="AUGRU", use_negsampling=False, att_hidden_units=(64, 32), **common)


def over_fields(model: str, settings: dict, fields: list[SparseFeat], common: dict) -> torch.nn.Module:
    """A model over fields without L2."""
    own = {
        "dcnv2": {"cross_num": settings.get("n_layers"), "cross_parameterization": "matrix", "l2_reg_cross": 0},
        "pnn": {"use_inner": True},
        "xdeepfm": {"cin_layer_size": settings.get("cin_sizes"), "cin_split_half": False, "l2_reg_cin": 0},
        "autoint": {"att_layer_num": settings.get("n_layers"), "att_head_num": settings.get("n_heads")},
        "fibinet": {"bilinear_type": "all", "reduction_ratio": settings.get("reduction")},
    }.get(model, {})
    if model == "pnn":
        return PNN(fields, **own, **common)
    linear = {} if model == "autoint" else {"l2_reg_linear": 0}
    return FIELDS[model](fields, fields, **linear, **own, **common)


class Stopwatch(Callback):
    """Seconds from an epoch's first batch to its last, without the time in which fit joins arrays beforehand."""

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.began = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.seconds = time.perf_counter() - self.began


class DeepCTRTorch:
    def __init__(self, job: Job, parts: dict[str, tuple[dict[str, np.ndarray], np.ndarray]]) -> None:
        torch.set_num_threads(job.threads)
        self.settings, self.parts = job.settings, parts
        self.verbose = 0 if job.flags["no_metrics"] else 2  # 2, as in its examples, computes metrics on every batch
        self.model = build_model(job)
        adam = torch.optim.Adam(self.model.parameters(), job.settings["learning_rate"])
        self.model.compile(adam, "binary_crossentropy", metrics=["binary_crossentropy", "auc"])
        self.n_rows, self.n_test = len(parts["train"][1]), len(parts["test"][1])
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())

    def epoch(self) -> float:
        stopwatch = Stopwatch()
        x, y = self.parts["train"]
        batch_size = self.settings["batch_size"]
        self.model.fit(x, y, batch_size=batch_size, epochs=1, verbose=self.verbose, callbacks=[stopwatch])
        return stopwatch.seconds

    def auc(self, part: str) -> float:
        x, y = self.parts[part]
        return roc_auc_score(y, self.model.predict(x, self.settings["eval_batch_size"]))


if __name__ == "__main__":
    work(Job(no_metrics="compute no metrics on training batches"), prepare, DeepCTRTorch)
