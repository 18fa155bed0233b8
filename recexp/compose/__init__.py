"""Composes overrides into a configuration. Only this folder and hydra_plugins/ know Hydra."""

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recexp import advice
from recexp.error import ConfigError, UserError, choices
from recexp.groups import GROUPS, conf_folder, options
from recexp.safe_yaml import parse_yaml

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from omegaconf import DictConfig

    from recexp.config import Config

CONFIG_DIR = "RECEXP_CONFIG_DIR"  # environment variable: the folder of --config-dir where that is not given


def load_config(overrides: list[str] | None = None, config_dir: str | None = None) -> "Config":
    """The checked configuration of some overrides, as the command line composes it.

    Raises ConfigError.
    """
    from recexp.validate import check

    if isinstance(overrides, str):
        raise ConfigError(f"load_config: takes a list of overrides, as [{overrides!r}].")
    raw, folders = compose(overrides or [], config_dir)
    return check(raw, model_file(raw, folders))


def compose(
    overrides: list[str], config_dir: str | None = None, hydra_node: bool = False
) -> "tuple[DictConfig, list[Path]]":
    """The composed configuration, and the folders of YAML files it comes from. Raises ConfigError."""
    import hydra

    check_overrides(overrides)
    search, folders = search_path(config_dir)
    with _hydra(overrides, config_dir):
        return hydra.compose("config", [*overrides, *search], return_hydra_config=hydra_node), folders


def parse(override: str) -> tuple[str, Any]:
    """The key of an override, and its value as Hydra reads it."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_override(override)
    return parsed.key_or_group, parsed.value()


def changed(tree: dict[str, Any], overrides: list[str]) -> "DictConfig":
    """A composed configuration, changed by overrides. An override of a group replaces the whole group.

    Raises ConfigError.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    from recexp.compose.loader import apply_overrides

    check_overrides(overrides)
    for word in overrides:
        if word.lstrip("+~").partition("=")[0].split(".")[0] in (*advice.ADDED, "hydra"):
            raise ConfigError(f"{word}: is no key of a run's configuration; give the keys to change.")
    raw = OmegaConf.create(tree)
    OmegaConf.set_struct(raw, True)
    chosen = [word for word in overrides if word.partition("=")[0] in GROUPS]
    if chosen:
        composed, _ = compose(chosen)
        for word in chosen:
            group = word.partition("=")[0]
            raw[group] = composed[group]
    try:
        parsed = OverridesParser.create().parse_overrides([word for word in overrides if word not in chosen])
        for override in parsed:
            if override.is_sweep_override():
                raise ConfigError(f"{override.input_line}: is for a sweep, recexp -m; here it takes one value.")
        apply_overrides(parsed, raw)
    except UserError:
        raise
    except Exception as error:
        raise advice.one_line(advice.Refused(error, overrides, None, lambda _: raw)) from error
    return raw


def defaults_list(overrides: list[str], config_dir: str | None = None) -> list[tuple[str, str]]:
    """(file without .yaml, its package) of all files of a composition, in the order they are merged."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode

    search, _ = search_path(config_dir)
    with _hydra(overrides, config_dir):
        loader = GlobalHydra.instance().config_loader()
        defaults = loader.compute_defaults_list("config", [*overrides, *search], RunMode.RUN).defaults
    files = [(default.config_path, default.package or "") for default in defaults if default.config_path]
    return [(path, package) for path, package in files if not path.startswith("hydra/")]


def split_flags(arguments: list[str]) -> tuple[list[str], str | None]:
    """A verb's arguments without --config-dir DIR, and DIR. Raises ConfigError for any other flag."""
    words, config_dir = [], os.environ.get(CONFIG_DIR)
    rest = iter(arguments)
    for word in rest:
        flag, _, value = word.partition("=")
        if flag in ("--config-dir", "-cd"):
            config_dir = value or next(rest, None)
            if config_dir is None:
                raise ConfigError(f"{word}: needs a directory.")
        elif word.startswith("-"):
            raise ConfigError(f"{word}: no such flag here. {choices(word, ['--config-dir'])}")
        else:
            words.append(word)
    return words, config_dir


def search_path(config_dir: str | None) -> tuple[list[str], list[Path]]:
    """Hydra's override that adds the user's folder, and all folders of YAML files. Raises ConfigError."""
    if config_dir is None:
        return [], [conf_folder()]
    folder = Path(config_dir).absolute()
    if not folder.is_dir():
        raise ConfigError(f"--config-dir = {config_dir}: no such directory.")
    if not any((folder / group).is_dir() for group in GROUPS):
        raise ConfigError(
            f"--config-dir = {config_dir}: nothing there would be read; it needs a folder {', '.join(GROUPS[:-1])} or "
            f"{GROUPS[-1]} of YAML files."
        )
    return [f"hydra.searchpath=['file://{folder}']"], [folder, conf_folder()]


@contextlib.contextmanager
def _hydra(overrides: list[str], config_dir: str | None) -> Iterator[None]:
    """Hydra initialised on our folder, its errors as one line, and its earlier state restored afterwards."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    from recexp.compose.loader import guard_files, own_loader

    guard_files()
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with own_loader(), hydra.initialize_config_dir(str(conf_folder().absolute()), version_base="1.3"):
            yield
    except UserError:
        raise
    except Exception as error:
        raise one_line(error, overrides, config_dir) from error
    finally:
        GlobalHydra.instance().hydra = before


def check_composed(raw: "DictConfig") -> "tuple[Config, list[str]]":
    """The configuration that Hydra has composed for this process, checked, and its overrides. Raises ConfigError."""
    from hydra.core.hydra_config import HydraConfig

    from recexp.validate import check

    composed = HydraConfig.get()
    if name := composed.runtime.choices.get("sweep"):
        raise ConfigError(f"+sweep={name}: is a search of many runs; write recexp -m +sweep={name}.")
    return check(raw, model_file(raw, yaml_folders(composed))), list(composed.overrides.task)


def compose_job(
    loader: "ConfigLoader", config: "DictConfig", overrides: list[str], number: int = 0, threads: int | None = None
) -> "Config":
    """The checked configuration of a sweep's job. number: the value of ${hydra:job.num}. threads: as in check.

    Raises ConfigError, or what Hydra raises.
    """
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import open_dict

    from recexp.validate import check

    raw = loader.load_sweep_config(config, overrides)
    folders = yaml_folders(raw.hydra)
    outside = HydraConfig.instance().cfg
    with open_dict(raw):
        raw.hydra.job.num, raw.hydra.job.id = number, str(number)
        HydraConfig.instance().set_config(raw)  # what ${hydra:...} refers to
        del raw["hydra"]
    try:
        return check(raw, model_file(raw, folders), threads)
    finally:
        HydraConfig.instance().cfg = outside


def yaml_folders(composed: Any) -> list[Path]:
    """The folders of YAML files that Hydra searched, from its own node of a configuration."""
    return [Path(source.path) for source in composed.runtime.config_sources if source.schema == "file"]


def model_file(raw: "DictConfig", folders: list[Path]) -> "dict[str, Any] | None":
    """The content of the model's own YAML file; None if no folder has it."""
    for folder in folders:
        path = folder / "model" / f"{raw.model.get('name')}.yaml" if "model" in raw else folder
        if path.is_file():
            return parse_yaml(path.read_text("utf-8"))
    return None


def check_overrides(overrides: Sequence[str]) -> None:
    """Raises ConfigError for overrides that Hydra would accept but interpret in a surprising way."""
    for override in overrides:
        key, sign, value = override.partition("=")
        if sign and not key.lstrip("+~"):
            raise ConfigError(f"{override}: has no key before the =; an override is like model=din.")
        if key.lstrip("+~") == "hydra":
            raise ConfigError(f"{override}: Hydra's own options are set one by one, as in hydra.verbose=true.")
        if key.lstrip("+") in GROUPS and re.fullmatch(r"null|[\d.+-]*|\{.*\}", value) and sign:
            group = key.lstrip("+")
            raise ConfigError(f"{override}: takes the name of a {group}. {choices(value, options(group))}")
        if key.lstrip("+") in GROUPS and value.startswith("["):
            raise ConfigError(
                f"{override}: a group takes one choice; for a run of each write -m {key}={value.strip('[]')}."
            )


def one_line(error: Exception, overrides: Sequence[str], config_dir: str | None = None) -> ConfigError:
    """Hydra's error as one line: what is wrong, and what would be right."""
    return advice.one_line(
        advice.Refused(error, overrides, config_dir, lambda chosen: compose(chosen, config_dir, hydra_node=True)[0])
    )
