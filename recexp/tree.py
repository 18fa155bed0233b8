"""A configuration as a tree of plain values, typed by dataclasses and back; and the leaves of such a tree."""

import math
from collections.abc import Collection, Iterator
from dataclasses import asdict, fields, is_dataclass
from enum import Enum
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from recexp.error import ConfigError, choices, first_line
from recexp.option import require


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


def to_dataclass(schema: type, node: DictConfig, prefix: str) -> Any:
    """The node as an instance of its dataclass; OmegaConf's errors become one line."""
    check_keys(prefix, node, {field.name for field in fields(schema)})
    try:
        config: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), node))
    except ConfigError:
        raise
    except OmegaConfBaseException as error:
        raise ConfigError(_one_line(error, schema, node, prefix)) from error
    _check_numbers(f"{prefix}.", asdict(config))
    return config


def _one_line(error: OmegaConfBaseException, schema: type, node: DictConfig, prefix: str) -> str:
    inner = str(getattr(error, "full_key", "") or "")
    key = f"{prefix}.{inner}" if inner else prefix
    if isinstance(error, MissingMandatoryValue):
        return f"{key}: has no value; give one with {key}=..."
    if isinstance(error, InterpolationResolutionError):
        return f"{key}: {first_line(error)}"
    if isinstance(error, ConfigKeyError | ConfigAttributeError):
        parent, _, last = inner.rpartition(".")
        return f"{key}: unknown key. {choices(last, _keys_below(schema, parent))}"
    value = OmegaConf.select(node, inner, throw_on_missing=False) if inner else node
    message = str(getattr(error, "msg", None) or error).splitlines()[0]
    return f"{key} = {value}: {message.rstrip('.')}."


def _keys_below(schema: type, dotted: str) -> list[str]:
    """The field names of the dataclass at a dotted path below the schema."""
    for name in filter(None, dotted.split(".")):
        kind = {field.name: field.type for field in fields(schema)}.get(name)
        if not isinstance(kind, type) or not is_dataclass(kind):
            return []
        schema = kind
    return [field.name for field in fields(schema)]


def check_keys(prefix: str, node: DictConfig, allowed: Collection[str]) -> None:
    """Raises ConfigError for a key that is not allowed. prefix: the dotted key of the node; "" for the root."""
    for key in map(str, node):
        if key not in allowed:
            raise ConfigError(f"{prefix}{'.' if prefix else ''}{key}: unknown key. {choices(key, allowed)}")


def _check_numbers(prefix: str, tree: dict[str, Any]) -> None:
    """Raises ConfigError for a number that is infinite, nan or beyond 32 bits."""
    for key, value in flat(tree, prefix):
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, float):
                require(math.isfinite(number), key, value, "a finite number")
            elif isinstance(number, int):
                require(abs(number) < 2**31, key, value, "below 2^31")
