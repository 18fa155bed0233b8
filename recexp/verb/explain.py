"""The verb `explain`: the value of a key, and which file or override set it."""

from pathlib import Path
from typing import Any

import yaml

from recexp.compose import compose, defaults_list, nearest_key, split_flags
from recexp.config import flat
from recexp.error import ConfigError


def explain(arguments: list[str]) -> int:
    """`explain KEY [override...]`. Raises ConfigError for a key that is not there."""
    words, config_dir = split_flags(arguments)
    keys = [word for word in words if "=" not in word]
    overrides = [word for word in words if "=" in word]
    if len(keys) != 1:
        raise ConfigError("explain: takes one key, as in: recexp explain trainer.epochs model=din")
    key = keys[0]
    raw, folders = compose(overrides, config_dir)
    values = dict(flat(raw))
    inside = {name: value for name, value in values.items() if name == key or name.startswith(f"{key}.")}
    if not inside:
        raise ConfigError(f"{key}: no such key. {nearest_key(key, raw)}")
    setters = _setters(overrides, config_dir, folders)
    for name, value in inside.items():
        print(f"{name} = {value!r}" if isinstance(value, str) else f"{name} = {_shown(value)}")
        for number, source in enumerate(source for source, tree in reversed(setters) if name in tree):
            print(f"  {'set by' if number == 0 else 'over  '} {source}")
    return 0


def _setters(overrides: list[str], config_dir: str | None, folders: list[Path]) -> list[tuple[str, dict[str, Any]]]:
    """Everything that sets keys, in the order it is applied: (what it is, its keys)."""
    found = []
    for path, package in defaults_list(overrides, config_dir):
        file = next((folder / f"{path}.yaml" for folder in folders if (folder / f"{path}.yaml").is_file()), None)
        if file is not None:
            tree = yaml.safe_load(file.read_text("utf-8")) or {}
            tree.pop("defaults", None)
            found.append((str(file), dict(flat(tree, f"{package}." if package else ""))))
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        parsed = yaml.safe_load(value)
        tree = dict(flat(parsed, f"{key}.")) if isinstance(parsed, dict) else {key: parsed}
        found.append((f"override {override}", tree))
    return found


def _shown(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n...\n").strip()
