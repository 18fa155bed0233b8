"""Writes the other libraries' inputs from recexp's prepared log: rows, labels, splits, histories, ids and sizes.

FOLDER/MODEL.json              settings of conf/experiment/peers/MODEL.yaml: sizes, batch size, learning rate
FOLDER/fields/                 for deepfm and the other models over fields: eight single-valued fields, a random split
FOLDER/sequence/               for din, dien, bst: user, target and history; valid and test hold each user's last events
    rows.npz                   arrays by split and column, as in worker.Rows
    events.csv                 all events with user, item, label, timestamp and six other fields, in the log's order
    fuxictr/SPLIT.csv          as FuxiCTR reads them, histories joined by ^
    recbole/KIND.inter         all events, which RecBole orders and splits itself
    recbole/KIND.SPLIT.inter   the rows of each split, with their histories
"""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from worker import FIELDS, MODELS, PARTS, Rows

import recexp
from recexp.dataset.log import Dataset, Log
from recexp.dataset.prepare import load
from recexp.dataset.schema import FIRST, Field

EVENTS_SIZE = ["dataset.n_events=1000000", "dataset.n_users=20000", "dataset.n_items=4000"]
# Eight fields of the synthetic data; those of the experiments belong to MovieLens.
SYNTHETIC_FIELDS = {
    "user": {"segment": "categorical", "age": "categorical"},
    "item": {"category": "categorical", "brand": "categorical", "price": "binned"},
    "context": {"device": "categorical"},
}
# What models over fields have beside the sizes of the experiment peers/deepfm; all libraries can be given the same.
OWN_SIZES: dict[str, dict[str, Any]] = {
    "dcnv2": {"n_layers": 2},
    "ffm": {"embedding_dim": 4},
    "onn": {"embedding_dim": 8},
    "xdeepfm": {"cin_sizes": [16, 16]},
    "autoint": {"n_layers": 2, "n_heads": 2, "attention_size": 16},
    "fibinet": {"reduction": 3},
    "finalmlp": {"second_hidden_sizes": [64, 32], "gate_hidden_sizes": [64], "n_heads": 4},
}
SIZES_TOLD = (
    "Vectors have 16 numbers, of FFM 4 and of ONN 8; DCN v2 has two full crosses beside its MLP, xDeepFM two\n"
    "layers of 16 maps, AutoInt two layers of two heads of 8 and a deep part, PNN inner products, FiBiNET one\n"
    "bilinear matrix for all pairs, FinalMLP two equal MLPs and gates by the user's and the item's fields."
)
NO_HISTORY = "none"  # RecBole cannot pack an empty history, so a special item stands in it


def kind_of(model: str) -> str:
    return "fields" if model == "deepfm" else "sequence"


def write_movielens(source: list[str], folder: Path) -> None:
    """Inputs of all models for the unchanged experiments. source: overrides such as dataset.path."""
    for model in MODELS:
        experiment = [f"+experiment=peers/{model}", *source]
        config = recexp.load_config(experiment)
        dataset = load(config.dataset)
        _write_settings(folder, model, dataset, config, experiment)
        if not (folder / kind_of(model)).exists():
            write_rows(dataset, folder / kind_of(model))


def settings_of(model: str, embedding_dim: int, hidden_sizes: list[int]) -> dict[str, Any]:
    """Sizes of a model over fields; `overrides` give recexp the same, without dropout and L2."""
    sizes: dict[str, Any] = {"embedding_dim": embedding_dim, "hidden_sizes": hidden_sizes} | OWN_SIZES.get(model, {})
    none = {"embedding_l2": 0, "dropout": 0}
    if model == "ffm":  # it has no MLP
        del sizes["hidden_sizes"], none["dropout"]
    chosen = [f"model.{name}={value}".replace(" ", "") for name, value in (sizes | none).items()]
    return sizes | {"overrides": [f"model={model}", *chosen]}


def write_fields(source: list[str], folder: Path, models: Iterable[str] = FIELDS) -> None:
    """Inputs of models over fields: rows and training of the experiment peers/deepfm."""
    config = recexp.load_config(["+experiment=peers/deepfm", *source])
    dataset, trainer, features = load(config.dataset), config.trainer, config.dataset.features
    write_rows(dataset, folder / "fields")
    training = {name: getattr(trainer, name) for name in ("batch_size", "eval_batch_size", "learning_rate")}
    kinds = {side: {name: kind.name for name, kind in getattr(features, side).items()} for side in ("user", "item")}
    gates = [["user", *kinds["user"]], ["item", *kinds["item"]]]
    same = {**training, "max_history": 0, "kind": "fields", "vocabulary": vocabulary(dataset), "gates": gates}
    read = ["dataset=ml-100k", *source, *_features(kinds), "dataset.split.kind=random"]
    for model in models:
        settings = settings_of(model, config.model.embedding_dim, config.model.hidden_sizes)
        settings["overrides"] += read
        (folder / f"{model}.json").write_text(json.dumps(settings | same, indent=1), "utf-8")


def write_million(folder: Path) -> None:
    """A million synthetic events, with ids only (din) and with eight fields (deepfm), to time preparation on."""
    for model, split in (("din", "user_time"), ("deepfm", "random")):
        fields = SYNTHETIC_FIELDS if model == "deepfm" else {side: {} for side in SYNTHETIC_FIELDS}
        chosen = [f"dataset.split.kind={split}", *_features(fields)]
        config = recexp.load_config([f"model={model}", "dataset=synthetic", *EVENTS_SIZE, *chosen])
        dataset = load(config.dataset)
        kind = folder / kind_of(model)
        if not kind.exists():
            write_rows(dataset, kind, trained=False)
        # recexp reads a file of events like any user's, instead of generating them.
        columns = {side: dict.fromkeys(names, "categorical") for side, names in fields.items()}
        overrides = [f"model={model}", "dataset=csv", f"dataset.path={kind / 'events.csv'}", "dataset.max_history=20"]
        _write_settings(
            folder, model, dataset, config, [*overrides, f"dataset.split.kind={split}", *_features(columns)]
        )


def write_small_movielens(folder: Path, n_events: int) -> None:
    """The embedded synthetic data as files of MovieLens 100K, so that the experiments run without downloading it.

    Missing fields are made up from the ids: the files only serve to test that everything runs.
    """
    size = [f"dataset.n_events={n_events}", f"dataset.n_users={n_events // 50}", "dataset.n_items=100"]
    log = load(recexp.load_config(["dataset=synthetic", *size]).dataset).log
    assert isinstance(log, Log)
    user, item = log.users.raw[1:], log.items.raw[1:]
    tables = {
        "inter": {"user_id": log.users.raw[log.user], "item_id": log.items.raw[log.item],
                  "rating": 3 + log.label.astype(int), "timestamp": log.timestamp},
        "user": {"user_id": user, "age": 18 + user % 50, "gender": np.where(user % 2, "F", "M"),
                 "occupation": user % 8, "zip_code": 10000 + 100 * (user % 90)},
        "item": {"item_id": item, "title": [f"Item {number}" for number in item], "release_year": 1960 + item % 39,
                 "genres": [f"genre{number % 18}" for number in item]},
    }  # fmt: skip
    folder.mkdir(parents=True)
    for name, columns in tables.items():
        headed = {f"{column}:token": values for column, values in columns.items()}
        pd.DataFrame(headed).to_csv(folder / f"ml-100k.{name}", sep="\t", index=False)


def write_rows(dataset: Dataset, folder: Path, trained: bool = True) -> None:
    """A dataset in the format of every library; without `trained`, only the files that preparation reads."""
    folder.mkdir(parents=True)
    parts = {part: rows_of(dataset, part) for part in PARTS}
    events = _events(dataset)
    events.to_csv(folder / "events.csv", index=False)
    _write_fuxictr(parts, folder / "fuxictr")
    recbole = folder / "recbole" / folder.name
    recbole.mkdir(parents=True)
    _atomic(events).to_csv(recbole / f"{folder.name}.inter", sep="\t", index=False)
    if trained:
        arrays = {f"{part}.{name}": array for part, rows in parts.items() for name, array in _arrays(rows).items()}
        np.savez(folder / "rows.npz", **arrays)
        _write_recbole(parts, recbole, folder.name)


def rows_of(dataset: Dataset, part: str) -> Rows:
    """The rows of a split in the log's order, with histories if each user's splits are chronological."""
    log = dataset.log
    rows = log.rows(part)
    label = log.label[rows].astype(np.float32)
    columns = {name: column[rows] for name, column in _columns(dataset).items()}
    assert isinstance(log, Log)
    if not log.chronological:  # a history would hold events of valid and test
        return Rows(label, columns)
    ids = {name: columns[name] for name in ("user", "item")}
    return Rows(label, ids, *histories(log, rows, dataset.schema.max_history))


def histories(log: Log, rows: np.ndarray, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Item ids (n, L) of the last events strictly before each row (n,), and how many there are (n,)."""
    end = log.before[rows].astype(np.int64)
    length = np.minimum(end - log.offsets[log.user[rows]], longest).astype(np.int32)
    step = np.arange(longest)
    position = np.minimum((end - length)[:, None] + step, len(log.item) - 1)
    ids = log.items.ids[log.item[position], 0].astype(np.int32)
    return np.where(step < length[:, None], ids, np.int32(0)), length


def vocabulary(dataset: Dataset) -> dict[str, int]:
    """Rows of each field's embedding table, including padding and unknown."""
    return {field.name: FIRST + field.size for side in _sides(dataset) for field in side}


def _columns(dataset: Dataset) -> dict[str, np.ndarray]:
    """Each field's ids (N,) in that field's own vocabulary."""
    log, everyone = dataset.log, np.arange(len(dataset.log.label))
    assert isinstance(log, Log)
    tables = (log.users.ids, log.user), (log.items.ids, log.item), (log.context.ids, everyone)
    columns = {}
    for side, (ids, row) in zip(_sides(dataset), tables, strict=True):
        for field in side:
            column = ids[:, field.column]
            columns[field.name] = np.where(column < FIRST, column, column - field.offset)[row].astype(np.int32)
    return columns


def _sides(dataset: Dataset) -> list[tuple[Field, ...]]:
    schema = dataset.schema
    sides = [schema.user.fields, schema.item.fields, schema.context.fields]
    assert all(field.width == 1 and not field.numeric for side in sides for field in side)
    return sides


def _features(fields: dict[str, dict[str, str]]) -> list[str]:
    """Overrides that replace a dataset's fields by these."""
    return [word for side, kinds in fields.items() for word in (
        f"~dataset.features.{side}",
        f"+dataset.features.{side}={{{','.join(f'{name}:{kind}' for name, kind in kinds.items())}}}",
    )]  # fmt: skip


def _arrays(rows: Rows) -> dict[str, np.ndarray]:
    found = {"label": rows.label, **rows.columns, "history": rows.history, "length": rows.length}
    return {name: array for name, array in found.items() if array is not None}


def _events(dataset: Dataset) -> pd.DataFrame:
    log = dataset.log
    columns = _columns(dataset)
    assert isinstance(log, Log)
    columns |= {"user": log.users.raw[log.user], "item": log.items.raw[log.item]}
    return pd.DataFrame(columns | {"label": log.label.astype(np.int8), "timestamp": log.timestamp})


def _write_settings(folder: Path, model: str, dataset: Dataset, config: Any, overrides: list[str]) -> None:
    """What a worker must know of the experiment; overrides make recexp read the same data."""
    names = ("embedding_dim", "hidden_sizes", "attention_hidden_sizes", "n_heads", "feedforward_size")
    sizes = {name: getattr(config.model, name) for name in names if hasattr(config.model, name)}
    training = {"batch_size": config.trainer.batch_size, "learning_rate": config.trainer.learning_rate}
    fields = vocabulary(dataset)
    if kind_of(model) == "sequence":
        fields = {name: fields[name] for name in ("user", "item")}
    settings = {
        **sizes, **training, "eval_batch_size": config.trainer.eval_batch_size, "overrides": overrides,
        "max_history": dataset.schema.max_history, "kind": kind_of(model), "vocabulary": fields,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{model}.json").write_text(json.dumps(settings, indent=1), "utf-8")


def _write_fuxictr(parts: dict[str, Rows], folder: Path) -> None:
    folder.mkdir()
    for part, rows in parts.items():
        frame = pd.DataFrame({"label": rows.label.astype(np.int8), **rows.columns})
        if rows.history is not None:
            frame["history"] = _joined(rows, "^")
        frame.to_csv(folder / f"{part}.csv", index=False)


def _write_recbole(parts: dict[str, Rows], folder: Path, name: str) -> None:
    for part, rows in parts.items():
        frame = _atomic(pd.DataFrame({**rows.columns, "label": rows.label.astype(np.int8)}))
        if rows.history is not None:
            given = _joined(rows, " ")
            frame["item_id_list:token_seq"] = [items or NO_HISTORY for items in given]
            # DIEN reads negatives even if its auxiliary loss has weight 0: one for each event, sampled by popularity.
            drawn = np.random.default_rng(0).choice(rows.columns["item"], rows.history.shape)
            others = replace(rows, history=drawn, length=np.maximum(rows.length, 1))
            frame["neg_item_id_list:token_seq"] = _joined(others, " ")
        frame.to_csv(folder / f"{name}.{part}.inter", sep="\t", index=False)


def _atomic(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with each column's type in its header and RecBole's names for the ids."""
    kinds = {"user": "user_id:token", "item": "item_id:token", "label": "label:float", "timestamp": "timestamp:float"}
    return frame.rename(columns=lambda name: kinds.get(name, f"{name}:token"))


def _joined(rows: Rows, separator: str) -> list[str]:
    assert rows.history is not None and rows.length is not None
    words = rows.history.astype(str).tolist()
    return [separator.join(line[:n]) for line, n in zip(words, rows.length.tolist(), strict=True)]
