"""Checks a composed configuration against its types before any data is read. Each mistake is one line.

The model's own options come last: their types are in its file, which imports torch.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass, replace
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from recexp import plugin, registry
from recexp.config import TRAINERS, Config, NextItemConfig, RunConfig, TrainerConfig
from recexp.contradiction import (
    check_l2,
    check_labels,
    check_metric,
    check_next_item,
    check_ranking,
    check_validation,
)
from recexp.dataset.config import FeatureKind
from recexp.error import ConfigError, choices, first_line
from recexp.metric.table import of_first_label
from recexp.process import cores
from recexp.run.earlier import completed
from recexp.run.read import read_config
from recexp.tree import check_keys, flat, to_dataclass, to_dict

logger = logging.getLogger(__name__)


def check(raw: DictConfig, model_file: Mapping[str, Any] | None = None, threads: int | None = None) -> Config:
    """The typed configuration, with everything checked but the data; torch is imported only once all else is right.

    model_file: the content of the model's YAML file, if known; a key it lacks is an error, as nothing would read it.
    threads: the value that trainer.threads=null stands for; None: as many as there are cores.
    Raises ConfigError.
    """
    _check_values(raw, "")
    _check_root(raw)
    _check_scalars(raw)
    plugin.load(raw.plugins)
    _check_name(raw, "model", "model.name", registry.names("model"))
    _check_name(raw, "trainer", "trainer.name", registry.names("trainer"))
    _check_name(raw, "logger", "logger.name", registry.names("logger"))
    if model_file is not None:
        check_keys("model", raw.model, model_file)
    reader = registry.get("reader", str(raw.dataset.get("reader")), "dataset.reader")
    dataset = _absolute(to_dataclass(reader.Config, _declared(raw.dataset), "dataset"))
    if model_file is not None and isinstance(raw.model.get("loss_weights"), DictConfig):
        allowed = [*model_file.get("loss_weights", {}), *dataset.tasks]
        check_keys("model.loss_weights", raw.model.loss_weights, allowed)
    trainer = to_dataclass(TRAINERS.get(raw.trainer.name, TrainerConfig), raw.trainer, "trainer")
    run = to_dataclass(RunConfig, raw.run, "run")
    logger = to_dataclass(registry.get("logger", raw.logger.name, "logger.name").Config, raw.logger, "logger")
    check_ranking(dataset, trainer)
    monitor, objective = (name and of_first_label(name, dataset.tasks) for name in (trainer.monitor, raw.objective))
    check_metric("trainer.monitor", monitor, trainer, dataset.tasks)
    if objective is not None:
        check_metric("objective", objective, trainer, dataset.tasks)
    trainer = replace(trainer, monitor=monitor, threads=trainer.threads or threads or cores())
    if isinstance(trainer, NextItemConfig):
        check_next_item(raw.model.name)
    model = to_dataclass(registry.get("model", raw.model.name, "model.name").Config, raw.model, "model")
    check_l2(model, trainer)
    check_labels(model, dataset)
    check_validation(dataset, trainer)
    plugins = [str(Path(path).absolute()) for path in raw.plugins]
    return Config(model=model, dataset=dataset, trainer=trainer, run=run, logger=logger, seed=raw.seed,
                  device=raw.device, plugins=plugins, objective=objective)  # fmt: skip


def read(path: Path, options: Mapping[str, Any] = MappingProxyType({})) -> Config:
    """The checked configuration of a run directory, set to resume there. Raises ConfigError or RunError.

    options: values by dotted key that replace the run's. A warning lists options that the run's version did not have.
    """
    tree, lacking = completed(read_config(path))
    if isinstance(tree.get("run"), dict):
        tree["run"] |= {"dir": str(path), "resume": True}
    try:
        raw = OmegaConf.create(tree)
        for key, value in options.items():
            OmegaConf.update(raw, key, value)
        config = check(raw)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path / 'config.yaml'}: {first_line(error)}.") from error
    except ConfigError as error:
        newer = " The run may be of a newer version of recexp." if "unknown key" in str(error) else ""
        raise ConfigError(f"{path / 'config.yaml'}: {error}{newer}") from error
    if lacking:
        defaults = ", ".join(f"{key}={json.dumps(value)}" for key, value in lacking.items())
        logger.warning("%s: of an earlier version of recexp; taken by default: %s", path / "config.yaml", defaults)
    return config


def recheck(config: Config) -> None:
    """Checks a configuration again, as Python code may have changed it since. Raises ConfigError."""
    _check_attributes(config, "")
    try:
        raw = OmegaConf.create(to_dict(config))
    except OmegaConfBaseException as error:  # a value that no configuration can hold
        message = str(error.msg or error).splitlines()[0]
        raise ConfigError(f"{str(error.full_key).lstrip('.')}: {message.rstrip('.')}.") from error
    checked = dict(flat(asdict(check(raw))))
    for key, value in flat(asdict(config)):
        expected = checked.get(key)
        if isinstance(expected, Enum) and not isinstance(value, Enum):  # written by name, as in a file
            raise ConfigError(f"{key} = {value!r}: must be {type(expected).__name__}.{expected.name}.")
        if isinstance(value, str) != isinstance(expected, str):  # "3", which would be read as 3
            raise ConfigError(f"{key} = {value!r}: must be {expected!r}.")


def _check_attributes(config: Any, prefix: str) -> None:
    """Raises ConfigError for an attribute that is not a field, such as a misspelt one."""
    names = [field.name for field in fields(config)]
    for name in vars(config):
        if name not in names:
            near = [f"{prefix}{field}" for field in names]
            raise ConfigError(f"{prefix}{name}: unknown key. {choices(prefix + name, near)}")
    for name in names:
        if is_dataclass(value := getattr(config, name)):
            _check_attributes(value, f"{prefix}{name}.")


def _declared(dataset: DictConfig) -> DictConfig:
    """The dataset without feature columns of kind null, as in -m dataset.features.item.genres=multi,null."""
    dataset = dataset.copy()
    features = dataset.get("features")
    sides = features if isinstance(features, DictConfig) else {}
    for side in ("user", "item", "context"):
        if isinstance(given := sides.get(side), DictConfig):
            kinds = {str(name): kind for name, kind in given.items() if kind is not None}
            for name, kind in kinds.items():
                _check_kind(side, name, kind)
            sides[side] = kinds
    return dataset


def _check_kind(side: str, name: str, kind: object) -> None:
    """Raises ConfigError for a feature whose kind is no word, as of a name that an override has split at its dot."""
    if not isinstance(kind, str):
        allowed, form = ", ".join(FeatureKind.__members__), {f"{name}.NAME": "categorical"}
        hint = f"a column whose name has a dot stands in a YAML file, as {form}"
        raise ConfigError(f"dataset.features.{side}.{name} = {kind}: must be one of {allowed}; {hint}.")


def _check_values(node: DictConfig | ListConfig, prefix: str) -> None:
    """Raises ConfigError for a value that is missing or refers to a key that does not exist."""
    names: list[Any] = list(node) if isinstance(node, DictConfig) else list(range(len(node)))
    for name in names:
        key = f"{prefix}{name}"
        try:
            value = node[name]
        except MissingMandatoryValue:
            raise ConfigError(f"{key}: has no value; give one with {key}=...") from None
        except OmegaConfBaseException as error:
            raise ConfigError(f"{key}: {first_line(error).rstrip('.')}.") from error
        if isinstance(value, DictConfig | ListConfig):
            _check_values(value, f"{key}.")


def _check_root(raw: DictConfig) -> None:
    allowed = {field.name for field in fields(Config)}
    check_keys("", raw, allowed)
    for key in sorted(allowed - raw.keys()):
        raise ConfigError(f"{key}: missing from the configuration.")
    for key in ("model", "dataset", "trainer", "run", "logger"):
        if not isinstance(raw[key], DictConfig):
            raise ConfigError(f"{key} = {raw[key]!s}: must be a group of keys; choose one with {key}=NAME.")
    if not isinstance(raw.plugins, ListConfig):
        raise ConfigError(f"plugins = {raw.plugins}: must be a list, as in plugins=[my_model.py].")
    for path in raw.plugins:
        if not isinstance(path, str) or not path.endswith(".py"):
            raise ConfigError(f"plugins = {path}: must be a Python file, as in plugins=[my_model.py].")


def _check_name(raw: DictConfig, group: str, key: str, names: list[str]) -> None:
    name = raw[group].get("name")
    if name not in names:
        raise ConfigError(f"{key} = {name}: no such {group}. {choices(str(name), names)}")


def _check_scalars(raw: DictConfig) -> None:
    for key, kind, words in (
        ("seed", int, "an integer"),
        ("device", str, "a word"),
        ("objective", str | None, "a word"),
    ):
        if not isinstance(raw[key], kind) or isinstance(raw[key], bool):
            raise ConfigError(f"{key} = {raw[key]}: must be {words}.")


def _absolute(dataset: Any) -> Any:
    """The dataset with absolute paths, so that a run directory means the same from anywhere."""
    paths: dict[str, Any] = {}
    for name in ("path", "user_path", "item_path", "cache_dir"):
        if value := getattr(dataset, name, None):
            paths[name] = list(map(_absolute_path, value)) if isinstance(value, list) else _absolute_path(value)
    return replace(dataset, **paths)


def _absolute_path(path: Any) -> str:
    return str(Path(str(path)).expanduser().absolute())
