"""Maps names to classes. A name's module is imported when it is first used, so listing names imports nothing heavy."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

from recexp.error import ConfigError, choices

Kind = Literal["model", "reader", "trainer", "logger"]
PACKAGES: dict[Kind, str] = {
    "model": "recexp.model",
    "reader": "recexp.dataset.reader",
    "trainer": "recexp.trainer",
    "logger": "recexp.logger",
}
T = TypeVar("T", bound=type)

_registered: dict[tuple[Kind, str], type] = {}


def register(name: str, kind: Kind = "model") -> Callable[[T], T]:
    """Class decorator: registers the class under `name` among its kind.

    Raises ConfigError if another class already has the name.
    """

    def add(cls: T) -> T:
        first = _registered.setdefault((kind, name), cls)
        if (first.__module__, first.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ConfigError(
                f"{kind} '{name}' is registered twice: {first.__module__}.{first.__qualname__} and "
                f"{cls.__module__}.{cls.__qualname__}."
            )
        _registered[kind, name] = cls
        return cls

    return add


def names(kind: Kind) -> list[str]:
    """All names of a kind: recexp's own files, and those that plugins have registered."""
    built_in = {
        path.stem for path in _folder(kind).glob("*.py") if f'@register("{path.stem}"' in path.read_text("utf-8")
    }
    return sorted(built_in | {name for registered, name in _registered if registered == kind})


def get(kind: Kind, name: str, key: str | None = None) -> Any:
    """The class registered under a name; `key` is the config key that held the name, for the error.

    Raises ConfigError for an unknown name.
    """
    if (kind, name) not in _registered:
        if name not in names(kind):
            raise ConfigError(f"{key or kind} = {name!r}: no such {kind}. {choices(name, names(kind))}")
        importlib.import_module(f"{PACKAGES[kind]}.{name}")
    return _registered[kind, name]


def _folder(kind: Kind) -> Path:
    return Path(__file__).parent.joinpath(*PACKAGES[kind].split(".")[1:])
