"""Composes overrides into a configuration. Only this file, loader.py and hydra_plugins/ know Hydra."""

import argparse
import contextlib
import copy
import functools
import io
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from recexp.error import QUOTED_KEY, ConfigError, UserError, choices, key_of_mapping, unquoted_keys
from recexp.error import override as pasted
from recexp.groups import GROUPS, conf_folder, options
from recexp.storage import parse_yaml, read_bytes

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from omegaconf import DictConfig

    from recexp.config import Config

OWN = ("hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none")
CONFIG_DIR = "RECEXP_CONFIG_DIR"  # environment variable: the folder of --config-dir where that is not given
# Where a user adds keys of their own.
OPEN = ("dataset.features.user.", "dataset.features.item.", "dataset.features.context.", "model.loss_weights.",
        "logger.tags.")  # fmt: skip
# What Hydra says of a key that is not there, or that + would add and that is.
ABOUT_A_KEY = (r"Could not override '([^']+)'", r"Key '([^']+)' is not in struct",
               r"Could not append to config. An item is already at '([^']+)'")  # fmt: skip
ADDED = ("experiment", "sweep")  # optional groups: absent from a configuration unless added
SPACED = "; one that holds a space stands in quotes, as 'run.name=my run'"
IN_A_FILE = (
    "a name with such characters stands in a YAML file: recexp inspect FILE --write NAME makes one of your data."
)
EXTRAS = {"submitit_slurm": "slurm", "submitit_local": "slurm"}  # Hydra's plugins: recexp's extra that installs them


def load_config(overrides: list[str] | None = None, config_dir: str | None = None) -> "Config":
    """The checked configuration of some overrides, as the command line composes it.

    Raises ConfigError.
    """
    from recexp.validate import check

    raw, folders = compose(overrides or [], config_dir)
    return check(raw, model_file(raw, folders))


def compose(
    overrides: list[str], config_dir: str | None = None, hydra_node: bool = False
) -> "tuple[DictConfig, list[Path]]":
    """The composed configuration, and the folders of YAML files it comes from. Raises ConfigError."""
    import hydra

    check_overrides(overrides)
    search, folders = _search(config_dir)
    with _hydra(overrides, config_dir):
        return hydra.compose("config", [*overrides, *search], return_hydra_config=hydra_node), folders


def parse(override: str) -> tuple[str, Any]:
    """The key of an override, and its value as Hydra reads it."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_override(override)
    return parsed.key_or_group, parsed.value()


def changed(tree: dict[str, Any], overrides: list[str]) -> "DictConfig":
    """A configuration that was composed before, changed by overrides; a group gets all of its new choice.

    Raises ConfigError.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    from recexp.loader import apply_overrides

    check_overrides(overrides)
    for word in overrides:
        if word.lstrip("+~").partition("=")[0].split(".")[0] in (*ADDED, "hydra"):
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
        raise one_line(error, overrides) from error
    return raw


def defaults_list(overrides: list[str], config_dir: str | None = None) -> list[tuple[str, str]]:
    """(file without .yaml, its package) of all files of a composition, in the order they are merged."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode

    search, _ = _search(config_dir)
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


def _search(config_dir: str | None) -> tuple[list[str], list[Path]]:
    """Hydra's override that adds the user's folder, and all folders of YAML files."""
    if config_dir is None:
        return [], [conf_folder()]
    folder = _own_folder(config_dir)
    if not any((folder / group).is_dir() for group in GROUPS):
        raise ConfigError(
            f"--config-dir = {config_dir}: nothing there would be read; it needs a folder {', '.join(GROUPS[:-1])} or "
            f"{GROUPS[-1]} of YAML files."
        )
    return [f"hydra.searchpath=['file://{folder}']"], [folder, conf_folder()]


def _own_folder(config_dir: str) -> Path:
    """Raises ConfigError unless it is a directory."""
    folder = Path(config_dir).absolute()
    if not folder.is_dir():
        raise ConfigError(f"--config-dir = {config_dir}: no such directory.")
    return folder


def parse_flags(flags: Sequence[str]) -> argparse.Namespace:
    """Hydra's flags by name. Raises ConfigError for one that it has not, and for one that recexp would not heed."""
    from hydra._internal.utils import get_args_parser

    parser = get_args_parser()
    parser.exit_on_error = parser.allow_abbrev = False
    try:
        typed, unknown = parser.parse_known_args(list(flags))
    except argparse.ArgumentError as error:
        raise ConfigError(f"{str(error).removeprefix('argument ')} (recexp --hydra-help).") from error
    if other := [*unknown, *typed.overrides]:
        names = [name for action in parser._actions for name in action.option_strings]
        hint = (
            choices(other[0], names) if other[0].startswith("-") else f"An override has a =, as in model=din{SPACED}."
        )
        raise ConfigError(f"{other[0]!r}: neither a flag nor an override. {hint}")
    if typed.config_path or typed.experimental_rerun:
        name = "--config-path" if typed.config_path else "--experimental-rerun"
        raise ConfigError(f"{name}: is not for recexp; --config-dir DIR adds a folder of YAML files of your own.")
    if typed.package and not typed.cfg:
        raise ConfigError(f"--package {typed.package}: says what --cfg shows, so give that too.")
    if typed.config_name in ("config", "config.yaml"):
        raise ConfigError(
            "--config-name config: is recexp's own root file, whatever folder you add; call yours by another name."
        )
    if typed.config_dir is not None and typed.config_name is None:
        _search(typed.config_dir)
    return typed


def _set_defaults() -> None:
    """Makes recexp's launcher the default under -m and puts the gate before any launcher, also with -cn."""
    from hydra.conf import HydraConf
    from hydra.core.config_store import ConfigStore

    node = HydraConf(callbacks={"recexp": {"_target_": "hydra_plugins.recexp_launcher.gate.Gated"}})
    node.defaults = [{"launcher": "processes"} if "launcher" in default else default for default in node.defaults]
    ConfigStore.instance().store(group="hydra", name="config", node=node, provider="hydra")


@contextlib.contextmanager
def _hydra(overrides: list[str], config_dir: str | None) -> Iterator[None]:
    """Hydra initialised on our folder, its errors as one line, and its earlier state restored afterwards."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    _guard_files()
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with _own_loader(), hydra.initialize_config_dir(str(conf_folder().absolute()), version_base="1.3"):
            yield
    except UserError:
        raise
    except Exception as error:
        raise one_line(error, overrides, config_dir) from error
    finally:
        GlobalHydra.instance().hydra = before


@contextlib.contextmanager
def _own_loader() -> Iterator[None]:
    """Has Hydra compose with recexp's loader, and only once: it would compose all before for hydra.mode alone."""
    from hydra._internal import hydra as internal
    from hydra.types import RunMode

    from recexp.loader import SWEEPS, Loader

    def mode(self: Any, config_name: str | None, overrides: list[str]) -> RunMode | None:
        return RunMode.MULTIRUN if SWEEPS in overrides else None

    loader, get_mode = internal.ConfigLoaderImpl, internal.Hydra.get_mode
    internal.ConfigLoaderImpl = Loader  # type: ignore[misc]
    internal.Hydra.get_mode = mode  # type: ignore[method-assign]
    try:
        yield
    finally:
        internal.ConfigLoaderImpl = loader  # type: ignore[misc]
        internal.Hydra.get_mode = get_mode  # type: ignore[method-assign]


def call_hydra(
    task: "Callable[[DictConfig], Any]", own: Sequence[str], overrides: Sequence[str], flags: Sequence[str]
) -> None:
    """Runs Hydra with the user's overrides and our own; Hydra calls the task. Raises ConfigError."""
    import hydra

    _set_defaults()
    _guard_files()
    typed = parse_flags(flags)
    if typed.shell_completion:
        own = []
    else:
        check_overrides(overrides)
    # Overrides first: the argument parser takes them only in one uninterrupted sequence.
    sys.argv = [sys.argv[0], *own, *overrides, *flags]
    full_error = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises, and `run` prints
    try:
        hushed = contextlib.redirect_stderr(io.StringIO()) if typed.package else contextlib.nullcontext()
        with _own_loader(), hushed:
            hydra.main(version_base="1.3", config_path=str(conf_folder().absolute()), config_name="config")(task)()
    except SystemExit as error:  # after a line of Hydra's own
        if typed.package and error.code:
            raise ConfigError(f"--package {typed.package}: no such part of the configuration.") from error
        raise
    except Exception as error:
        if not isinstance(error, UserError) and _by_hydra(error):
            raise one_line(error, overrides, typed.config_dir) from error
        raise
    finally:
        os.environ.pop("HYDRA_FULL_ERROR")
        if full_error is not None:
            os.environ["HYDRA_FULL_ERROR"] = full_error


def _by_hydra(error: Exception) -> bool:
    """Whether Hydra raised it, some of its own kinds or, while it composes, any."""
    if type(error).__module__.startswith(("hydra", "omegaconf")):
        return True
    modules = (frame.f_globals.get("__name__") for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(name in ("hydra._internal.config_loader_impl", "hydra._internal.defaults_list") for name in modules)


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


@functools.cache
def _guard_files() -> None:
    """From now on Hydra reads no file of a user's that is damaged or a trap, and errors name the file.

    Files of recexp's own are parsed once, until they change.
    """
    from hydra._internal.sources_registry import SourcesRegistry
    from hydra.core.plugins import Plugins

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
        except (yaml.YAMLError, ValueError, OSError) as error:
            raise ConfigError(_yaml_fault(path, error)) from error

    reader.load_config = checked


def _root_plugins(config: Any, folder: Path) -> None:
    """Plugins that a file names are relative to its folder, wherever recexp is run."""
    from omegaconf import ListConfig

    if isinstance(plugins := config.get("plugins"), ListConfig):
        config.plugins = [os.path.normpath(folder / Path(str(path)).expanduser()) for path in plugins]


def _yaml_fault(path: Path, error: Exception) -> str:
    """What is wrong with a YAML file, and in which line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"{path}:{error.problem_mark.line + 1}: is not such YAML as recexp reads: {error.problem}."
    return f"{path}: cannot be read: {str(error).splitlines()[0]}."


def one_line(error: Exception, overrides: Sequence[str], config_dir: str | None = None) -> ConfigError:
    """Hydra's error as one line: what is wrong, and what would be right."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines)
    if match := re.search(r"Could not find '([\w/]+)/([^']+)'", text):
        group, name = match.groups()
        if name in EXTRAS:
            return ConfigError(f"{group} = {name}: is not installed; pip install 'recexp[{EXTRAS[name]}]'")
        names = re.findall(r"^\t(\w+)$", str(error), re.MULTILINE) if group.startswith("hydra/") else options(group)
        if config_dir:
            names = [*names, *(path.stem for path in Path(config_dir, group).glob("*.yaml"))]
        return ConfigError(f"{group} = {name}: no such {group.split('/')[-1]}. {choices(name, names)}")
    if match := next(filter(None, (re.search(pattern, text) for pattern in ABOUT_A_KEY)), None):
        key = match[1]
        typed = next((word for word in overrides if word.split("=")[0].lstrip("+~") == key), key)
        if key in ADDED or key.startswith(OPEN):
            return ConfigError(f"{typed}: no such key yet; write +{typed} to add it.")
        if hint := _of_some_models(typed, key, overrides, config_dir):
            return ConfigError(hint)
        if "append" in match[0]:
            return ConfigError(f"{typed}: is there already; leave out the +.")
        chosen = [word for word in overrides if re.fullmatch(rf"(\+?({'|'.join(GROUPS)})|hydra/\w+)=[\w-]+", word)]
        if chosen == [*overrides]:  # composing them fails just so
            return ConfigError(
                f"{lines[0].rstrip('.')}; a file of experiment/ or sweep/ begins with # @package _global_."
            )
        return ConfigError(f"{typed}: unknown key. {nearest_key(key, compose(chosen, config_dir, hydra_node=True)[0])}")
    if isinstance(error, RecursionError):
        return ConfigError("a YAML file is nested too deeply, or the defaults of some name one another in a circle.")
    if type(error).__name__ == "OverrideParseException":
        typed = getattr(error, "override", None) or " ".join(overrides)
        key, _, value = typed.partition("=")
        wrong = f"{typed}: is not in the grammar of Hydra's overrides; "
        if open_key := next((start for start in OPEN if key.lstrip("+").startswith(start)), None):
            name = key_of_mapping(key.lstrip("+").removeprefix(open_key).strip("'\""))
            written = name and shlex.quote(f"+{open_key.rstrip('.')}={{{name}:{value}}}")
            return ConfigError(f"{wrong}write {written}." if written else f"{wrong}{IN_A_FILE}")
        if QUOTED_KEY.search(typed):
            written = unquoted_keys(typed)
            right = f"the keys of a mapping have no quotes: write {written}." if written else IN_A_FILE
            return ConfigError(f"{wrong}{right}")
        if f"{key.lstrip('+')}." in OPEN and value.startswith("{") and "Lexer" in lines[0]:
            return ConfigError(f"{wrong}{IN_A_FILE}")
        if value and not re.search(r"""[\[{(,'"$]""", value):
            return ConfigError(f"{wrong}write {pasted(key, value)}.")
        advice = (
            "in the grammar of Hydra's overrides; quote values that hold spaces, commas or brackets, and in names of "
        )
        advice += "a mapping put a \\ before each"
        return ConfigError(f"{typed}: {lines[0]} ({advice})")
    return ConfigError(lines[0] if lines else type(error).__name__)


def _of_some_models(typed: str, key: str, overrides: Sequence[str], config_dir: str | None) -> str:
    """What to do about an option that some of the models of a sweep lack; nothing if it is not that."""
    swept = next((word.partition("=")[2].split(",") for word in overrides if re.match(r"\+*model=.*,", word)), [])
    group, _, option = key.partition(".")
    if group != "model" or not swept:
        return ""
    folders = [Path(config_dir), conf_folder()] if config_dir else [conf_folder()]
    files = {
        name: next(filter(Path.is_file, (folder / f"model/{name}.yaml" for folder in folders)), None) for name in swept
    }
    having = [
        name for name, path in files.items() if path and option.split(".")[0] in parse_yaml(path.read_text("utf-8"))
    ]
    if not having or len(having) == len(swept):
        return ""
    lacking = ", ".join(name for name in swept if name not in having)
    return (
        f"{typed}: {lacking} lacks this option; sweep those that have it by themselves: -m model={','.join(having)} ..."
    )


def nearest_key(key: str, raw: "DictConfig") -> str:
    """The nearest of all dotted keys of a configuration, and the keys beside it."""
    import difflib

    from recexp.tree import flat

    keys = [*(name for name, _ in flat(raw) if not name.endswith("_target_")), *GROUPS]
    near = difflib.get_close_matches(key, keys, n=1, cutoff=0.6)
    parent = key.rpartition(".")[0]
    beside = [other for other in keys if other.rpartition(".")[0] == parent] or [*raw, "experiment"]
    text = choices(key, beside)
    return text if text.startswith("Did") or not near else f"Did you mean '{near[0]}'? {text}"
