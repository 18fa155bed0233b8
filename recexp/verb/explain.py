"""The verb `explain`: the value of a key, and which file or override set it."""

from pathlib import Path
from typing import Any

from recexp.error import ConfigError
from recexp.verb.options import Option

USAGE = "KEY [override...]"
HELP = "the value of a key, and which file or override set it"
OPTIONS: tuple[Option, ...] = ()


def run(arguments: list[str]) -> int:
    """Raises ConfigError for a key that does not exist."""
    from recexp.advice import nearest_key
    from recexp.compose import compose, split_flags
    from recexp.describe import shown
    from recexp.tree import flat

    words, config_dir = split_flags(arguments)
    overrides = [word for word in words if "=" in word or word.startswith("~")]
    keys = [word for word in words if word not in overrides]
    if len(keys) != 1:
        raise ConfigError("explain: takes one key, as in: recexp explain trainer.epochs model=din")
    key = keys[0]
    raw, folders = compose(overrides, config_dir)
    values = {name: value for name, value in flat(raw) if name == key or name.startswith(f"{key}.")}
    if not values:
        raise ConfigError(f"{key}: no such key. {nearest_key(key, raw)}")
    setters = _setters(overrides, config_dir, folders)
    for name, value in values.items():
        print(f"{name} = {value!r}" if isinstance(value, str) else f"{name} = {shown(value)}")
        for number, source in enumerate(source for source, tree in reversed(setters) if name in tree):
            print(f"  {'set by' if number == 0 else 'over  '} {source}")
    return 0


def _setters(overrides: list[str], config_dir: str | None, folders: list[Path]) -> list[tuple[str, dict[str, Any]]]:
    """(file or override, the values it sets by dotted key), in the order they are applied."""
    import yaml

    from recexp.compose import defaults_list, parse
    from recexp.tree import flat

    setters = []
    for name, package in defaults_list(overrides, config_dir):
        path = next(filter(Path.is_file, (folder / f"{name}.yaml" for folder in folders)), None)
        if path is not None:
            tree = yaml.safe_load(path.read_text("utf-8")) or {}
            tree.pop("defaults", None)
            setters.append((str(path), dict(flat(tree, f"{package}." if package else ""))))
    for override in overrides:
        key, value = parse(override)
        tree = dict(flat(value, f"{key}.")) if isinstance(value, dict) and value else {key: value}
        setters.append((f"override {override}", tree))
    return setters
