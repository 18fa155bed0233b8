"""The interface of a model: what it needs of the data, its output, its losses, and its training stages.

A model is an `nn.Module` with a dataclass `Config(ModelConfig)`, made by `create(config, schema)`. `needs` says what it
reads, and `forward(batch)` returns an Output. A model may have `losses(output, batch)`, its named losses, unweighted,
and `stages()`. Without them it is trained as a whole to predict the label.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, Protocol, TypeVar, cast

from torch import Tensor, nn

from recexp import registry
from recexp.config import ModelConfig
from recexp.dataset.batch import Batch
from recexp.dataset.schema import Schema
from recexp.dataset.search import Search
from recexp.dataset.window import Packed, WindowBatch
from recexp.error import ConfigError
from recexp.layer.lookup import lookup
from recexp.layer.loss import bce
from recexp.option import require

AnyConfig = TypeVar("AnyConfig", bound=ModelConfig)


class Inputs(Enum):
    """What a model reads of a batch. All but `fields` and `chosen` need a log of users, items and time."""

    fields = "the fields of user, target and context"
    ids = "the ids of user and target"
    chosen = "the fields, and past events too, in any order, if an option asks for them"
    history = "past events too, in any order"
    sequence = "past events too, in their order"


@dataclass(frozen=True)
class Needs:
    """What a model needs of the data. Batches without past events are quicker to make, if a model reads none."""

    inputs: Inputs
    n_fields: int = 1  # at least, ids included
    tasks: bool = False  # whether it can predict several labels
    ordered: bool = False  # whether each label is 1 only where the label before it is
    context: bool = True  # whether it reads the fields of the context, if its inputs are more than ids
    features: bool = True  # whether it reads any field but the ids of user and item


@dataclass(frozen=True)
class Output:
    """Logits (B,), and by name the other tensors that the losses need.

    Where there are several labels, tasks holds the logits (B, T) of all, and logits those of the first.
    """

    logits: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)
    tasks: Tensor | None = None

    @property
    def all_logits(self) -> Tensor:
        """The logits of all labels: (B,) of one, (B, T) of several."""
        return self.logits if self.tasks is None else self.tasks

    @property
    def by_task(self) -> Tensor:
        """The logits of all labels, one or several: (B, T)."""
        return self.logits[:, None] if self.tasks is None else self.tasks


@dataclass(frozen=True, kw_only=True)
class Train:
    """Trains parameters by gradient. The last stage takes trainer.epochs, an earlier one has its own.

    A module without trained parameters stays in evaluation mode, so that its statistics do not change either.
    """

    name: str
    model: nn.Module  # forward and losses are called on it: the model itself or a part that is a model too
    trained: tuple[str, ...] = ("",)  # name prefixes of the trained parameters; the others stay fixed
    epochs: int | None = None


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Sets parameters and buffers from the training split in closed form."""

    name: str
    model: nn.Module  # scored on the validation split afterwards: the model itself or a part that is a model too
    fit: Callable[[Batch], None]  # called once, with all training rows as one batch, without histories


Stage = Train | Fit


class Ranker(Protocol):
    """A model whose score is a product of a query and an item's vector, so that all items are one matrix product.

    trainer=next_item takes such models. Those trained by gradient need `states`, or `pairs(batch)` in its place.
    """

    def query(self, batch: Batch) -> Tensor:
        """The query of each user of a batch, after the history: (B, D)."""

    def states(self, events: Packed) -> Tensor:
        """The query after each of T events: (T, D)."""

    def item_vectors(self, ids: Tensor | None = None) -> Tensor:
        """The vectors of item ids (n,): (n, D). By default of all ids, padding and unknown included: (FIRST + V, D).

        Given ids, a model must look them up with `Table.rows`, as the trainer may update only these rows.
        """

    def eval(self) -> Any:
        """Sets evaluation mode, as nn.Module's."""


def create(config: ModelConfig, schema: Schema) -> nn.Module:
    """A new model. Raises ConfigError if the data lack what it needs. A class without `needs` is not checked."""
    model_class = registry.get("model", config.name)
    if needs := getattr(model_class, "needs", None):
        _check_needs(needs, config.name, schema)
    return model_class(config, schema)


def _check_needs(needs: Needs, model: str, schema: Schema) -> None:
    if needs.inputs not in (Inputs.fields, Inputs.chosen) and not schema.max_history:
        raise ConfigError(
            f"model = {model}: needs users, items and time; this dataset is a table. "
            "Name dataset.columns, or choose a model over fields such as fm or deepfm."
        )
    if schema.tasks and not needs.tasks:
        raise ConfigError(
            f"model = {model}: predicts one label; dataset.columns.label names {', '.join(schema.tasks)}: keep one, or "
            "choose a model of several, as shared_bottom, mmoe or ple."
        )
    n_fields, n_needed = sum(len(side.fields) for side in (schema.user, schema.item, schema.context)), needs.n_fields
    if n_fields < n_needed:
        raise ConfigError(f"model = {model}: needs {n_needed} fields or more, ids included; this table has {n_fields}.")


def reads_history(model: nn.Module | type[nn.Module]) -> bool:
    """True if the model reads past events, or declares no needs and so may read them.

    A model of `chosen` inputs, once it is made, has an attribute reads_history that says whether it does.
    """
    needs = getattr(model, "needs", None)
    if needs is not None and needs.inputs is Inputs.chosen:
        return getattr(model, "reads_history", True)
    return needs is None or needs.inputs in (Inputs.history, Inputs.sequence)


def reads_context(model: nn.Module) -> bool:
    """True if the model reads fields of the context, or declares no needs and so may read them.

    A model whose options decide it has an attribute reads_context.
    """
    needs = getattr(model, "needs", None)
    return needs is None or getattr(model, "reads_context", needs.context and needs.inputs is not Inputs.ids)


def search_of(model: nn.Module) -> Search | None:
    """How the model searches all earlier events: its attribute `search`, a Search. None if it has none."""
    search = getattr(model, "search", None)
    return search if isinstance(search, Search) else None


def task_output(logits: Tensor, parts: dict[str, Tensor]) -> Output:
    """The output of a model of T labels, from logits (B, T); with one label it is that of a single-label model."""
    return Output(logits[:, 0], parts, logits if logits.shape[1] > 1 else None)


def losses(model: nn.Module, output: Output, batch: Batch) -> dict[str, Tensor]:
    """The model's own named losses, or by default the binary cross-entropy of the label."""
    own_losses = getattr(model, "losses", None)
    return own_losses(output, batch) if own_losses else {"target": bce(output.logits, batch.label)}


def stages(model: nn.Module) -> list[Stage]:
    """The model's own stages, or by default one that trains the whole model."""
    own_stages = getattr(model, "stages", None)
    return own_stages() if own_stages else [Train(name="train", model=model)]


def pairs(model: nn.Module, batch: WindowBatch) -> tuple[Tensor, Tensor]:
    """Queries (P, D) and the rows of their target items (P,): the model's own, or by default one for each next item."""
    own_pairs = getattr(type(model), "pairs", None)
    if own_pairs:
        return own_pairs(model, batch)
    return lookup(cast(Ranker, model).states(batch.events), batch.query), batch.target


def part_config(kind: type[AnyConfig], config: ModelConfig, **options: Any) -> AnyConfig:
    """The Config of a model that is part of another: the options that both have, and those given here."""
    shared = {item.name: getattr(config, item.name) for item in fields(kind) if item.name not in options}
    return kind(**shared, **options)


def chosen_history(chosen: bool, option: str, schema: Schema) -> bool:
    """Whether a model of `chosen` inputs reads past events. Raises ConfigError if the data have none."""
    if chosen and not schema.max_history:
        raise ConfigError(f"{option}: needs users, items and time; this dataset is a table.")
    return chosen


def require_divisor(n_heads: int, width: int) -> None:
    """Raises ConfigError, listing the divisors of an encoder's width, if the number of heads is not among them."""
    divisors = ", ".join(str(n) for n in range(1, width + 1) if width % n == 0)
    require(width % n_heads == 0, "model.n_heads", n_heads, f"a divisor of the encoder's width {width}: {divisors}")
