"""The typed configuration: what keys there are, of which type and range, and how the groups fit together.

Values and their meaning stand in the YAML files under conf/; here stand types and ranges. A composed configuration
is checked in two steps, both before any data is read: `check_light` without importing torch, then `check`.
"""

import importlib.metadata
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from recexp import registry
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


def require(condition: bool, key: str, value: object, allowed: str) -> None:
    """Raises ConfigError naming the key, its value and what is allowed, unless the condition holds."""
    if not condition:
        raise ConfigError(f"{key} = {value}: must be {allowed}.")


@dataclass(kw_only=True)
class FeaturesConfig:
    """Feature columns by the table they stand in: one value a user, an item, or an event."""

    user: dict[str, FeatureKind]
    item: dict[str, FeatureKind]
    context: dict[str, FeatureKind]

    def __post_init__(self) -> None:
        for side in fields(self):
            for name in getattr(self, side.name):
                require(bool(re.fullmatch(r"\w[\w -]*", name)), f"dataset.features.{side.name}", repr(name),
                        "a name of letters, digits, _ and -")  # fmt: skip


@dataclass(kw_only=True)
class SplitConfig:
    kind: SplitKind
    ratios: list[float]
    column: str | None

    def __post_init__(self) -> None:
        key = "dataset.split"
        require(len(self.ratios) == 3 and min(self.ratios) >= 0 and abs(sum(self.ratios) - 1) < 1e-6 and self.ratios[0] > 0,
                f"{key}.ratios", self.ratios, "three shares train, valid, test that sum to 1, train above 0")  # fmt: skip


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


@dataclass(kw_only=True)
class TrainerConfig:
    name: str
    epochs: int
    batch_size: int
    eval_batch_size: int
    optimizer: Optimizer
    learning_rate: float
    weight_decay: float
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
        _check_metric("trainer.monitor", self.monitor)
        if self.sparse and self.optimizer in (Optimizer.adam, Optimizer.adamw):
            raise ConfigError(f"trainer.sparse = true: {self.optimizer.name} has no exact row-wise form; "
                              "use optimizer sgd, adagrad or lazy_adam.")  # fmt: skip
        if self.optimizer is Optimizer.lazy_adam and not self.sparse:
            raise ConfigError("trainer.optimizer = lazy_adam: updates rows alone; set trainer.sparse=true with it.")
        if self.sparse and self.weight_decay:
            raise ConfigError("trainer.weight_decay: decays whole tables, which trainer.sparse=true does not touch; "
                              "use model.embedding_l2 with trainer.l2_rows=batch.")  # fmt: skip


@dataclass(kw_only=True)
class RunConfig:
    dir: str | None
    name: str | None
    resume: bool


def _sizes(value: list[int]) -> bool:
    return all(size >= 1 for size in value)


# Options that mean the same in every model that has them.
RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "embedding_dim": (lambda value: value >= 1, "1 or more"),
    "embedding_std": (lambda value: value > 0, "above 0"),
    "embedding_l2": (lambda value: value >= 0, "0 or more"),
    "hidden_sizes": (_sizes, "a list of sizes of 1 or more"),
    "attention_hidden_sizes": (_sizes, "a list of sizes of 1 or more"),
    "auxiliary_hidden_sizes": (_sizes, "a list of sizes of 1 or more"),
    "state_size": (lambda value: value >= 1, "1 or more"),
    "dropout": (lambda value: 0 <= value < 1, "at least 0 and below 1"),
}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What every model understands; a model's own Config adds its options."""

    name: str
    loss_weights: dict[str, float]

    def __post_init__(self) -> None:
        for part, weight in self.loss_weights.items():
            require(weight >= 0, f"model.loss_weights.{part}", weight, "0 or more")
        for option, (holds, allowed) in RANGES.items():
            if hasattr(self, option):
                require(holds(getattr(self, option)), f"model.{option}", getattr(self, option), allowed)


@dataclass(kw_only=True)
class Config:
    model: Any  # the model's own Config
    dataset: Any  # the reader's own Config
    trainer: TrainerConfig
    run: RunConfig
    seed: int
    device: str
    plugins: list[str]
    objective: str | None

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**31, "seed", self.seed, "0 or more, and below 2^31")
        require(bool(re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device)), "device", self.device, "auto, cpu, cuda or cuda:N")


def check_light(raw: DictConfig, model_keys: Collection[str] | None = None) -> None:
    """All that can be checked without importing torch: names, unknown keys, dataset, trainer and run values.

    model_keys: the keys of the model's YAML file, where the caller knows it.
    Raises ConfigError.
    """
    _check_root(raw)
    _check_scalars(raw)
    load_plugins(raw.plugins)
    _check_name(raw, "model", "model.name", registry.names("model"))
    _check_name(raw, "trainer", "trainer.name", registry.names("trainer"))
    if model_keys is not None:
        _check_keys("model", raw.model, model_keys)
    _typed(_reader_schema(raw), raw.dataset, "dataset")
    trainer = _typed(TrainerConfig, raw.trainer, "trainer")
    _typed(RunConfig, raw.run, "run")
    _check_l2(raw, trainer)


def check(raw: DictConfig) -> Config:
    """The typed configuration, everything checked but the data. Imports torch.

    Raises ConfigError.
    """
    check_light(raw)
    model = _typed(registry.get("model", raw.model.name, "model.name").Config, raw.model, "model")
    dataset = _absolute(_typed(_reader_schema(raw), raw.dataset, "dataset"))
    trainer = _typed(TrainerConfig, raw.trainer, "trainer")
    if trainer.threads is None:
        trainer = replace(trainer, threads=len(os.sched_getaffinity(0)))
    run = _typed(RunConfig, raw.run, "run")
    _check_labels(model, dataset)
    plugins = [str(Path(path).absolute()) for path in raw.plugins]
    return Config(model=model, dataset=dataset, trainer=trainer, run=run, seed=raw.seed, device=raw.device,
                  plugins=plugins, objective=raw.objective)  # fmt: skip


def to_dict(config: Any) -> dict[str, Any]:
    """A typed configuration as plain values, enum members by their names: what config.yaml holds."""
    return _plain(asdict(config))


def flat(config: DictConfig | dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The (dotted key, value) pairs of all leaves."""
    tree = OmegaConf.to_container(config) if isinstance(config, DictConfig) else config
    assert isinstance(tree, dict)
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def load_plugins(paths: Collection[str]) -> None:
    """Imports the user's own models and readers: entry points in the group `recexp.plugins`, then files.

    Raises ConfigError for a file that is missing or fails on import.
    """
    for entry in importlib.metadata.entry_points(group="recexp.plugins"):
        entry.load()
    for path in paths:
        _import_file(Path(path))


def _import_file(path: Path) -> None:
    if not path.is_file():
        raise ConfigError(f"plugins = {path}: no such file (relative paths start at {Path.cwd()}).")
    name = f"recexp_plugin_{path.stem}"
    if name in sys.modules and sys.modules[name].__file__ == str(path.absolute()):
        return
    spec = importlib.util.spec_from_file_location(name, path.absolute())
    if spec is None or spec.loader is None:
        raise ConfigError(f"plugins = {path}: not a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ConfigError(f"plugins = {path}: fails on import: {type(error).__name__}: {error}") from error


def _check_root(raw: DictConfig) -> None:
    allowed = {item.name for item in fields(Config)}
    _check_keys("", raw, allowed)
    for key in sorted(allowed - set(raw)):
        raise ConfigError(f"{key}: missing from the configuration.")
    for key in ("model", "dataset", "trainer", "run"):
        if not isinstance(raw[key], DictConfig):
            raise ConfigError(f"{key} = {raw[key]}: must be a group of keys; choose one with {key}=NAME.")
    if not isinstance(raw.plugins, ListConfig):
        raise ConfigError(f"plugins = {raw.plugins}: must be a list, as in plugins=[my_model.py].")


def _check_keys(prefix: str, node: DictConfig, allowed: Collection[str]) -> None:
    for key in node:
        if key not in allowed:
            raise ConfigError(f"{prefix}{'.' if prefix else ''}{key}: unknown key. {choices(str(key), allowed)}")


def _check_name(raw: DictConfig, group: str, key: str, names: list[str]) -> None:
    name = raw[group].get("name")
    if name not in names:
        raise ConfigError(f"{key} = {name}: no such {group}. {choices(str(name), names)}")


def _check_scalars(raw: DictConfig) -> None:
    for key, kind, words in (("seed", int, "an integer"), ("device", str, "a word"), ("objective", str | None, "a word")):
        if not isinstance(raw[key], kind) or isinstance(raw[key], bool):
            raise ConfigError(f"{key} = {raw[key]}: must be {words}.")
    if raw.objective is not None:
        _check_metric("objective", raw.objective)


def _check_l2(raw: DictConfig, trainer: TrainerConfig) -> None:
    if trainer.sparse and raw.model.get("embedding_l2") and trainer.l2_rows is L2Rows.all:
        raise ConfigError("trainer.l2_rows = all: decays whole tables, which trainer.sparse=true does not touch; "
                          "set trainer.l2_rows=batch or model.embedding_l2=0.")  # fmt: skip


def _check_metric(key: str, name: str) -> None:
    from recexp.trainer.metric import HIGHER_IS_BETTER  # numpy: needed only where values are checked

    if name not in HIGHER_IS_BETTER:
        raise ConfigError(f"{key} = {name}: no such metric. {choices(name, HIGHER_IS_BETTER)}")


def _check_labels(model: ModelConfig, dataset: DatasetConfig) -> None:
    """Options that mean the same in every model and need the labels of past events."""
    if dataset.label is LabelKind.explicit and dataset.history is HistoryKind.all:
        return
    auxiliary = getattr(getattr(model, "auxiliary", None), "name", None) == "labels" and model.loss_weights.get("auxiliary")
    wanted = {"model.history_labels = true": getattr(model, "history_labels", False), "model.auxiliary = labels": auxiliary}
    why = "dataset.label is implicit" if dataset.label is LabelKind.implicit else "dataset.history is liked"
    for option, on in wanted.items():
        if on:
            raise ConfigError(f"{option}: needs labels that vary within histories, but {why}.")


def _reader_schema(raw: DictConfig) -> type:
    reader = raw.dataset.get("reader")
    return registry.get("reader", str(reader), "dataset.reader").Config


def _typed(schema: type, node: DictConfig, prefix: str) -> Any:
    """The node as an instance of its dataclass; OmegaConf's many errors become one line."""
    _check_keys(prefix, node, {item.name for item in fields(schema)})
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), node))
    except ConfigError:
        raise
    except OmegaConfBaseException as error:
        raise ConfigError(_one_line(error, schema, node, prefix)) from error


def _one_line(error: OmegaConfBaseException, schema: type, node: DictConfig, prefix: str) -> str:
    inner = str(getattr(error, "full_key", "") or "")
    key = f"{prefix}.{inner}" if inner else prefix
    if isinstance(error, MissingMandatoryValue):
        return f"{key}: has no value; give one with {key}=..."
    if isinstance(error, InterpolationResolutionError):
        return f"{key}: {str(error).splitlines()[0]}"
    if isinstance(error, ConfigKeyError | ConfigAttributeError):
        parent, _, last = inner.rpartition(".")
        return f"{key}: unknown key. {choices(last, _keys_below(schema, parent))}"
    value = OmegaConf.select(node, inner, throw_on_missing=False) if inner else node
    message = str(getattr(error, "msg", None) or error).splitlines()[0]
    return f"{key} = {value}: {message.rstrip('.')}."


def _keys_below(schema: type, dotted: str) -> list[str]:
    """Field names of the dataclass reached by a dotted path from the schema."""
    for name in filter(None, dotted.split(".")):
        found = {item.name: item.type for item in fields(schema)}.get(name)
        if not isinstance(found, type) or not is_dataclass(found):
            return []
        schema = found
    return [item.name for item in fields(schema)]


def _absolute(dataset: Any) -> Any:
    """The dataset with paths made absolute, so that a run directory means the same from anywhere."""
    paths = {}
    for name in ("path", "user_path", "item_path", "cache_dir"):
        if value := getattr(dataset, name, None):
            paths[name] = str(Path(value).expanduser().absolute())
    return replace(dataset, **paths)


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
