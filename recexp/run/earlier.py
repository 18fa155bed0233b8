"""Runs of earlier versions: options that their config.yaml lacks get recexp's defaults.

So a new option's default must be the value that changes nothing, or FORMER must have that value.
"""

import copy
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from recexp.groups import MAPPING, conf_folder
from recexp.tree import flat

# What earlier versions did where an option that they lacked has another default now, by YAML file.
FORMER: dict[str, dict[str, Any]] = {"model/graphfm.yaml": {"layer_norm": True}}


def completed(tree: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The configuration with all options that recexp's YAML files have, and by dotted key those that it lacked.

    Options that only a user's or a plugin's files have stay as they are, and so does a tree that lacks most options.
    """
    whole = copy.deepcopy(tree)
    lacking: dict[str, Any] = {}
    for prefix, defaults in _defaults(whole):
        node = whole if not prefix else whole.setdefault(prefix, {})
        if isinstance(node, dict):
            lacking |= _fill(node, defaults, prefix)
    damaged = len(lacking) > len(dict(flat(tree)))  # no version had so few options
    return (tree, {}) if damaged else (whole, lacking)


def _defaults(tree: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Each group of a configuration, and what its file has; the first is the root."""
    root = _read("config.yaml")
    chosen = [item for choice in root.pop("defaults") if isinstance(choice, dict) for item in choice.items()]
    groups = [("", root)]
    for group, default in chosen:
        options = tree[group] if isinstance(tree.get(group), dict) else {"name": default}
        files = [f"{group}/{options[key]}.yaml" for key in ("name", "reader") if key in options]
        if options.get("reader") not in (None, _read(files[0]).get("reader")):
            files = files[1:]  # a user's own data, under any name
        groups.append((group, _read(files[0]) | FORMER.get(files[0], {}) if files else {}))
    return groups


def _read(name: str) -> dict[str, Any]:
    """A YAML file of recexp's own; nothing if there is none."""
    path = Path(conf_folder(), name)
    tree: Any = OmegaConf.to_container(OmegaConf.load(path)) if path.is_file() else {}  # numbers such as 2e-3 too
    return tree


def _fill(node: dict[str, Any], defaults: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Adds the defaults that a part of a configuration lacks; returns them by dotted key."""
    lacking: dict[str, Any] = {}
    for name, value in defaults.items():
        key = f"{prefix}.{name}".lstrip(".")
        if name not in node:
            node[name] = copy.deepcopy(value)
            lacking |= dict(flat({key: value}))
        elif isinstance(value, dict) and isinstance(node[name], dict) and not MAPPING.fullmatch(key):
            lacking |= _fill(node[name], value, key)
    return lacking
