"""The user's own models and readers."""

import importlib.metadata
import importlib.util
import sys
from collections.abc import Collection
from pathlib import Path

from recexp.error import ConfigError


def load(paths: Collection[str]) -> None:
    """Imports the user's own models and readers: entry points of the group `recexp.plugins`, then files.

    Raises ConfigError for one that is missing or fails on import.
    """
    for entry in importlib.metadata.entry_points(group="recexp.plugins"):
        try:
            entry.load()
        except (Exception, SystemExit) as error:
            raise ConfigError(f"plugin {entry.name} ({entry.value}): {_fault(error)}") from error
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
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ConfigError(f"plugins = {path}: {_fault(error)}") from error


def _fault(error: BaseException) -> str:
    return f"fails on import: {type(error).__name__}: {error}"
