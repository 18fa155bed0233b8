"""Options that were typed and that this run does not read, as another option decides. They are told, one line each.

A sweep may set an option that some of its jobs read, so this is no error.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

from recexp import registry
from recexp.config import Config, NextItemConfig, NextItemLoss, Optimizer, Schedule
from recexp.dataset.config import FeatureKind, LabelKind, SplitKind
from recexp.model import Inputs


@dataclass(frozen=True)
class Waiting:
    """Options that are read only if another has a certain value."""

    options: tuple[str, ...]
    read: Callable[[Config], object]  # true or false
    when: str


def _has(kind: FeatureKind) -> Callable[[Config], bool]:
    return lambda config: any(kind in kinds.values() for kinds in config.dataset.features.sides.values())


def _reads_events(config: Config) -> bool:
    """True unless the model, and all that is derived for it, does without past events."""
    needs = getattr(registry.get("model", config.model.name), "needs", None)
    bare = needs is not None and needs.inputs in (Inputs.fields, Inputs.ids)
    return not bare or isinstance(config.trainer, NextItemConfig) or bool(config.dataset.features.derived.names)


def _next_item(*losses: NextItemLoss) -> Callable[[Config], bool]:
    return lambda config: getattr(config.trainer, "loss", None) in losses


SAMPLED = tuple(loss for loss in NextItemLoss if loss is not NextItemLoss.cross_entropy)
RANKING = ("cutoffs", "relevant", "exclude_seen", "valid_users")
WAITING = (
    Waiting(("dataset.max_history", "dataset.history"), _reads_events, "a model over the history"),
    Waiting(("dataset.negatives",), lambda c: c.dataset.label is LabelKind.implicit, "dataset.label=implicit"),
    Waiting(("dataset.n_bins",), _has(FeatureKind.binned), "binned features"),
    Waiting(("dataset.n_buckets", "dataset.n_quotients"), _has(FeatureKind.hash), "hash features"),
    Waiting(
        ("dataset.split.ratios",),
        lambda c: c.dataset.split.kind not in (SplitKind.given, SplitKind.leave_last_out),
        "dataset.split.kind of user_time, time or random",
    ),
    Waiting(
        ("trainer.ftrl",),
        lambda c: Optimizer.ftrl in (c.trainer.optimizer, *c.model.optimizers.values()),
        "trainer.optimizer=ftrl, or a part that has it in model.optimizers",
    ),
    Waiting(("trainer.plateau",), lambda c: c.trainer.schedule is Schedule.plateau, "trainer.schedule=plateau"),
    Waiting(("trainer.negatives",), _next_item(*SAMPLED), "a trainer.loss of sampled negatives"),
    Waiting(("trainer.calibration",), _next_item(NextItemLoss.gbce), "trainer.loss=gbce"),
    Waiting(("trainer.score_l2",), _next_item(NextItemLoss.bpr_max), "trainer.loss=bpr_max"),
    Waiting(
        tuple(f"trainer.ranking.{name}" for name in RANKING),
        lambda c: c.trainer.ranking.protocol,
        "trainer.ranking.candidates other than none",
    ),
)


def unread(config: Config, overrides: Sequence[str]) -> Iterator[str]:
    """One line for each option among the overrides that the run does not read."""
    typed = {word.lstrip("+~").partition("=")[0]: word for word in overrides}
    for waiting in (*WAITING, *_of_model(config)):
        names = [key for key in typed if _concerns(key, waiting.options)]
        if names and not waiting.read(config):
            yield f"{', '.join(typed[key] for key in names)}: nothing reads it in this run; it needs {waiting.when}."


def _of_model(config: Config) -> list[Waiting]:
    """What the model's own options wait for, as its file says."""
    conditions = ((item.name, item.metadata.get("read_if")) for item in fields(config.model))
    return [Waiting((f"model.{name}",), found.holds, found.words) for name, found in conditions if found is not None]


def _concerns(key: str, options: Sequence[str]) -> bool:
    return any(key == option or key.startswith(f"{option}.") for option in options)


def features_unread(model: str, features: Any) -> str | None:
    """A line on the features, if the model reads none."""
    needs = getattr(registry.get("model", model), "needs", None)
    names = [f"{side}.{name}" for side, kinds in features.sides.items() for name in kinds]
    names += [f"context.{name}" for name in features.derived.names]
    if needs is None or needs.features or not names:
        return None
    return f"{model} reads ids alone, and none of the features: {', '.join(names)}"
