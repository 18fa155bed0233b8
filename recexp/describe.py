"""Describes the options of a group's YAML files: default, type, and meaning, which is the trailing comment."""

import ast
import re
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, get_args

import yaml

from recexp import registry
from recexp.config import TRAINERS, TrainerConfig
from recexp.error import ConfigError, choices
from recexp.groups import conf_folder
from recexp.terminal import columns


def listing(group: str, arguments: list[str]) -> list[str]:
    """The lines of `recexp models` or `recexp datasets`: all files of a group, or the options of the one named.

    Raises ConfigError for a name that does not exist.
    """
    files = {path.stem: path for path in sorted((conf_folder() / group).glob("*.yaml"))}
    if not arguments:
        rows = [[name, summary(group, path)] for name, path in files.items()]
        return [*columns(rows), "", f"recexp {group}s NAME lists the options of one."]
    if len(arguments) > 1 or arguments[0] not in files:
        raise ConfigError(f"{group}s {' '.join(arguments)}: no such {group}. {choices(arguments[0], files)}")
    path = files[arguments[0]]
    header = ["option", "default", "type", "meaning"]
    return [f"{path.stem}: {summary(group, path)}", "", *columns([header, *options(group, path)])]


def summary(group: str, path: Path) -> str:
    """The first docstring line of the module that a YAML file configures, or a dataset file's opening comment."""
    if group == "model":
        return _docstring(Path(__file__).with_name("model") / f"{path.stem}.py")
    text = path.read_text("utf-8")
    if text.startswith("# "):
        return text.splitlines()[0].removeprefix("# ")
    return _docstring(Path(__file__).with_name("dataset") / "reader" / f"{yaml.safe_load(text)['reader']}.py")


def options(group: str, path: Path) -> list[list[str]]:
    """[option, default, type, meaning] of each key of a YAML file."""
    text = path.read_text("utf-8")
    tree = yaml.safe_load(text)
    config, meanings = schema(group, tree), comments(text)
    return [
        [f"{group}.{key}", shown(value), _type(config, key), meanings.get(key, "")]
        for key, value in _leaves(tree, config)
    ]


def schema(group: str, tree: dict[str, Any]) -> type:
    """The dataclass that types a YAML file of a group."""
    match group:
        case "trainer":
            return TRAINERS.get(tree["name"], TrainerConfig)
        case "dataset":
            return registry.get("reader", tree["reader"]).Config
        case "logger":
            return registry.get("logger", tree["name"]).Config
        case _:
            return registry.get("model", tree["name"]).Config


def comments(text: str) -> dict[str, str]:
    """The trailing comment of each dotted key of a YAML text."""
    meanings: dict[str, str] = {}
    parents: list[tuple[int, str]] = []
    for line in text.splitlines():
        if not (match := re.match(r"( *)([\w-]+):(.*)$", line)):
            continue
        indent, key, rest = len(match[1]), match[2], match[3]
        parents = [(depth, name) for depth, name in parents if depth < indent]
        dotted = ".".join([*(name for _, name in parents), key])
        parents.append((indent, key))
        if comment := re.search(r"\s# (.*)$", rest):
            meanings[dotted] = comment[1].strip()
    return meanings


def shown(value: Any) -> str:
    """A value as YAML, on one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n...\n").strip()


def _leaves(tree: dict[str, Any], config: type, prefix: str = "") -> list[tuple[str, Any]]:
    """(dotted key, value) as deep as dataclasses nest; a dict that is a value, such as loss_weights, is one option."""
    leaves = []
    types = {field.name: field.type for field in fields(config)}
    for key, value in tree.items():
        inner = types.get(key)
        if isinstance(value, dict) and isinstance(inner, type) and is_dataclass(inner):
            leaves += _leaves(value, inner, f"{prefix}{key}.")
        else:
            leaves.append((f"{prefix}{key}", value))
    return leaves


def _type(config: Any, dotted: str) -> str:
    """A field's type in words, or an enum's choices."""
    kind = config
    for name in dotted.split("."):
        kind = {field.name: field.type for field in fields(kind)}[name]
    enums = [part for part in (kind, *get_args(kind)) if isinstance(part, type) and issubclass(part, Enum)]
    optional = type(None) in get_args(kind)
    if enums and (optional or not get_args(kind)):
        return "|".join([*enums[0].__members__, *(["null"] if optional else [])])
    return (
        kind.__name__ if isinstance(kind, type) and not get_args(kind) else re.sub(r"recexp\.[\w.]*\.", "", str(kind))
    )


def _docstring(path: Path) -> str:
    """The first line of a module's docstring, read without importing it."""
    return (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").partition("\n")[0]
