"""A configuration as a tree of plain values, and the leaves of such a tree."""

from collections.abc import Iterator
from dataclasses import asdict
from enum import Enum
from typing import Any

from omegaconf import DictConfig, OmegaConf


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
