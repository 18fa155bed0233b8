"""No option is accepted and not read: another value of any key changes what a run gives, or is refused."""

import csv
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import recexp
from recexp.config import Config
from recexp.dataset.batch import Batches
from recexp.dataset.config import Duplicates, FeatureKind, TimePart
from recexp.dataset.log import Dataset
from recexp.dataset.prepare import load
from recexp.error import UserError
from recexp.model import create, search_of
from recexp.registry import get, names
from recexp.storage import digest
from recexp.trainer.recorder import NullRecorder

pytestmark = pytest.mark.slow

SHORT = ("device=cpu", "trainer.threads=1", "trainer.batch_size=256", "trainer.epochs=1", "dataset.cache_dir=null")
SMALL = ("dataset.n_users=50", "dataset.n_items=40", "dataset.n_events=600")
# What an option waits for, where it is not read otherwise.
MODELS: dict[str, dict[str, str]] = {
    "als": {"alpha": "model.feedback=implicit"},
    "als_mlp": {"alpha": "model.feedback=implicit"},
    "autoint": dict.fromkeys(["activation", "batch_norm", "dropout"], "model.hidden_sizes=[8]"),
    "bert4rec": dict.fromkeys(["mask_rate", "last_rate"], "trainer=next_item dataset.label=implicit"),
    "dcnv2": dict.fromkeys(["rank", "n_experts"], "model.cross=mixture"),
    "dien": dict.fromkeys(["auxiliary", "auxiliary_hidden_sizes"], "model.loss_weights.auxiliary=0.5"),
    **{key: {"attention_hidden_sizes": "model.encoder=interest"} for key in ["esmm", "mmoe", "ple", "shared_bottom"]},
    "sim": {
        **dict.fromkeys(["long_length", "search_size"], "model.search=soft model.loss_weights.auxiliary=1"),
        "auxiliary_hidden_sizes": "model.loss_weights.auxiliary=1",
    },
    "rnn_als": {"alpha": "model.feedback=implicit"},
    "transformer4rec": {"memory": "model.auxiliary=next", "n_sampled": "model.auxiliary=sampled"},
    "wide_deep": {"n_buckets": "model.wide=poly2"},
}
LONG = "trainer.learning_rate=0.3 trainer.epochs=6 trainer.patience=4"  # long enough to get worse
TRAINER = {
    "optimizer": "trainer.weight_decay=0.1",
    **dict.fromkeys(["ftrl.learning_rate", "ftrl.beta", "ftrl.l1", "ftrl.l2"], "trainer.optimizer=ftrl"),
    **dict.fromkeys(["schedule", "patience", "monitor"], LONG),
    **dict.fromkeys(["plateau.patience", "plateau.factor"], f"trainer.schedule=plateau {LONG}"),
}
RANKS = "dataset.label=implicit model.history_labels=false trainer.ranking.candidates=all"
RANKED = {
    **{f"ranking.{name}": RANKS for name in ("candidates", "cutoffs", "relevant", "exclude_seen")},
    "ranking.valid_users": f"{RANKS} trainer.monitor=ndcg@10/all",
}
NEXT_ITEM = TRAINER | {
    "calibration": "trainer.loss=gbce",
    "score_l2": "trainer.loss=bpr_max",
    "negatives.logq": "trainer.negatives.popular=0.5",  # uniform draws leave nothing to correct
}
READ_AS = {"n_bins": "binned", "n_buckets": "hash", "n_quotients": "hash"}  # options that one kind of feature reads
DATASET = {
    "negatives": "dataset.label=implicit model.history_labels=false",
    **{name: f"dataset.features.user={{age:{kind}}}" for name, kind in READ_AS.items()},
}
# Values to try where others of the type would be refused.
OTHER: dict[str, Any] = {
    "gate_fields": ["device"],
    "second_gate_fields": ["device"],
    "wide_fields": ["device"],
    "deep_fields": ["device"],
    "fm_epochs": 1,
    "graph_sizes": [8, 8],
    "n_neighbours": [2, 2],
    "ranking.candidates": 5,
    "split.ratios": [0.6, 0.2, 0.2],
    "features.derived.most_liked": ["category"],
    "features.derived.time": [TimePart.hour],
    "label_threshold": 2.0,
    "monitor": "logloss",
    "ranking.cutoffs": [3, 10],
    "ranking.valid_users": 5,
    "checkpoint_every": 2,
    "clip_norm": 0.01,
    "last_rate": 0.9,
    "duplicates": Duplicates.last,
    "k_core": 25,
    "min_count": 110,
    "n_buckets": 3,
    "missing": ["3"],
    "header": ["user", "item", "shop", "label", "timestamp", "tags"],
}
# Shown elsewhere: where files are kept, what a run writes beside its numbers, what is read on a GPU alone.
ELSEWHERE = ("name", "reader", "cache_dir", "predictions", "cuda_graph")


@pytest.mark.parametrize("model", names("model"))
def test_each_option_of_a_model_is_read(model, tmp_path, effects):
    assert not ignored("model", [*SMALL, f"model={model}"], MODELS.get(model, {}), effects)


@pytest.fixture
def effects(tmp_path, monkeypatch) -> Callable[[Config], str]:
    """What training with a configuration gives, as a digest: weights, test scores, and what it did on the way."""
    events: list[Any] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: events.append("written"))

    class Observer(NullRecorder):
        def epoch(self, line: dict[str, Any]) -> None:
            events.append((torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()))

    def effects(config: Config) -> str:
        events.clear()
        dataset = prepared(config)
        torch.manual_seed(config.seed)
        model, options = create(config.model, dataset.schema), config.model
        model.register_forward_hook(lambda *_: events.append("forward"))
        batches = Batches(dataset, config.dataset, search=search_of(model))
        trainer = get("trainer", config.trainer.name, "trainer.name")(config.trainer, torch.device("cpu"), config.seed)
        trained = trainer.fit(
            model, batches, trainer.weights(options), options.embedding_l2,
            Observer(Path(tempfile.mkdtemp(dir=tmp_path))), options.optimizers,
        )  # fmt: skip
        tensors = [value.numpy().tobytes() for value in model.state_dict().values()]
        events.append((trained.progress.best, trained.progress.learning_rate_scale, trained.test))
        scores = b"" if trained.test_scores is None else trained.test_scores.logits.tobytes()  # None of a ranking
        return digest(b"".join([*tensors, scores, repr(events).encode()]))

    return effects


_prepared: dict[str, Dataset] = {}


def prepared(config: Config) -> Dataset:
    """The data, once for all models."""
    key = repr(config.dataset)
    if key not in _prepared:
        _prepared[key] = load(config.dataset)
    return _prepared[key]


def ignored(group: str, typed: list[str], awaited: dict[str, str], effects: Callable[[Config], str]) -> list[str]:
    """The options of a group, each with a value that changes nothing."""
    found = []
    plain = recexp.load_config([*SHORT, *typed])
    before = {"": effects(plain)}
    for key, _ in leaves(getattr(plain, group)):
        if key in ELSEWHERE:
            continue
        beside = awaited.get(key, "")
        config = recexp.load_config([*SHORT, *typed, *beside.split()]) if beside else plain
        if beside not in before:
            before[beside] = effects(config)
        for value in other_values(key, value_at(getattr(config, group), key)):
            if not changes(config, group, key, value, before[beside], effects):
                found.append(f"{group}.{key}={value} {beside}")
    return found


def changes(config: Config, group: str, key: str, value: Any, before: str, effects: Callable[[Config], str]) -> bool:
    try:
        return effects(replace(config, **{group: changed(getattr(config, group), key, value)})) != before
    except UserError:
        return True


def leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(key, value) of every option; those that a mapping holds are options of their own."""
    options = config if isinstance(config, dict) else {item.name: getattr(config, item.name) for item in fields(config)}
    for name, value in options.items():
        if is_dataclass(value) or (value and isinstance(value, dict)):
            yield from leaves(value, f"{prefix}{name}.")
        elif not isinstance(value, dict):
            yield f"{prefix}{name}", value


def value_at(config: Any, key: str) -> Any:
    return dict(leaves(config))[key]


def other_values(key: str, value: Any) -> list[Any]:
    """Values that differ from this one; all of an enum's."""
    if key in OTHER and not (isinstance(value, int) and isinstance(OTHER[key], list)):  # a name's numbers or number
        return [OTHER[key]]
    if isinstance(value, FeatureKind):  # a value can be the same as one of several, or as a bin
        return [FeatureKind.binned if value is FeatureKind.numeric else FeatureKind.numeric]
    if isinstance(value, Enum):
        return [member for member in type(value) if member is not value]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [1 if value > 1 else 2]
    if isinstance(value, float):
        return [value / 2 if value else 0.5]
    if isinstance(value, list):
        return [[8] * max(1, len(value) - 1)]
    return [f"{value or ''}x"]


def changed(config: Any, key: str, value: Any) -> Any:
    """The same options but for one."""
    name, _, rest = key.partition(".")
    if isinstance(config, dict):
        return config | {name: changed(config[name], rest, value) if rest else value}
    return replace(config, **{name: changed(getattr(config, name), rest, value) if rest else value})


def test_each_option_of_the_trainer_is_read(effects):
    typed = [*SMALL, "model=din", "trainer.epochs=2", "trainer.eval_batch_size=1000"]
    assert not ignored("trainer", typed, TRAINER | RANKED, effects)


def test_each_option_of_the_trainer_of_next_items_is_read(effects, monkeypatch):
    monkeypatch.setitem(OTHER, "monitor", "hr@5/all")
    monkeypatch.setitem(OTHER, "ranking.candidates", "none")  # a sample has metrics of other names than the monitor's
    typed = [*SMALL, "model=sasrec", "trainer=next_item", "dataset.label=implicit", "trainer.epochs=2"]
    typed += ["trainer.batch_size=16", "model.embedding_l2=0.1"]
    unread = ignored("trainer", typed, NEXT_ITEM, effects)
    assert unread == ["trainer.eval_batch_size=1 "]  # of predictions, by a run that has been trained


def test_each_option_of_synthetic_data_is_read(effects):
    assert not ignored("dataset", [*SMALL, "model=din"], DATASET, effects)


def test_each_option_of_a_file_is_read(effects, tmp_path):
    random = np.random.default_rng(0)
    frame = pd.DataFrame(random.integers(12, size=(300, 3)), columns=["user", "item", "shop"])
    frame["label"], frame["timestamp"] = frame["item"] % 2, np.arange(300)
    frame["tags"] = [f'"{first}|a;{second}"' for first, second in random.integers(3, size=(300, 2))]
    frame.loc[::2, "tags"] = frame["tags"].str.strip('"')
    frame.to_csv(tmp_path / "log.csv", index=False, quoting=csv.QUOTE_NONE)
    typed = ["model=din", "dataset=csv", f"dataset.path={tmp_path / 'log.csv'}", "dataset.features.item={}"]
    typed += ["dataset.features.context={tags:multi,shop:numeric}"]
    shop = {name: f"dataset.features.context={{shop:{kind}}}" for name, kind in READ_AS.items()}
    assert not ignored("dataset", typed, DATASET | shop, effects)
