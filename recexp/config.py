"""The typed configuration: what keys there are, of which type and range.

Values and their meaning stand in the YAML files under conf/; here stand types and ranges. recexp/validate.py holds a
composed configuration against them.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from enum import Enum
from typing import Any

from omegaconf import DictConfig, OmegaConf

from recexp.error import ConfigError, choices


class FeatureKind(Enum):
    categorical = "one of many values"
    multi = "several values of one vocabulary"
    numeric = "a number, standardised by the training part"
    binned = "a number, cut into quantiles of the training part"


class LabelKind(Enum):
    explicit = "the label column, cut at label_threshold if that is set"
    implicit = "every event is a positive; negatives are sampled"


class HistoryKind(Enum):
    all = "all earlier events, with their labels"
    liked = "earlier events with label 1 alone"


class SplitKind(Enum):
    user_time = "each user's last events, by ratio"
    leave_last_out = "each user's last event to test, the one before to valid"
    time = "one moment for all users"
    given = "a column that says train, valid or test, or three files"
    random = "by row; for tables"


class Optimizer(Enum):
    adam = "Adam"
    adamw = "Adam with decoupled weight decay"
    sgd = "plain SGD"
    adagrad = "AdaGrad"
    lazy_adam = "Adam that skips embedding rows absent from the batch"
    ftrl = "FTRL-proximal: steps as in AdaGrad, an L1 term that sets weights to exactly 0"


class Schedule(Enum):
    constant = "the same learning rate throughout"
    linear = "down to 0 in a straight line"
    cosine = "down to 0 along half a cosine"
    plateau = "a tenth after an epoch without improvement"


class Precision(Enum):
    fp32 = "32-bit floats"
    bf16 = "bfloat16 matrix products, 32-bit weights"


class L2Rows(Enum):
    all = "the whole table in every step: (l/2)|E|^2 in the loss"
    batch = "rows of the batch, each divided by its count in training (DIN's mini-batch-aware form)"


@dataclass(frozen=True)
class Range:
    """What values an option allows: the test, and the words that an error says."""

    holds: Callable[[Any], bool]
    words: str


def option(holds: Callable[[Any], bool], words: str) -> Any:
    """A dataclass field whose value must hold; None always does, where the field's type allows it."""
    return field(metadata={"range": Range(holds, words)})


def at_least(bound: float) -> Any:
    return option(lambda value: value >= bound, f"{bound} or more")


def above(bound: float) -> Any:
    return option(lambda value: value > bound, f"above {bound}")


def fraction() -> Any:
    """A share, as of dropout."""
    return option(lambda value: 0 <= value < 1, "at least 0 and below 1")


def layer_sizes() -> Any:
    """A list of layer sizes, which may be empty."""
    return option(lambda value: all(size >= 1 for size in value), "a list of sizes of 1 or more")


def check_ranges(config: Any, prefix: str) -> None:
    """Raises ConfigError for the first field of a dataclass whose value its range does not allow."""
    for item in fields(config):
        allowed, value = item.metadata.get("range"), getattr(config, item.name)
        if allowed is not None and value is not None:
            require(allowed.holds(value), f"{prefix}.{item.name}", value, allowed.words)


def require(condition: bool, key: str, value: object, allowed: str) -> None:
    """Raises ConfigError naming the key, its value and what is allowed, unless the condition holds."""
    if not condition:
        raise ConfigError(f"{key} = {value}: must be {allowed}.")


@dataclass(kw_only=True)
class DerivedConfig:
    """Fields of the context that are made of the user's events strictly before; recexp/dataset/derive.py makes them."""

    last_items: int
    most_liked: list[str]

    def __post_init__(self) -> None:
        require(0 <= self.last_items <= 100, "dataset.features.derived.last_items", self.last_items, "0 to 100")
        twice = len(set(self.most_liked)) < len(self.most_liked)
        require(not twice, "dataset.features.derived.most_liked", self.most_liked, "a list that names a column once")

    @property
    def names(self) -> list[str]:
        """The fields, as models and the context know them."""
        last = [f"last_item_{place}" for place in range(1, self.last_items + 1)]
        return [*last, *(f"most_liked_{name}" for name in self.most_liked)]


@dataclass(kw_only=True)
class FeaturesConfig:
    """Feature columns by the table they stand in: one value a user, an item, or an event."""

    user: dict[str, FeatureKind]
    item: dict[str, FeatureKind]
    context: dict[str, FeatureKind]
    derived: DerivedConfig

    @property
    def sides(self) -> dict[str, dict[str, FeatureKind]]:
        """The columns, without what is derived from them."""
        return {"user": self.user, "item": self.item, "context": self.context}

    def __post_init__(self) -> None:
        for side, kinds in self.sides.items():
            for name in kinds:
                require(
                    bool(re.fullmatch(r"\w[\w -]*", name)),
                    f"dataset.features.{side}",
                    repr(name),
                    "a name of letters, digits, _ and -",
                )
        listed = [name for name, kind in self.item.items() if kind in (FeatureKind.categorical, FeatureKind.multi)]
        for name in self.derived.most_liked:
            if name not in listed:
                hint = f"no categorical or multi column of dataset.features.item. {choices(name, listed)}"
                raise ConfigError(f"dataset.features.derived.most_liked = {name}: {hint}")
        for name in self.derived.names:
            if name in self.context:
                raise ConfigError(
                    f"dataset.features.context.{name}: is the name of a field of features.derived; rename the column."
                )


@dataclass(kw_only=True)
class SplitConfig:
    kind: SplitKind
    ratios: list[float]
    column: str | None

    def __post_init__(self) -> None:
        shares = len(self.ratios) == 3 and min(self.ratios) >= 0 and abs(sum(self.ratios) - 1) < 1e-6
        allowed = "three shares train, valid, test that sum to 1, train above 0"
        require(shares and self.ratios[0] > 0, "dataset.split.ratios", self.ratios, allowed)


@dataclass(kw_only=True)
class DatasetConfig:
    """What every reader understands; a reader's own Config adds its options."""

    name: str
    reader: str
    label: LabelKind
    label_threshold: float | None
    negatives: int
    features: FeaturesConfig
    max_history: int
    history: HistoryKind
    n_bins: int
    split: SplitConfig
    cache_dir: str | None

    def __post_init__(self) -> None:
        require(self.max_history >= 1, "dataset.max_history", self.max_history, "1 or more")
        require(self.negatives >= 1, "dataset.negatives", self.negatives, "1 or more")
        require(self.n_bins >= 2, "dataset.n_bins", self.n_bins, "2 or more")


def require_rowwise(key: str, optimizer: Optimizer, sparse: bool) -> None:
    """Raises ConfigError for an optimizer, named by a dotted key, that does not go with trainer.sparse."""
    if sparse and optimizer in (Optimizer.adam, Optimizer.adamw):
        raise ConfigError(
            f"trainer.sparse = true: {key} = {optimizer.name} has no exact row-wise form; "
            "use optimizer ftrl, sgd, adagrad or lazy_adam."
        )
    if optimizer is Optimizer.lazy_adam and not sparse:
        raise ConfigError(f"{key} = lazy_adam: updates rows alone; set trainer.sparse=true with it.")


@dataclass(kw_only=True)
class FTRLConfig:
    learning_rate: float
    beta: float
    l1: float
    l2: float

    def __post_init__(self) -> None:
        for name in ("learning_rate", "beta"):
            require(getattr(self, name) > 0, f"trainer.ftrl.{name}", getattr(self, name), "above 0")
        for name in ("l1", "l2"):
            require(getattr(self, name) >= 0, f"trainer.ftrl.{name}", getattr(self, name), "0 or more")


@dataclass(kw_only=True)
class TrainerConfig:
    name: str
    epochs: int
    batch_size: int
    eval_batch_size: int
    optimizer: Optimizer
    learning_rate: float
    weight_decay: float
    ftrl: FTRLConfig
    sparse: bool
    l2_rows: L2Rows
    schedule: Schedule
    warmup_steps: int
    clip_norm: float | None
    monitor: str
    patience: int | None
    precision: Precision
    threads: int | None
    deterministic: bool
    cuda_graph: bool
    checkpoint_every: int
    predictions: bool

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "eval_batch_size", "checkpoint_every"):
            require(getattr(self, name) >= 1, f"trainer.{name}", getattr(self, name), "1 or more")
        for name in ("weight_decay", "warmup_steps"):
            require(getattr(self, name) >= 0, f"trainer.{name}", getattr(self, name), "0 or more")
        require(self.learning_rate > 0, "trainer.learning_rate", self.learning_rate, "above 0")
        require(self.clip_norm is None or self.clip_norm > 0, "trainer.clip_norm", self.clip_norm, "above 0, or null")
        require(self.patience is None or self.patience >= 1, "trainer.patience", self.patience, "1 or more, or null")
        require(self.threads is None or self.threads >= 1, "trainer.threads", self.threads, "1 or more, or null")
        require_rowwise("trainer.optimizer", self.optimizer, self.sparse)
        if self.optimizer is Optimizer.ftrl and self.weight_decay:
            raise ConfigError(f"trainer.weight_decay = {self.weight_decay}: ftrl has none; use trainer.ftrl.l2.")
        if self.sparse and self.weight_decay:
            raise ConfigError(
                "trainer.weight_decay: decays whole tables, which trainer.sparse=true does not touch; "
                "use model.embedding_l2 with trainer.l2_rows=batch."
            )


@dataclass(kw_only=True)
class RunConfig:
    dir: str | None
    name: str | None
    resume: bool
    fail_fast: bool


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What every model understands; a model's own Config adds its options."""

    name: str
    loss_weights: dict[str, float]

    def __post_init__(self) -> None:
        for part, weight in self.loss_weights.items():
            require(weight >= 0, f"model.loss_weights.{part}", weight, "0 or more")
        check_ranges(self, "model")


@dataclass(kw_only=True)
class Config:
    model: Any  # the model's own Config
    dataset: Any  # the reader's own Config
    trainer: TrainerConfig
    run: RunConfig
    logger: Any  # the logger's own Config
    seed: int
    device: str
    plugins: list[str]
    objective: str | None

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**31, "seed", self.seed, "0 or more, and below 2^31")
        require(
            bool(re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device)), "device", self.device, "auto, cpu, cuda or cuda:N"
        )


def to_dict(config: Any) -> dict[str, Any]:
    """A typed configuration as plain values, enum members by their names: what config.yaml holds."""
    return _plain(asdict(config))


def flat(config: DictConfig | dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The (dotted key, value) pairs of all leaves."""
    tree = OmegaConf.to_container(config) if isinstance(config, DictConfig) else config
    assert isinstance(tree, dict)
    for key, value in ((str(key), value) for key, value in tree.items()):
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
