"""The folder that `recexp export` writes.

model.pt2 or model.onnx   the model, with plain arrays as inputs and open batch size and history length
model.json                its inputs with their shapes, its output and labels; the run's configuration and metrics
encoder.json              how raw values become ids and numbers
user.npz, item.npz        these of all users and items that the run knows, with their raw ids
user.json, item.json      of a table whose rows are joined with features by id: these, as raw values
item_vectors.npy          of a ranker: the vectors that its query is multiplied by, one per item id
user.parquet, ...         the vectors of users and items by raw id, if requested
rows.json, example.py     some rows with the scores that the run gives them, and a program that scores them
"""

import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import yaml
from torch import nn

from recexp.config import NextItemConfig, Precision
from recexp.dataset.batch import Batch
from recexp.dataset.config import HistoryKind, HistoryUntil
from recexp.dataset.log import Dataset, Log
from recexp.error import ConfigError, Failure
from recexp.model import Ranker, create, reads_history, search_of
from recexp.run.export import graph
from recexp.run.export.embeddings import write_embeddings
from recexp.run.export.encoding import described, raw_features
from recexp.run.export.padded import padded
from recexp.run.export.rows import batch_of, examples, rankings, written
from recexp.run.trained import Trained
from recexp.storage import new_folder, write_json, write_text

N_WRITTEN, N_CHECKED = 5, 64  # rows in rows.json, and rows whose scores are compared
TOLERANCE = 1e-5
K = 3  # best items in rows.json


def export(trained: Trained, form: str, folder: Path, embeddings: bool = False) -> float:
    """Writes the folder, which must not be there, and returns the largest difference of a score from the run's.

    form: torch or onnx. embeddings: write them too. Raises ConfigError if the model searches all earlier events, cannot
    be traced or has no embeddings, or a field has too many values, Failure if the difference is too large.
    """
    if search_of(trained.model):
        raise ConfigError(f"{trained.path}: its model searches all earlier events; export writes one of histories.")
    given = examples(trained.dataset, N_CHECKED)
    served = replace(given, dataset=padded(given.dataset))
    schema = served.dataset.schema
    encoder = described(served.dataset.encoder, schema)
    model = create(trained.config.model, schema).eval()
    model.load_state_dict(trained.model.state_dict())
    batch, expected = batch_of(trained, served), trained.probabilities(given)
    rows = written(served, batch)
    ranks = isinstance(trained.config.trainer, NextItemConfig) and hasattr(model, "item_vectors")
    if ranks:
        rows = [row | ranking for row, ranking in zip(rows, rankings(trained, given, K), strict=True)]
    with new_folder(folder) as temporary:
        if embeddings:
            write_embeddings(model, trained.dataset.encoder, temporary)
        inputs = _write_graph(model, ranks, batch, form, temporary)
        if ranks:
            np.save(temporary / "item_vectors.npy", cast(Ranker, model).item_vectors().detach().numpy())
        _write_tables(served.dataset, temporary)
        write_json(temporary / "encoder.json", encoder, checksum=False)
        write_json(temporary / "model.json", _about(trained, inputs, ranks), checksum=False)
        write_text(temporary / "example.py", (Path(__file__).parent / "example.py").read_text("utf-8"))
        scored = [row | {"score": score} for row, score in zip(rows, expected.tolist(), strict=True)]
        write_json(temporary / "rows.json", {"rows": scored[:N_WRITTEN]}, checksum=False)
        difference = _difference(temporary, rows, expected)
        if not difference <= TOLERANCE and trained.config.trainer.precision is Precision.fp32:
            raise Failure(
                f"{form}: scores of the exported model differ by {difference:.1e} from the run's on {trained.device}"
            )
    return difference


def _write_graph(model: nn.Module, ranks: bool, batch: Batch, form: str, folder: Path) -> list[dict[str, Any]]:
    """Writes the model, and returns its inputs: name, dtype and shape."""
    names = [
        name
        for name in graph.INPUTS
        if (reads_history(model) or name not in graph.HISTORY) and not (ranks and name.startswith("item_"))
    ]
    columns = graph.several(graph.columns_of(batch))

    def axes(name: str) -> list[str]:
        return ["batch", "length"] if name in graph.HISTORY else ["batch"]

    program, read = graph.program(model, ranks, columns, names)
    graph.write(program, read, "query" if ranks else "score", form, folder)
    return [
        {
            "name": name,
            "dtype": str(columns[name].dtype).removeprefix("torch."),
            "shape": [*axes(name), *columns[name].shape[len(axes(name)) :]],
        }
        for name in read
    ]


def _write_tables(dataset: Dataset, folder: Path) -> None:
    log = dataset.log
    if isinstance(log, Log):
        for side, table in (("user", log.users), ("item", log.items)):
            np.savez(folder / f"{side}.npz", raw=table.raw, ids=table.ids, values=table.values)
    for side, known in dataset.joined.items():
        write_json(folder / f"{side}.json", raw_features(dataset.encoder.context, known), checksum=False)


def _about(trained: Trained, inputs: list[dict[str, Any]], ranks: bool) -> dict[str, Any]:
    config, data = trained.config, trained.config.dataset
    events = "liked events" if data.history is HistoryKind.liked else "all events"
    return {
        "output": "query" if ranks else "score",
        "labels": trained.dataset.schema.tasks,
        "inputs": inputs,
        "max_history": trained.dataset.schema.max_history,
        "history": f"{events} of the training split" if data.history_until is HistoryUntil.split else events,
        "model": config.model.name,
        "dataset": config.dataset.name,
        "torch": torch.__version__,
        "metrics": trained.metrics,
        "config": yaml.safe_load((trained.path / "config.yaml").read_text("utf-8")),
    }


def _difference(folder: Path, rows: list[dict[str, Any]], expected: np.ndarray) -> float:
    """The largest difference of example.py's scores from the expected ones, for all rows at once and for the first."""
    example = runpy.run_path(str(folder / "example.py"))
    scores = example["scores"](rows)
    alone = example["scores"](rows[:1])
    return float(max(np.abs(scores - expected).max(), np.abs(alone - expected[:1]).max()))
