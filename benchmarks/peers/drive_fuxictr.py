"""FuxiCTR through its FeatureProcessor, RankDataLoader and train_epoch, with models from its repository's model_zoo.

Preparation reads CSV files that are already split and contain the histories, builds the vocabularies and writes
Parquet. Batches are loaded without worker processes, which is fastest on few cores.
"""

import importlib
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

from worker import Job, Limited, timed, work  # isort: skip  # starts the clock

SOURCE = Path(__file__).resolve().parent / ".env" / "FuxiCTR"
sys.path.insert(0, str(SOURCE))  # the wheel lacks model_zoo

import torch  # noqa: E402
from fuxictr.features import FeatureMap  # noqa: E402
from fuxictr.preprocess import FeatureProcessor, build_dataset  # noqa: E402
from fuxictr.pytorch.dataloaders import RankDataLoader  # noqa: E402
from fuxictr.pytorch.torch_utils import seed_everything  # noqa: E402

ZOO = {
    "deepfm": ("DeepFM", "DeepFM.DeepFM_torch"),
    "din": ("DIN", "DIN"),
    "dien": ("DIEN", "DIEN"),
    "bst": ("BST", "BST"),
    "dcnv2": ("DCNv2", "DCNv2"),
    "ffm": ("FFM", "FFM"),
    "nfm": ("NFM", "NFM"),
    "pnn": ("PNN", "PNN"),
    "onn": ("ONN", "ONN.ONN_torch"),
    "xdeepfm": ("xDeepFM", "xDeepFM"),
    "autoint": ("AutoInt", "AutoInt"),
    "fibinet": ("FiBiNET", "FiBiNET"),
    "finalmlp": ("FinalMLP", "FinalMLP"),
}
FIELDS = {"target_field": "item", "sequence_field": "history"}
OWN = {
    "deepfm": {},
    "din": {f"din_{name}": field for name, field in FIELDS.items()}
    | {"attention_hidden_activations": "Dice", "attention_output_activation": None, "din_use_softmax": False},
    "dien": {f"dien_{name}": field for name, field in FIELDS.items()}
    | {"gru_type": "AUGRU", "dien_neg_seq_field": [], "aux_loss_alpha": 0, "attention_type": "bilinear_attention"},
    "bst": {f"bst_{name}": field for name, field in FIELDS.items()} | {"seq_pooling_type": "mean"},
}
# Sizes of models over fields: FuxiCTR's name and ours.
SIZES = {
    "dcnv2": {"num_cross_layers": "n_layers", "parallel_dnn_hidden_units": "hidden_sizes"},
    "xdeepfm": {"cin_hidden_units": "cin_sizes"},
    "autoint": {"attention_layers": "n_layers", "attention_dim": "attention_size"},
    "fibinet": {"reduction_ratio": "reduction"},
    "finalmlp": {
        "mlp1_hidden_units": "hidden_sizes", "mlp2_hidden_units": "second_hidden_sizes",
        "fs_hidden_units": "gate_hidden_sizes",
    },
}  # fmt: skip
CLIP = 10.0  # train_epoch always clips the gradient; this is its default


def parameters_of(job: Job, folder: str) -> dict[str, Any]:
    settings, own = job.settings, dict(OWN.get(job.model, {}))
    own |= {theirs: settings[name] for theirs, name in SIZES.get(job.model, {}).items()}
    if job.model == "fibinet":
        own["bilinear_type"] = "field_all"
    if job.model == "finalmlp":
        own |= dict(zip(("fs1_context", "fs2_context"), settings["gates"], strict=True))
    fields = [{"name": list(job.vocabulary), "active": True, "dtype": "str", "type": "categorical"}]
    if job.kind == "sequence":
        fields.append({
            "name": "history", "active": True, "dtype": "str", "type": "sequence", "splitter": "^", "padding": "post",
            "max_len": settings["max_history"], "share_embedding": "item", "feature_encoder": None,
        })  # fmt: skip
    return own | {
        "model_id": job.model, "dataset_id": job.kind, "data_root": folder, "model_root": folder, "gpu": -1,
        "data_format": "csv", "feature_cols": fields, "label_col": {"name": "label", "dtype": "float"},
        "min_categr_count": 1, "num_workers": 0, "verbose": 0, "shuffle": True, "seed": job.seed,
        "batch_size": settings["batch_size"], "learning_rate": settings["learning_rate"], "optimizer": "adam",
        "embedding_dim": settings["embedding_dim"], "hidden_units": settings.get("hidden_sizes"),
        "dnn_hidden_units": settings.get("hidden_sizes"), "hidden_activations": "relu", "dnn_activations": "relu",
        "attention_hidden_units": settings.get("attention_hidden_sizes"), "num_heads": settings.get("n_heads"),
        "batch_norm": False, "net_dropout": 0, "embedding_regularizer": 0, "net_regularizer": 0,
        "task": "binary_classification", "loss": "binary_crossentropy", "metrics": ["AUC"], "monitor": "AUC",
        **{f"{part}_data": str(job.folder / "fuxictr" / f"{part}.csv") for part in ("train", "valid", "test")},
    }  # fmt: skip


def prepare(job: Job) -> tuple[dict[str, Any], FeatureMap]:
    params = parameters_of(job, tempfile.mkdtemp())
    if job.model == "ffm":  # it has one regulariser for all, by another name
        del params["embedding_regularizer"], params["net_regularizer"]
    paths = build_dataset(FeatureProcessor(**params), **params)
    params |= dict(zip(("train_data", "valid_data", "test_data"), paths, strict=True))
    folder = Path(params["data_root"]) / job.kind
    features = FeatureMap(job.kind, str(folder))
    features.load(str(folder / "feature_map.json"), params)
    if job.kind == "criteo":  # tables of the size asked for, not of the values that the rows hold
        for name, size in job.vocabulary.items():
            features.features[name]["vocab_size"] = size
    return params, features


class FuxiCTR:
    def __init__(self, job: Job, prepared: tuple[dict[str, Any], FeatureMap]) -> None:
        params, features = prepared
        torch.set_num_threads(job.threads)
        seed_everything(job.seed)
        train, valid = RankDataLoader(features, stage="train", **params).make_iterator()
        test = RankDataLoader(features, stage="test", **params).make_iterator()
        self.loaders = {"train": Limited(train, job.max_batches), "valid": valid, "test": test}
        self.n_rows = self.loaders["train"].rows(train.num_samples, params["batch_size"])
        self.n_test = test.num_samples
        name, place = ZOO[job.model]
        self.model = getattr(importlib.import_module(f"model_zoo.{place}.src"), name)(features, **params)
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())
        # What fit sets before it calls train_epoch; evaluation within an epoch never happens.
        self.model._max_gradient_norm, self.model._total_steps, self.model._eval_steps = CLIP, 0, sys.maxsize
        self.model._stop_training, self.model._epoch_index, self.model.valid_gen = False, 0, valid

    def epoch(self) -> float:
        return timed(lambda: self.model.train_epoch(self.loaders["train"]))

    def auc(self, part: str) -> float:
        return self.model.evaluate(self.loaders[part])["AUC"]


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    work(Job(), prepare, FuxiCTR)
