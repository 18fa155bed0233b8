"""Shared by all tests: one thread, and a tiny dataset that comes through the same configuration as any run's."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from recexp.config import Config
    from recexp.dataset.batch import Batch, Batches
    from recexp.dataset.log import Dataset
    from recexp.dataset.search import Search
    from recexp.layer.embedding import FeatureEmbedding

TINY = ("dataset.n_users=50", "dataset.n_items=40", "dataset.n_events=1500", "dataset.cache_dir=null",
        "device=cpu", "trainer.threads=1", "trainer.batch_size=256", "trainer.learning_rate=1e-3")  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tests share the machine; those that do without torch need not import it."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
        if not torch.cuda.is_available():  # else it writes down the stack for devices that may come, 2 ms each time
            torch.manual_seed = torch.default_generator.manual_seed


@pytest.fixture(scope="session", autouse=True)
def draw() -> Iterator[Callable[[Path], None]]:
    """Runs get a blank picture; draw(run) draws that of a run directory."""
    import blank

    from recexp.run import picture
    from recexp.sweep import pool

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(picture, "draw", blank.draw)
        patch.setattr(pool, "main", blank.job)
        yield blank.draw_for_real


@pytest.fixture(autouse=True)
def plugins_go() -> Iterator[None]:
    """What a test's plugins register is gone after it, so tests may run in any order."""
    registry = sys.modules.get("recexp.registry")
    before = set(registry._registered) if registry else set()
    yield
    if registry := sys.modules.get("recexp.registry"):
        for key, cls in list(registry._registered.items()):
            if key not in before and cls.__module__.startswith("recexp_plugin_"):
                del registry._registered[key]
                sys.modules.pop(cls.__module__, None)


@pytest.fixture(scope="session")
def compose() -> "Callable[..., Config]":
    """compose("model=din", "seed=1"): the checked configuration of a tiny experiment, not to be changed."""
    import recexp

    return cache(lambda *overrides: recexp.load_config([*TINY, *overrides]))


@pytest.fixture(scope="session")
def dataset(compose: "Callable[..., Config]") -> "Dataset":
    """1500 synthetic events of 50 users and 40 items, with fields of every kind but binned."""
    from recexp.dataset.prepare import load

    return load(compose().dataset)


@pytest.fixture(scope="session")
def table(compose: "Callable[..., Config]") -> "Dataset":
    """300 rows of a label and three fields, without users, items and time."""
    import pandas as pd

    from recexp.dataset.config import DerivedConfig, FeatureKind, FeaturesConfig, SplitKind
    from recexp.dataset.prepare import prepare
    from recexp.dataset.raw import Raw

    random = np.random.default_rng(0)
    tags = ["|".join(f"t{tag}" for tag in row) for row in random.integers(5, size=(300, 2))]
    columns = {"site": random.integers(8, size=300), "tags": tags, "hour": random.random(300)}
    label = (random.random(300) < 0.4).astype(np.float32)
    kinds = {"site": FeatureKind.categorical, "tags": FeatureKind.multi, "hour": FeatureKind.numeric}
    config = compose().dataset
    derived = DerivedConfig(last_items=0, most_liked=[], time=[])
    config = replace(config, features=FeaturesConfig(user={}, item={}, context=kinds, derived=derived),
                     split=replace(config.split, kind=SplitKind.random))  # fmt: skip
    return prepare(Raw(origin="made up", label=label, context=pd.DataFrame(columns)), config)


@pytest.fixture(scope="session")
def search(dataset: "Dataset") -> "Search":
    """By category, so that batches hold all that any model reads."""
    from recexp.dataset.search import Search

    return Search(next(field for field in dataset.schema.item.fields if field.name == "category"), 10)


@pytest.fixture(scope="session")
def batches(compose: "Callable[..., Config]", dataset: "Dataset", search: "Search") -> "Batches":
    from recexp.dataset.batch import Batches

    return Batches(dataset, compose().dataset, search=search)


@pytest.fixture(scope="session")
def gather(batches: "Batches") -> "Callable[[Sequence[int] | Tensor], Batch]":
    """gather([0, 7]): the batch of some training rows, counted from 0 in the order of the log."""
    import torch

    from recexp.dataset.batch import Samples

    return lambda rows: batches.gather(Samples(batches.rows["train"][torch.as_tensor(rows)]), "train")


@pytest.fixture(scope="session")
def mixed_rows(batches: "Batches", gather: "Callable[..., Batch]") -> list[int]:
    """Training rows whose histories have lengths 0, 1, 2, some, and the most there may be, each twice."""
    length = gather(range(batches.size("train"))).mask.sum(1).numpy()
    wanted = (0, 1, 2, 7, batches.max_history)
    return [int(row) for n in wanted for row in np.flatnonzero(length == n)[[0, -1]]]


@pytest.fixture(scope="session")
def mixed(gather: "Callable[..., Batch]", mixed_rows: list[int]) -> "Batch":
    """One batch with histories of lengths 0, 1, 2, some, and the most there may be."""
    return gather(mixed_rows)


@pytest.fixture(scope="session")
def make(compose: "Callable[..., Config]", dataset: "Dataset") -> "Callable[..., nn.Module]":
    """make("din", normalise=Normalise.softmax): a new model of its YAML's options, those named here replaced.

    Losses that the YAML switches off are on, unless loss_weights are named.
    schema: of another dataset. seed: of the initial weights. Embeddings are drawn wide unless embedding_std is named:
    from near 0, hardly anything that a test changes would show in the logits.
    """
    import torch

    from recexp.model import create

    def make(name: str, schema: Any = None, seed: int = 0, **options: Any) -> "nn.Module":
        config = compose(f"model={name}").model
        wide = {"embedding_std": 0.3} if hasattr(config, "embedding_std") else {}
        weights = {name: weight or 1.0 for name, weight in config.loss_weights.items()}
        config = replace(config, **{"loss_weights": weights, **wide, **options})
        torch.manual_seed(seed)
        return create(config, schema or dataset.schema)

    return make


@pytest.fixture(scope="session")
def field_vectors() -> "Callable[[FeatureEmbedding, Batch, int], list[Tensor]]":
    """field_vectors(embed, batch, row): every field of one sample as a vector, looked up one by one."""
    return _field_vectors


def _field_vectors(embed: "FeatureEmbedding", batch: "Batch", row: int) -> "list[Tensor]":
    found: list[torch.Tensor] = []
    rows = {"user": (batch.catalogue.users, batch.user), "item": (batch.catalogue.items, batch.target)}
    for name, side in embed.sides.items():
        table = side.table.weight.detach()
        features, index = rows.get(name, (batch.context, None))
        at = row if index is None else int(index[row])
        for field in side.side.fields:
            if field.numeric:
                found.append(features.values[at, field.column] * side.direction[field.column].detach())
            else:
                ids = [int(i) for i in features.ids[at, field.column : field.column + field.width]]
                known = [table[i] for i in ids if i != 0]
                found.append(sum(known) / max(1, len(known)))
    return found


@pytest.fixture(scope="session")
def reverse() -> "Callable[[Batch], Batch]":
    """reverse(batch): every history from the newest event to the oldest, padding still on the right."""
    import torch

    def reverse(batch: "Batch") -> "Batch":
        place = torch.arange(batch.mask.shape[1])
        source = torch.where(batch.mask, batch.mask.sum(1, keepdim=True) - 1 - place, place)
        columns = ("history", "history_label", "history_age")
        return replace(batch, **{name: getattr(batch, name).gather(1, source) for name in columns})

    return reverse


@pytest.fixture
def write_run(tmp_path: Path) -> "Callable[..., Path]":
    """write_run("a", model="din", seed=1, auc=0.8, **{"trainer.learning_rate": 0.1}): a finished run in tmp_path/a.

    What is named with a dot goes to the configuration. state: of status.json; without figures unless finished.
    figures: further test metrics. valid: validation metrics other than the AUC given.
    """

    def write(
        name: str,
        *,
        model: str = "din",
        seed: int = 0,
        auc: float | None = 0.8,
        state: str = "finished",
        events: str = "events",
        fingerprint: str = "prepared",
        figures: dict[str, Any] | None = None,
        valid: dict[str, Any] | None = None,
        **options: Any,
    ) -> Path:
        path = tmp_path / name
        path.mkdir(parents=True)
        config = {
            "model": {"name": model, "embedding_dim": 16, "hidden_sizes": [64, 32]},
            "dataset": {"name": "synthetic", "path": None, "label": "explicit", "negatives": 1, "max_history": 20},
            "trainer": {"name": "default", "learning_rate": 0.001, "monitor": "auc"},
            "run": {"dir": str(path)},
            "seed": seed,
            "device": "auto",
        }
        for key, value in options.items():
            group, _, option = key.partition(".")
            config[group] = {**config.get(group, {}), option: value} if option else value
        (path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        (path / "overrides.yaml").write_text("[]\n")
        (path / "status.json").write_text(json.dumps({"state": state, "error": None, "pid": 1, "host": "elsewhere"}))
        data = {"fingerprint": fingerprint, "events": events}
        (path / "environment.json").write_text(json.dumps({"data": data}))
        if state == "finished":
            metrics = {"model": model, "dataset": "synthetic", "seed": seed, "status": state, "best_epoch": 2,
                       "epochs": 3, "parameters": 1000, "seconds": 1.5 + seed, "samples_per_second": 100.0,
                       "peak_memory_mb": 50.0, "train": {"target": 0.5}, "valid": {"auc": auc, **(valid or {})},
                       "test": {"auc": auc, **(figures or {})}}  # fmt: skip
            (path / "metrics.json").write_text(json.dumps(metrics))
        return path

    return write
