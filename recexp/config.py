"""The typed configuration: which keys there are, of which type and range.

Their values and meanings are in the YAML files under conf/. recexp/validate.py checks a composed configuration.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from types import MappingProxyType
from typing import Any, ClassVar, cast

from recexp.error import CONTROL, ConfigError
from recexp.option import (
    MAX_SIZE,
    Labels,
    above,
    at_least,
    between,
    check_ranges,
    file_name,
    fraction,
    option,
    random_seed,
    require,
)

LARGEST_BATCH = 2**31 - 1


class Optimizer(Enum):
    adam = "Adam"
    adamw = "Adam with decoupled weight decay"
    sgd = "plain SGD"
    adagrad = "AdaGrad"
    lazy_adam = "Adam that skips embedding rows absent from the batch"
    ftrl = "FTRL-proximal: steps as in AdaGrad, an L1 term that sets weights to exactly 0"
    row_wise_adam = "Adam whose second moment is one number for each embedding row"
    row_wise_adagrad = "AdaGrad whose sum of squares is one number for each embedding row"


ROW_WISE = (Optimizer.row_wise_adam, Optimizer.row_wise_adagrad)
EXACT = (Optimizer.adam, Optimizer.adamw)  # exact by row even if a term decays the whole table


class Schedule(Enum):
    constant = "the same learning rate throughout"
    linear = "down to 0 in a straight line"
    cosine = "down to 0 along half a cosine"
    plateau = "lower after epochs without improvement, as trainer.plateau says"


class Precision(Enum):
    fp32 = "32-bit floats"
    bf16 = "bfloat16 matrix products, 32-bit weights"


class L2Rows(Enum):
    all = "the whole table in every step: (l/2)|E|^2 in the loss"
    batch = "rows of the batch, each divided by its count in training (DIN's mini-batch-aware form)"


@dataclass(frozen=True)
class Every:
    """How often something happens: every n epochs, steps or minutes."""

    n: int
    unit: str  # epochs, steps, min


def every(value: int | str) -> Every | None:
    """What trainer.checkpoint_every means: 2 or 2epochs, 500steps, 10min; None if it is none of them."""
    match = re.fullmatch(r"([1-9]\d{0,8})(epochs|steps|min)?", str(value))
    return Every(int(match[1]), match[2] or "epochs") if match else None


def require_rowwise(key: str, optimizer: Optimizer, sparse: bool | None) -> None:
    """Raises ConfigError if the optimizer set at a dotted key is incompatible with trainer.sparse."""
    if optimizer is Optimizer.lazy_adam and sparse is False:
        raise ConfigError(f"{key} = lazy_adam: updates rows alone, which trainer.sparse=false forbids; set it to null.")


@dataclass(kw_only=True)
class FTRLConfig:
    learning_rate: float = above(0)
    beta: float = above(0)
    l1: float = at_least(0)
    l2: float = at_least(0)

    def __post_init__(self) -> None:
        check_ranges(self, "trainer.ftrl")


@dataclass(kw_only=True)
class PlateauConfig:
    patience: int = at_least(1)
    factor: float = fraction()

    def __post_init__(self) -> None:
        check_ranges(self, "trainer.plateau")


class Relevant(Enum):
    all = "all events of the user in the split"
    first = "the first of them alone, with those of the same timestamp"


def _candidates(value: int | str) -> bool:
    return value in ("all", "none") or (isinstance(value, int) and 1 <= value <= MAX_SIZE)


@dataclass(kw_only=True)
class RankingConfig:
    candidates: int | str = option(_candidates, f"all, none, or a number of sampled items, 1 to {MAX_SIZE}")
    cutoffs: list[int] = option(lambda ks: ks and all(1 <= k < 10**5 for k in ks), "a list of one or more K")
    relevant: Relevant
    exclude_seen: bool
    valid_users: int | None = at_least(1, optional=True)

    def __post_init__(self) -> None:
        check_ranges(self, "trainer.ranking")

    @property
    def n_sampled(self) -> int | None:
        """The number of sampled items that are ranked with the relevant ones; None if all items are."""
        return self.candidates if isinstance(self.candidates, int) else None

    @property
    def protocol(self) -> str | None:
        """The candidates as named in metrics; None if nothing is ranked."""
        if self.candidates == "none":
            return None
        return "all" if self.candidates == "all" else f"sampled{self.candidates}"


@dataclass(kw_only=True)
class TrainerConfig:
    name: str
    epochs: int = at_least(1)
    batch_size: int = between(1, LARGEST_BATCH, "rows are numbered in 32 bits")
    eval_batch_size: int = between(1, LARGEST_BATCH, "rows are numbered in 32 bits")
    optimizer: Optimizer
    learning_rate: float = above(0)
    weight_decay: float = at_least(0)
    network_l2: float = at_least(0)
    ftrl: FTRLConfig
    sparse: bool | None
    l2_rows: L2Rows
    schedule: Schedule
    plateau: PlateauConfig
    warmup_steps: int = at_least(0)
    clip_norm: float | None = above(0, optional=True)
    monitor: str
    patience: int | None = at_least(1, optional=True)
    precision: Precision
    threads: int | None = between(1, 1024, "more would only wait for each other", True)
    deterministic: bool
    cuda_graph: bool
    checkpoint_every: int | str = option(
        every, "a number of epochs (2 or 2epochs), steps (500steps) or minutes (10min)"
    )
    predictions: bool
    ranking: RankingConfig

    def __post_init__(self) -> None:
        check_ranges(self, "trainer")
        require_rowwise("trainer.optimizer", self.optimizer, self.sparse)
        if self.optimizer is Optimizer.ftrl and self.weight_decay:
            raise ConfigError(f"trainer.weight_decay = {self.weight_decay}: ftrl has none; use trainer.ftrl.l2.")
        by_row = self.sparse or self.optimizer is Optimizer.lazy_adam
        if by_row and self.weight_decay and self.optimizer not in EXACT:
            raise ConfigError(
                f"trainer.weight_decay: decays whole tables, which {self.optimizer.name} by row does not touch; "
                "use model.embedding_l2 with trainer.l2_rows=batch."
            )


class NextItemLoss(Enum):
    cross_entropy = "softmax over all items"
    sampled_softmax = "softmax over the target and sampled negatives"
    bce = "binary cross-entropy of the target and sampled negatives"
    gbce = "bce whose overconfidence in sampled negatives is taken back, as calibration says"
    bpr = "the target above each sampled negative"
    bpr_max = "the target above the highest sampled negatives, softly, as in GRU4Rec"


@dataclass(kw_only=True)
class NegativesConfig:
    n: int = between(1, 2**16, "each query has as many scores")
    shared: bool
    popular: float = option(lambda value: 0 <= value <= 1, "0 to 1")
    logq: bool

    def __post_init__(self) -> None:
        check_ranges(self, "trainer.negatives")


@dataclass(kw_only=True)
class NextItemConfig(TrainerConfig):
    loss: NextItemLoss
    negatives: NegativesConfig
    calibration: float = option(lambda value: 0 <= value <= 1, "0 to 1")
    score_l2: float = at_least(0)

    def __post_init__(self) -> None:
        if self.optimizer is Optimizer.lazy_adam and self.loss is NextItemLoss.cross_entropy:
            raise ConfigError(
                "trainer.optimizer = lazy_adam: updates rows alone; trainer.loss=cross_entropy scores whole tables."
            )
        super().__post_init__()
        if self.ranking.protocol is None:
            raise ConfigError("trainer.ranking.candidates = none: trainer=next_item validates by ranking; choose all.")
        if self.sparse and self.loss is NextItemLoss.cross_entropy:
            raise ConfigError(
                "trainer.sparse = true: trainer.loss=cross_entropy scores whole tables; use trainer.sparse=null."
            )


# Trainers with options of their own; here so that a mistake is reported without importing torch.
TRAINERS: Mapping[str, type[TrainerConfig]] = {"next_item": NextItemConfig}


@dataclass(kw_only=True)
class RunConfig:
    dir: str | None = option(
        lambda path: path and not CONTROL.search(path), "a path without control characters, or null"
    )
    name: str | None = file_name()
    resume: bool
    fail_fast: bool

    def __post_init__(self) -> None:
        check_ranges(self, "run")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Options of every model; a model's own Config adds to them."""

    name: str
    loss_weights: dict[str, float]
    # Options of some models, with the values that absence means. Not fields: config.yaml then has no such keys.
    embedding_l2 = 0.0
    optimizers = cast("Mapping[str, Optimizer]", MappingProxyType({}))
    trained: ClassVar[bool] = True  # by gradient; False if stages in closed form set all there is

    def __init_subclass__(cls) -> None:
        """An option that a model declares has no default: it does not inherit the value above."""
        for name in ("embedding_l2", "optimizers"):
            if name in cls.__annotations__ and name not in cls.__dict__:
                setattr(cls, name, field())

    def __post_init__(self) -> None:
        for name, weight in self.loss_weights.items():
            require(weight >= 0, f"model.loss_weights.{name}", weight, "0 or more")
        check_ranges(self, "model")
        if not self.trained:
            target = self.loss_weights.get("target")
            why = f"1: no parameter of {self.name} is trained by it"
            require(target == 1, "model.loss_weights.target", target, why)

    def label_needs(self) -> dict[str, Labels]:
        """The options that need certain labels, as `key = value`; an option whose loss is off needs none."""
        needs = {}
        for item in fields(self):
            labels, value, loss = item.metadata.get("labels", (None, None, None))
            off = loss is not None and not self.loss_weights.get(loss)
            if labels and getattr(self, item.name) == value and not off:
                shown = value.name if isinstance(value, Enum) else str(value).lower()
                needs[f"model.{item.name} = {shown}"] = labels
        return needs


@dataclass(kw_only=True)
class Config:
    model: Any  # the model's own Config
    dataset: Any  # the reader's own Config
    trainer: TrainerConfig
    run: RunConfig
    logger: Any  # the logger's own Config
    seed: int = random_seed()
    device: str = option(lambda name: re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", name), "auto, cpu, cuda or cuda:N")
    plugins: list[str]
    objective: str | None

    def __post_init__(self) -> None:
        check_ranges(self, "")

    @property
    def loss_weights(self) -> dict[str, float]:
        """The weights of the named losses: of several labels, one without a weight of its own has that of target."""
        weights, labels = self.model.loss_weights, self.dataset.tasks
        if not labels:
            return weights
        others = {name: weight for name, weight in weights.items() if name != "target"}
        return {name: weights["target"] for name in labels if name not in others and "target" in weights} | others
