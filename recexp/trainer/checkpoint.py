"""Checkpoints: tensors in safetensors, the rest in JSON with a checksum, no pickle.

`last.json` is the state to resume from, `previous.json` the one before it, and `best.json` the best epoch of the last
stage; an earlier stage's best has the stage's name. Each names the file of its tensors, its digest, and its run.
A state to resume from includes, under `relies_on`, the content of the best checkpoints that it needs. The JSON is
replaced after the tensors are on disk and before older ones are removed, so a kill at any moment leaves a whole state.
"""

import contextlib
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recexp.error import DamagedFile, RunError
from recexp.kernel.adam import COLUMNS
from recexp.storage import read_json, write_json
from recexp.trainer import tensors as tensor_files
from recexp.trainer.deferred_adam import MAX_DEFERRED
from recexp.trainer.state import Progress

logger = logging.getLogger(__name__)
TENSORS = re.compile(r"[^/\0]+-s\d+-e\d+-n\d+\.safetensors")
KEYS = {"tensors": str, "bytes": int, "digest": str, "identity": str, "progress": dict}
# The state that each optimizer class keeps for a parameter.
OPTIMIZER_STATE = {
    "Adam": {"step", "exp_avg", "exp_avg_sq"},
    "AdamW": {"step", "exp_avg", "exp_avg_sq"},
    "SparseAdam": {"step", "exp_avg", "exp_avg_sq"},
    "DeferredAdam": {"step", "exp_avg", "exp_avg_sq", "last", "past", "reach"},
    "Adagrad": {"step", "sum"},
    "RowWiseAdagrad": {"sum"},
    "FTRL": {"n", "r"},
}

STATES = ("last", "previous")  # to resume from

Document = dict[str, Any]  # the content of a checkpoint's JSON


@dataclass(frozen=True)
class Saved:
    progress: Progress
    tensors: dict[str, Tensor]


class Checkpoints:
    """The checkpoints of a run."""

    def __init__(self, folder: Path, identity: str, stages: Sequence[str], device: torch.device) -> None:
        """identity: of the run they belong to. stages: names of the stages' best checkpoints, in order."""
        self.folder, self.identity, self.stages, self.device = folder, identity, stages, device
        self.best: dict[str, Document] = {}  # of the stages so far
        self.states: list[Document] = []  # to resume from, the newest first

    def save_best(self, name: str, model: nn.Module, progress: Progress) -> None:
        self.best[name] = self._write(name, model_tensors(model), progress)

    def load_best(self, name: str, model: nn.Module) -> None:
        """Loads a stage's best weights. Raises DamagedFile if the file is not the one that was written."""
        document = self.best[name]
        path = self.folder / document["tensors"]
        load_model(model, tensor_files.read(path, document, self.device), path)

    def save_last(self, tensors: dict[str, Tensor], progress: Progress) -> None:
        """Writes a state to resume from. Keeps the one before; removes tensors that neither needs."""
        self.states = [self._write("last", tensors, progress, relies_on=dict(self.best)), *self.states[:1]]
        self._tidy()

    def finish(self) -> None:
        """Training is over: removes the state before the last, which only a damaged last one would need."""
        (self.folder / "previous.json").unlink(missing_ok=True)
        self.states = self.states[:1]
        self._tidy()

    def resume(self, model: nn.Module) -> Saved | None:
        """The newest state that is whole, its weights loaded into the model; None if there is none.

        Raises RunError if it belongs to another run.
        """
        damage: Exception | None = None
        for name in STATES:
            path = self.folder / f"{name}.json"
            try:
                document = self._read(path)
                saved = self._load(path, document, model)
            except FileNotFoundError:
                continue
            except (DamagedFile, OSError) as error:
                damage = damage or error
                path.unlink()
                continue
            if damage:
                logger.warning("%s Going on from the checkpoint before it.", damage)
            self.best, self.states = document["relies_on"], [document]
            for stage, best in self.best.items():  # a later one may have been written since
                write_json(self.folder / f"{stage}.json", best)
            return saved
        if damage or any(self.folder.glob("*.safetensors")):
            logger.warning("%s Training starts anew.", damage or f"{self.folder}: no checkpoint to go on from.")
        return None

    def _read(self, path: Path) -> Document:
        """The content of a state's JSON. Raises DamagedFile, or RunError if it is of another run."""
        document = read_document(path)
        if document["identity"] != self.identity:
            raise RunError(
                f"{path}: belongs to another run (of another configuration, seed or data); "
                f"remove {self.folder} to start anew."
            )
        stage, best_by_stage = document["progress"]["stage"], document.get("relies_on")
        n_needed = stage + 1 if document["progress"]["epoch"] else stage
        needed = list(self.stages[:n_needed])
        if stage >= len(self.stages) or not isinstance(best_by_stage, dict) or list(best_by_stage) != needed:
            raise DamagedFile(f"{path}: damaged (lacks checkpoints that it needs).")
        for best in best_by_stage.values():
            _check(path, best)
        return document

    def _load(self, path: Path, document: Document, model: nn.Module) -> Saved:
        """Raises DamagedFile, leaving the model as it is."""
        for best in document["relies_on"].values():
            tensor_files.verify(self.folder / best["tensors"], best)
        weights = sum(tensor.nbytes for tensor in model.state_dict().values())
        if document["bytes"] > 4 * weights + 2**24:  # an optimizer keeps at most two numbers for each weight
            raise DamagedFile(f"{path}: damaged (larger than any checkpoint of this model).")
        tensors = tensor_files.read(self.folder / document["tensors"], document, self.device)
        load_model(model, tensors, path)
        progress = Progress.load(document["progress"], path)
        progress.totals = named("totals.", tensors)
        return Saved(progress, tensors)

    def _write(self, name: str, tensors: dict[str, Tensor], progress: Progress, **extra: Any) -> Document:
        self.folder.mkdir(exist_ok=True)
        written = tensor_files.write(self.folder / f"{name}-{progress.tag}.safetensors", tensors)
        document = {**written, "identity": self.identity, "progress": progress.saved(), **extra}
        path = self.folder / f"{name}.json"
        if name == "last" and path.exists():
            os.replace(path, self.folder / "previous.json")
        write_json(path, document)
        return document

    def _tidy(self) -> None:
        needed = [best for state in self.states for best in state["relies_on"].values()]
        names = {document["tensors"] for document in (*self.best.values(), *self.states, *needed)}
        for path in self.folder.glob("*.safetensors"):
            if TENSORS.fullmatch(path.name) and path.name not in names:
                path.unlink()


def read_document(path: Path) -> Document:
    """The content of a checkpoint's JSON. Raises FileNotFoundError or DamagedFile."""
    document = read_json(path)
    _check(path, document)
    Progress.load(document["progress"], path)
    return document


def load_trained(folder: Path, model: nn.Module, device: torch.device) -> Progress:
    """Loads the last stage's best weights; returns how far training had come. Raises RunError if there are none."""
    path = folder / "best.json"
    try:
        document = read_document(path)
    except FileNotFoundError:
        raise RunError(f"{path}: is missing, so there is no trained model yet.") from None
    tensors = folder / document["tensors"]
    load_model(model, tensor_files.read(tensors, document, device), tensors)
    return Progress.load(document["progress"], path)


def read_progress(folder: Path) -> Progress | None:
    """How far the newest state that can be read has come; its tensors are not looked at."""
    for name in STATES:
        path = folder / f"{name}.json"
        with contextlib.suppress(FileNotFoundError, DamagedFile):
            return Progress.load(read_document(path)["progress"], path)
    return None


def _check(path: Path, document: Any) -> None:
    """Raises DamagedFile if this is not the content of a checkpoint."""
    for key, kind in KEYS.items():
        if not isinstance(document, dict) or type(document.get(key)) is not kind:
            raise DamagedFile(f"{path}: damaged or of another version of recexp (its {key}).")
    if not TENSORS.fullmatch(document["tensors"]):
        raise DamagedFile(f"{path}: damaged (its tensors are said to be in another folder).")


def named(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names start with the prefix, named without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def optimizer_tensors(optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """The optimizers' state by name: optimizer.<index of the optimizer>.<index of the parameter>.<key>."""
    return {
        f"optimizer.{which}.{index}.{key}": torch.as_tensor(value)
        for which, optimizer in enumerate(optimizers)
        for index, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
    }


def load_optimizers(optimizers: Sequence[torch.optim.Optimizer], tensors: dict[str, Tensor]) -> None:
    """Restores the state that `optimizer_tensors` returned. Raises DamagedFile if it is not of these optimizers."""
    for which, optimizer in enumerate(optimizers):
        fresh = optimizer.state_dict()
        state: dict[int, dict[str, Any]] = {index: {} for index in fresh["state"]}
        shapes = [parameter.shape for group in optimizer.param_groups for parameter in group["params"]]
        for name, tensor in named(f"optimizer.{which}.", tensors).items():
            index, _, key = name.partition(".")
            known = index in map(str, range(len(shapes))) and key in OPTIMIZER_STATE.get(type(optimizer).__name__, ())
            if not known or not _fits(key, tensor, shapes[int(index)]):
                raise DamagedFile(
                    f"the checkpoint is of another optimizer: it has a state {name} {tuple(tensor.shape)}."
                )
            # SparseAdam counts steps in an int.
            is_count = tensor.dim() == 0 and not tensor.is_floating_point()
            state.setdefault(int(index), {})[key] = tensor.item() if is_count else tensor
        for number, kept in state.items():
            if missing := OPTIMIZER_STATE[type(optimizer).__name__] - kept.keys():
                raise DamagedFile(f"the checkpoint lacks the optimizer's {sorted(missing)[0]} of parameter {number}.")
        optimizer.load_state_dict(fresh | {"state": state})


def _fits(key: str, tensor: Tensor, shape: torch.Size) -> bool:
    """Whether an optimizer may keep a tensor under this name for a parameter of this shape."""
    match key:
        case "last":
            return tensor.dtype is torch.int32 and tensor.shape == shape[:1]
        case "past":
            return tensor.dtype is torch.float64 and tensor.shape[1:] == (len(COLUMNS),) and len(tensor) <= MAX_DEFERRED
        case _:
            per_row = (*shape[:1], 1)
            return tensor.dim() == 0 or (tensor.is_floating_point() and tensor.shape in (shape, per_row))


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    return {f"model.{name}": tensor for name, tensor in model.state_dict().items()}


def load_model(model: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """path: of the checkpoint. Raises DamagedFile, leaving the model as it is, if it is of another model."""
    state, expected = named("model.", tensors), model.state_dict()
    for name in expected.keys() | state.keys():
        kind, expected_kind = _kind(state.get(name)), _kind(expected.get(name))
        if kind != expected_kind:
            raise DamagedFile(f"{path}: of another model ({name} is {kind}, not {expected_kind}).")
    model.load_state_dict(state)


def _kind(tensor: Tensor | None) -> str:
    return "missing" if tensor is None else f"{tuple(tensor.shape)} {tensor.dtype}"
