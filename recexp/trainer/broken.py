"""A step that gave non-finite numbers, kept in the run directory so that it can be run again.

`broken.json` and `broken.safetensors` hold the weights and the optimizers' state before the step, its batch with the
catalogue, and the random states, so no data are needed.
"""

from dataclasses import fields, is_dataclass
from pathlib import Path
from shlex import quote
from types import NoneType
from typing import Any, TypeVar, cast, get_args, get_type_hints

import torch
from torch import Tensor, nn

from recexp import registry
from recexp.config import Config, TrainerConfig
from recexp.dataset.batch import Batch, Batches
from recexp.error import DamagedFile, Failure, RunError
from recexp.storage import read_json, write_json
from recexp.trainer import tensors as tensor_files
from recexp.trainer.checkpoint import load_model, load_optimizers, model_tensors, named, optimizer_tensors
from recexp.trainer.divergence import Cause, Diverged, examine, explanation, what_to_lower
from recexp.trainer.optimizer import optimizer_overrides
from recexp.trainer.step import Step

Value = TypeVar("Value")
FILE = "broken.safetensors"


def keep(folder: Path, model: nn.Module, cause: Cause, where: str, what: str, stage: int) -> None:
    """model: the whole one. where, what: as in `explanation`. stage: index of the stage among the model's."""
    tensors = {**model_tensors(model), **cause.random, **flattened("batch", cause.batch)}
    document: dict[str, Any] = {"where": where, "what": what, "stage": stage, "learning_rates": None, "n_events": None}
    if step := cause.step:
        tensors |= optimizer_tensors(step.optimizers)
        tensors |= {f"counts.{side}": counts for side, counts in step.counts.items()}
        document["learning_rates"] = [float(optimizer.param_groups[0]["lr"]) for optimizer in step.optimizers]
        document["n_events"] = step.batches.n_events
    folder.mkdir(exist_ok=True)
    write_json(folder / "broken.json", document | tensor_files.write(folder / FILE, tensors))


def failure(diverged: Diverged, where: str, run: Path, config: TrainerConfig, on_graph: bool) -> Failure:
    """What was no longer finite first, and what to do. on_graph: steps are replayed on a GPU, so not every one seen."""
    finding = examine(diverged.cause) if diverged.cause else None
    advice = diverged.advice or what_to_lower(config, finding)
    message = explanation(where, diverged.what, finding, advice)
    if diverged.cause:
        return Failure(f"{message}; look closer with: recexp replay {quote(str(run))}")
    return Failure(f"{message}; trainer.cuda_graph=false looks at every step" if on_graph else message)


def load(folder: Path, model: nn.Module, config: Config, device: torch.device) -> tuple[str, str, Cause]:
    """Loads the weights into the model; returns where, what and the cause. Raises RunError if nothing was kept."""
    path = folder / "broken.json"
    try:
        document = read_json(path)
    except FileNotFoundError:
        raise RunError(f"{folder.parent}: has no step to run again; a run keeps one that gives nan or inf.") from None
    try:
        tensors = tensor_files.read(folder / FILE, document, device)
        load_model(model, tensors, path)
        trainer = registry.get("trainer", config.trainer.name)(config.trainer, device, config.seed)
        stage = trainer.stages(model)[document["stage"]]
        batch = restored(trainer.batch_type if document["learning_rates"] else Batch, "batch", tensors)
        step = None
        if document["learning_rates"] is not None:
            overrides = optimizer_overrides(config.trainer, model, config.model.optimizers)
            batches = cast("Batches", CountedBatches(named("counts.", tensors), device, document["n_events"]))
            weights = trainer.weights(config)
            step = Step(stage, weights, config.model.embedding_l2, config.trainer, batches, 1, overrides)
            load_optimizers(step.optimizers, tensors)
            step.use_learning_rates(document["learning_rates"])
        return document["where"], document["what"], Cause(stage.model, step, batch, tensors)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise DamagedFile(f"{path}: damaged ({type(error).__name__}: {error}).") from error


class CountedBatches:
    """Stands in for the batches of a Step; it knows only their counts and the number of events per sample."""

    def __init__(self, counts_by_side: dict[str, Tensor], device: torch.device, n_events: int) -> None:
        self.counts_by_side, self.device, self.n_events = counts_by_side, device, n_events

    def counts(self, side: str) -> Tensor:
        return self.counts_by_side[side]

    def steps(self, split: str, batch_size: int) -> int:
        return 1


def flattened(prefix: str, value: Any) -> dict[str, Tensor]:
    """The tensors of nested dataclasses by dotted name. Members that are None are left out."""
    if value is None:
        return {}
    if isinstance(value, Tensor):
        return {prefix: value}
    return {
        name: tensor
        for item in fields(value)
        for name, tensor in flattened(f"{prefix}.{item.name}", getattr(value, item.name)).items()
    }


def restored(kind: type[Value], prefix: str, tensors: dict[str, Tensor]) -> Value:
    """The inverse of `flattened`: a dataclass of this kind from its tensors by dotted name."""
    if (members := get_args(kind)) and members[-1] is NoneType:
        is_present = any(name.startswith(f"{prefix}.") for name in tensors)
        return restored(members[0], prefix, tensors) if is_present else None  # type: ignore[return-value]
    if not is_dataclass(kind):
        return tensors[prefix]  # type: ignore[return-value]
    types = get_type_hints(kind)
    return kind(**{item.name: restored(types[item.name], f"{prefix}.{item.name}", tensors) for item in fields(kind)})
