"""The verbs `models` and `datasets`: what there is, and the options of one. Meanings are the YAML's own comments."""

import re
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, get_args

import yaml

from recexp import registry
from recexp.config import TrainerConfig
from recexp.error import ConfigError, choices
from recexp.groups import conf_folder
from recexp.terminal import columns


def models(arguments: list[str]) -> int:
    """`models [NAME]`."""
    return _catalogue("model", arguments)


def datasets(arguments: list[str]) -> int:
    """`datasets [NAME]`."""
    return _catalogue("dataset", arguments)


def _catalogue(group: str, arguments: list[str]) -> int:
    files = {path.stem: path for path in sorted((conf_folder() / group).glob("*.yaml"))}
    if not arguments:
        rows = [[name, summary(group, path)] for name, path in files.items()]
        print("\n".join(columns(rows)))
        print(f"\nrecexp {group}s NAME lists the options of one.")
        return 0
    if len(arguments) > 1 or arguments[0] not in files:
        raise ConfigError(f"{group}s {' '.join(arguments)}: no such {group}. {choices(arguments[0], files)}")
    name = arguments[0]
    print(f"{name}: {summary(group, files[name])}\n")
    print("\n".join(columns([["option", "default", "type", "meaning"], *options(group, files[name])])))
    return 0


def summary(group: str, path: Path) -> str:
    """The first sentence of the module that a YAML file configures."""
    if group == "dataset":
        if (first := path.read_text("utf-8").splitlines()[0]).startswith("# "):
            return first.removeprefix("# ")
        name = yaml.safe_load(path.read_text("utf-8"))["reader"]
        return _docstring(Path(__file__).parents[1] / "dataset" / "reader" / f"{name}.py")
    return _docstring(Path(__file__).parents[1] / "model" / f"{path.stem}.py")


def options(group: str, path: Path) -> list[list[str]]:
    """[option, default, type, meaning] of each key of a YAML file."""
    text = path.read_text("utf-8")
    tree = yaml.safe_load(text)
    kind, meanings = schema(group, tree), comments(text)
    return [
        [f"{group}.{key}", _shown(value), _type(kind, key), meanings.get(key, "")] for key, value in _leaves(tree, kind)
    ]


def schema(group: str, tree: dict[str, Any]) -> type:
    """The dataclass that types a YAML file of a group."""
    if group == "trainer":
        return TrainerConfig
    if group == "logger":
        return registry.get("logger", tree["name"]).Config
    return (
        registry.get("model", tree["name"]).Config
        if group == "model"
        else registry.get("reader", tree["reader"]).Config
    )


def comments(text: str) -> dict[str, str]:
    """The trailing comment of each dotted key of a YAML text."""
    found: dict[str, str] = {}
    parents: list[tuple[int, str]] = []
    for line in text.splitlines():
        if not (match := re.match(r"( *)([\w-]+):(.*)$", line)):
            continue
        indent, key, rest = len(match[1]), match[2], match[3]
        parents = [(depth, name) for depth, name in parents if depth < indent]
        dotted = ".".join([*(name for _, name in parents), key])
        parents.append((indent, key))
        if comment := re.search(r"\s# (.*)$", rest):
            found[dotted] = comment[1].strip()
    return found


def _leaves(tree: dict[str, Any], schema: type, prefix: str = "") -> list[tuple[str, Any]]:
    """Keys down to where the schema ends: a dict that is a value, such as loss_weights, is one option."""
    found = []
    types = {item.name: item.type for item in fields(schema)}
    for key, value in tree.items():
        inner = types.get(key)
        if isinstance(value, dict) and isinstance(inner, type) and is_dataclass(inner):
            found += _leaves(value, inner, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", value))
    return found


def _type(kind: Any, dotted: str) -> str:
    """A field's type in words; an enum's choices."""
    for name in dotted.split("."):
        kind = {item.name: item.type for item in fields(kind)}[name]
    members = [member for member in (kind, *get_args(kind)) if isinstance(member, type) and issubclass(member, Enum)]
    optional = type(None) in get_args(kind)
    if members and (optional or not get_args(kind)):
        return "|".join([*members[0].__members__, *(["null"] if optional else [])])
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind).replace("recexp.config.", "")


def _shown(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n...\n").strip()


def _docstring(path: Path) -> str:
    """The first line of a module's docstring, read without importing it."""
    import ast

    text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    return text.splitlines()[0] if text else ""
