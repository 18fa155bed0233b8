"""What every model speaks: its output, and the stages in which it is trained.

A model is an `nn.Module` with a dataclass `Config(ModelConfig)`, made by `Model(config, schema)`. `forward(batch)`
gives an Output, `losses(output, batch)` its named losses, unweighted. It may have `stages()`; else it is trained whole.
With a class attribute `reads_history = False` its batches come with empty histories, which are quicker to make.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn

from recexp.dataset.batch import Batch


@dataclass(frozen=True)
class Output:
    """Logits (B,), and by name whatever else the losses need."""

    logits: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Train:
    """Trains parameters by gradient. The last stage takes trainer.epochs, an earlier one has its own.

    A module of which no parameter is trained is in evaluation mode throughout: its statistics stay, too.
    """

    name: str
    model: nn.Module  # forward and losses are called on it: the model itself or a part that is a model too
    trained: tuple[str, ...] = ("",)  # prefixes of the parameters' names that are trained; the others stay
    epochs: int | None = None


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Sets parameters and buffers from the training part in closed form."""

    name: str
    model: nn.Module  # what the valid part is scored by afterwards: the model itself or a part that is a model too
    fit: Callable[[Batch], None]  # called once, with all training rows as one batch, without histories


Stage = Train | Fit


def stages(model: nn.Module) -> list[Stage]:
    """The model's own stages, or the one that trains it whole."""
    own = getattr(model, "stages", None)
    return own() if own else [Train(name="train", model=model)]


def reads_history(model: nn.Module | type[nn.Module]) -> bool:
    """Whether it looks at a batch's histories, as models do unless they say otherwise."""
    return getattr(model, "reads_history", True)
