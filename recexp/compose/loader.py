"""Hydra's loader, except that a mapping replaces the one below it, where Hydra would merge the two.

`model.loss_weights={target:1.0}` then means what it says, on the command line as in a YAML file. Groups of fixed keys,
such as trainer.ftrl, are merged as ever; `model.loss_weights.auxiliary=0`, `~key` and `+key={...}` change one part.
A user's file that is damaged or malicious gives an error that names it, before Hydra reads it.
"""

import contextlib
import copy
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from hydra._internal import hydra as internal
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import IConfigRepository
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.default_element import ResultDefault
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf

from recexp.error import ConfigError, first_line
from recexp.groups import MAPPING, conf_folder
from recexp.safe_yaml import parse_yaml
from recexp.storage import read_bytes

LABEL = "dataset.columns.label"  # a name, a list or a dict; the new value replaces one of any type
FEATURES = "dataset.features"
MULTIRUN = "hydra.mode=MULTIRUN"  # what Hydra adds to the overrides for -m
HYDRA_APPLY = ConfigLoaderImpl._apply_overrides_to_config


class Loader(ConfigLoaderImpl):
    def _load_configuration_impl(
        self, config_name: str | None, overrides: list[str], *arguments: Any, **named: Any
    ) -> DictConfig:
        self.sweeps = MULTIRUN in overrides
        # Hydra calls it by its class.
        ConfigLoaderImpl._apply_overrides_to_config = apply_overrides  # type: ignore[method-assign]
        try:
            return super()._load_configuration_impl(config_name, overrides, *arguments, **named)
        finally:
            ConfigLoaderImpl._apply_overrides_to_config = staticmethod(HYDRA_APPLY)  # type: ignore[method-assign]

    def _compose_config_from_defaults_list(self, defaults: list[ResultDefault], repo: IConfigRepository) -> DictConfig:
        self.loaded: list[Any] = []
        config = super()._compose_config_from_defaults_list(defaults, repo)
        if config.hydra.mode is RunMode.MULTIRUN and not self.sweeps:
            raise ConfigError("hydra.mode = MULTIRUN: a file does not make a command a sweep; write recexp -m.")
        for tree in self.loaded:
            _replace(config, "", tree)
        return config

    def _load_single_config(self, default: ResultDefault, repo: IConfigRepository) -> ConfigResult:
        result = super()._load_single_config(default, repo)
        if not (default.config_path or "").startswith("hydra/"):
            self.loaded.append(OmegaConf.to_container(result.config))
            _refuse_empty("", self.loaded[-1], f"{default.config_path}.yaml")
        return result


@contextlib.contextmanager
def own_loader() -> Iterator[None]:
    """Makes Hydra compose with recexp's loader, and only once: Hydra alone composes twice, first for hydra.mode."""

    def mode(self: Any, config_name: str | None, overrides: list[str]) -> RunMode | None:
        return RunMode.MULTIRUN if MULTIRUN in overrides else None

    loader, get_mode = internal.ConfigLoaderImpl, internal.Hydra.get_mode
    internal.ConfigLoaderImpl = Loader  # type: ignore[misc]
    internal.Hydra.get_mode = mode  # type: ignore[method-assign]
    try:
        yield
    finally:
        internal.ConfigLoaderImpl = loader  # type: ignore[misc]
        internal.Hydra.get_mode = get_mode  # type: ignore[method-assign]


def apply_overrides(overrides: list[Override], cfg: DictConfig) -> None:
    """Changes a configuration by overrides, one after another."""
    for override in overrides:
        key, value, typed = override.key_or_group, override.value(), override.input_line
        if not override.is_delete():
            _refuse_empty(key, value, str(typed))
        if override.is_add():
            _refuse_known(cfg, key, value, str(typed))
        elif not override.is_delete():
            _replace(cfg, key, value)
        HYDRA_APPLY([override], cfg)


def mappings(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The mapping options, by dotted key, in the value given for a key."""
    if key == LABEL or (isinstance(value, dict) and MAPPING.fullmatch(key)):
        yield key, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from mappings(f"{key}.{name}".lstrip("."), inner)


def _replace(config: DictConfig, key: str, value: Any) -> None:
    """Replaces a configuration's mappings, and its labels, by those in the value given for a key."""
    for path, mapping in mappings(key, value):
        parent, _, name = path.rpartition(".")
        node = OmegaConf.select(config, parent, throw_on_missing=False)
        if isinstance(node, DictConfig) and name in node and (path == LABEL or isinstance(node[name], DictConfig)):
            OmegaConf.update(config, path, mapping, merge=False)


def _refuse_empty(key: str, value: Any, source: str) -> None:
    """Raises ConfigError for dataset.features={}: merged as a group of fixed keys, it would leave all features."""
    if key == FEATURES and value == {}:
        empty = " ".join(f"{FEATURES}.{side}={{}}" for side in ("user", "item", "context"))
        raise ConfigError(f"{source}: {FEATURES} = {{}} changes nothing, as its keys are fixed; write {empty}.")
    if isinstance(value, dict) and FEATURES.startswith(key):
        for name, inner in value.items():
            _refuse_empty(f"{key}.{name}".lstrip("."), inner, source)


def _refuse_known(config: DictConfig, key: str, value: Any, typed: str) -> None:
    """Raises ConfigError for +key={...} that adds nothing to the mapping which is there."""
    for path, mapping in mappings(key, value):
        there = OmegaConf.select(config, path, throw_on_missing=False)
        if path == LABEL or not isinstance(there, DictConfig) or not isinstance(mapping, dict):
            continue
        if all(name in there and there[name] == entry for name, entry in mapping.items()):
            whole = f"{path}={typed.partition('=')[2]}" if path == key else f"{path}={{...}}"
            raise ConfigError(
                f"{typed}: changes nothing, as + adds to the entries that are there ({', '.join(map(str, there))}); "
                f"write {whole} for the whole mapping, or {path}.NAME=VALUE for one entry."
            )


@functools.cache
def guard_files() -> None:
    """Makes Hydra refuse users' files that are damaged or malicious, with errors that name the file.

    Files of recexp's own are parsed once, until they change.
    """
    Plugins.instance()  # registers the class that reads files
    reader: Any = SourcesRegistry.instance().resolve("file")
    load = reader.load_config
    known: dict[tuple[Path, int], Any] = {}

    def checked(source: Any, config_path: str) -> Any:
        path = Path(source.path, source._normalize_file_name(config_path))
        if not path.exists():
            return load(source, config_path)
        if path.is_relative_to(conf_folder().absolute()):
            version = path, path.stat().st_mtime_ns
            if version not in known:
                known[version] = load(source, config_path)
            return copy.deepcopy(known[version])
        try:
            tree = parse_yaml(read_bytes(path).decode())
            if not isinstance(tree, dict | None):
                raise ConfigError(f"{path}: must hold keys and values, as in embedding_dim: 16.")
            result = load(source, config_path)
            _root_plugins(result.config, path.parent)
            return result
        except RecursionError as error:
            raise ConfigError(f"{path}: is nested too deeply.") from error
        except (yaml.YAMLError, ValueError, OSError) as error:
            raise ConfigError(_yaml_fault(path, error)) from error

    reader.load_config = checked


def _root_plugins(config: Any, folder: Path) -> None:
    """Plugins that a file names are relative to its folder, wherever recexp is run."""
    if isinstance(plugins := config.get("plugins"), ListConfig):
        config.plugins = [os.path.normpath(folder / Path(str(path)).expanduser()) for path in plugins]


def _yaml_fault(path: Path, error: Exception) -> str:
    """What is wrong with a YAML file, and in which line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"{path}:{error.problem_mark.line + 1}: is not such YAML as recexp reads: {error.problem}."
    return f"{path}: cannot be read: {first_line(error)}."
