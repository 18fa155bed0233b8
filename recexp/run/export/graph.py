"""Exports a model as a graph of torch operations, whose inputs are plain arrays with one row per sample.

B batch, L history length, both open; C id columns of a side, V its value columns
"""

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from recexp.dataset.batch import Batch, Catalogue, Features
from recexp.error import ConfigError, first_line
from recexp.model import Ranker

KINDS = ("ids", "values")
HISTORY = ("history_ids", "history_values", "history_label", "history_age", "mask")
# The last one that is offered gives the number of samples, so that is one that nearly every model reads.
INPUTS = ("user_values", "user_ids", "context_values", "context_ids", "item_values", *HISTORY, "item_ids")
MEMBERS = {"user_ids": "user", "user_values": "user", "item_ids": "target", "item_values": "target",
           "context_ids": "context", "context_values": "context", "history_ids": "history",
           "history_values": "history"}  # of a batch, that hold an input  # fmt: skip
FILES = {"torch": "model.pt2", "onnx": "model.onnx"}


class Served(nn.Module):
    """A model that takes named arrays: the encoded user, item and context of each sample, and the items before.

    It returns the probability of label 1 (B,), of each of several labels (B, T), or a ranker's query (B, D).
    """

    def __init__(self, model: nn.Module, ranks: bool, names: Sequence[str], columns: dict[str, Tensor]) -> None:
        """names: of the inputs, in order. columns: any rows of all INPUTS; those not named are taken as zeros."""
        super().__init__()
        self.model, self.ranks, self.names = model, ranks, tuple(names)
        self.shapes = {name: (tuple(column.shape[1:]), column.dtype) for name, column in columns.items()}

    def forward(self, *columns: Tensor) -> Tensor:
        return self.output(self.batch(dict(zip(self.names, columns, strict=True))))

    def output(self, batch: Batch) -> Tensor:
        return cast(Ranker, self.model).query(batch) if self.ranks else torch.sigmoid(self.model(batch).all_logits)

    def batch(self, columns: dict[str, Tensor]) -> Batch:
        """The samples as a batch whose catalogue holds just their own users and items."""
        n = columns[self.names[-1]].shape[0]
        length = next((columns[name].shape[1] for name in HISTORY if name in columns), 0)
        for name, (shape, dtype) in self.shapes.items():
            if name not in columns:
                shape = (length, *shape[1:]) if name in HISTORY else shape
                columns[name] = torch.zeros((n, *shape), dtype=dtype)
        sample = torch.arange(n)
        events = [columns[name].flatten(0, 1) for name in ("history_ids", "history_values")]
        items = [torch.cat([columns[f"item_{kind}"], rows]) for kind, rows in zip(KINDS, events, strict=True)]
        users = Features(columns["user_ids"], columns["user_values"])
        return Batch(
            label=torch.zeros(n),
            tasks=torch.zeros((n, 0)),
            user=sample,
            target=sample,
            context=Features(columns["context_ids"], columns["context_values"]),
            history=n + torch.arange(n * length).view(n, length),
            history_label=columns["history_label"],
            history_age=columns["history_age"],
            mask=columns["mask"],
            catalogue=Catalogue(users, Features(items[0], items[1]), torch.zeros(1, dtype=torch.int32)),
        )


def columns_of(batch: Batch) -> dict[str, Tensor]:
    """A batch as the INPUTS of `Served`."""
    users, items = batch.catalogue.users.at(batch.user), batch.catalogue.items
    named = {"user": users, "item": items.at(batch.target), "context": batch.context}
    # Of a table, users and items have no columns whatever their axes.
    columns = {f"{name}_{kind}": getattr(rows, kind).flatten(1) for name, rows in named.items() for kind in KINDS}
    columns |= {f"history_{kind}": getattr(items.at(batch.history), kind) for kind in KINDS}
    return columns | {name: getattr(batch, name) for name in ("history_label", "history_age", "mask")}


def several(columns: dict[str, Tensor]) -> dict[str, Tensor]:
    """Columns of at least two samples and two events, so that the exporter takes no size for a constant."""
    n = max(2, len(columns["user_ids"]))
    few = {name: column[torch.arange(n) % len(column)] for name, column in columns.items()}
    missing = max(0, 2 - few["mask"].shape[1])
    return few | {
        name: torch.cat([few[name], few[name].new_zeros(n, missing, *few[name].shape[2:])], 1) for name in HISTORY
    }


def program(
    model: nn.Module, ranks: bool, columns: dict[str, Tensor], candidates: Sequence[str]
) -> tuple[Any, list[str]]:
    """The exported program of a model and the names of its inputs: those of the candidates that it reads.

    columns: of two samples or more with two events or more. Raises ConfigError if the model cannot be traced.
    """
    names = [name for name in candidates if columns[name].numel()]
    seen = read_members(Served(model, ranks, names, columns).eval(), columns)
    names = [name for name in names if MEMBERS.get(name, name) in seen]
    traced = _traced(model, ranks, columns, names)
    inputs = [node for node in traced.graph.nodes if node.op == "placeholder"][-len(names) :]
    live = contents_that_count(traced.graph)
    read = [name for name, node in zip(names, inputs, strict=True) if node in live or name == names[-1]]
    return (traced, names) if read == names else (_traced(model, ranks, columns, read), read)


def contents_that_count(graph: torch.fx.Graph) -> set[torch.fx.Node]:
    """The nodes whose values, not only their shapes, the output depends on."""
    live: set[torch.fx.Node] = set()
    waiting = [node for node in graph.nodes if node.op == "output"]
    while waiting:
        node = waiting.pop()
        if node not in live:
            live.add(node)
            if node.target is not torch.ops.aten.sym_size.int:
                waiting += node.all_input_nodes
    return live


def read_members(served: Served, columns: dict[str, Tensor]) -> set[str]:
    """The names of the members of a batch that a model reads at all; tracing tells which of them it needs."""
    seen: set[str] = set()

    class Watched(Batch):
        def __getattribute__(self, name: str) -> Any:
            seen.add(name)
            return super().__getattribute__(name)

    with torch.inference_mode():
        served.output(Watched(**vars(served.batch({name: columns[name] for name in served.names}))))
    return seen


def _traced(model: nn.Module, ranks: bool, columns: dict[str, Tensor], names: list[str]) -> Any:
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    shapes = tuple({0: batch, 1: length} if name in HISTORY else {0: batch} for name in names)
    served = Served(model, ranks, names, columns).eval()
    try:
        with torch.no_grad(), quiet():
            program = torch.export.export(
                served, tuple(columns[name] for name in names), dynamic_shapes=(shapes,), strict=False
            )
            program.graph.eliminate_dead_code()  # a loop over no rows leaves a node that cannot be read again
            program.graph_module.recompile()
            return program
    except Exception as error:  # whatever a model of the user's own does that is no operation of torch's
        reason = first_line(error)
        raise ConfigError(f"model = {type(model).__name__.lower()}: cannot be exported: {reason}") from error


def write(exported: Any, names: Sequence[str], output: str, form: str, folder: Path) -> None:
    """Writes the file of a program: FILES[form]. Raises ConfigError for one with an operation that ONNX lacks."""
    path = folder / FILES[form]
    with quiet():
        if form == "torch":
            program = BytesIO()  # where a disk is full, torch's own writing to it would end the process
            torch.export.save(exported, program)
            path.write_bytes(program.getbuffer())
        else:
            _converted(exported, names, output).save(path)


def _converted(exported: Any, names: Sequence[str], output: str) -> Any:
    aten = torch.ops.aten
    replacements: dict[Any, Any] = {
        aten.sort.stable: _sort,
        aten.argsort.stable: _argsort,
        aten.rrelu.default: _rrelu,
    }  # operations that the exporter cannot convert
    exported = exported.run_decompositions(replacements)
    try:
        return torch.onnx.export(exported, dynamo=True, verbose=False, input_names=names, output_names=[output])
    except torch.onnx.OnnxExporterError as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = first_line(cause).partition(". ")[0]
        raise ConfigError(f"format = onnx: cannot write this model: {reason}; write it with --format torch.") from error


def _sort(x: Tensor, *, stable: bool, dim: int = -1, descending: bool = False) -> tuple[Tensor, Tensor]:
    """A stable sort for ONNX, which knows only one: by definition of its TopK, the first of equals stays the first."""
    return torch.ops.aten.topk.default(x, x.shape[dim], dim, descending, True)


def _argsort(x: Tensor, *, stable: bool, dim: int = -1, descending: bool = False) -> Tensor:
    return _sort(x, stable=stable, dim=dim, descending=descending)[1]


def _rrelu(x: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False) -> Tensor:
    """As in evaluation, which is what is exported."""
    return torch.ops.aten.leaky_relu.default(x, (lower + upper) / 2)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hides the messages and warnings of torch's exporters."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
