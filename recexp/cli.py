"""The command line: verbs, and Hydra for everything with a `=`. No other file knows how a configuration is composed."""

import contextlib
import ctypes
import functools
import importlib
import logging
import os
import re
import sys
import textwrap
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recexp.error import ConfigError, Terminated, UserError, choices

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from recexp.config import Config
    from recexp.sweep import Sweep

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
KEPT_BYTES, KEPT_BYTES_AT_MOST = 2**28, 2**25  # blocks up to here are kept; the second is what older versions allow
OWN = ("hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none")
# Where a user adds keys of their own.
OPEN = ("dataset.features.user.", "dataset.features.item.", "dataset.features.context.", "model.loss_weights.")
GROUPS = ("model", "dataset", "trainer", "experiment")
VERBS = {  # name: (module, function, arguments, what it does)
    "models": ("recexp.catalogue", "models", "[NAME]", "all models, or one's options: type, default, meaning"),
    "datasets": ("recexp.catalogue", "datasets", "[NAME]", "all datasets, or one's options"),
    "check": ("recexp.check", "check", "[override...]", "tries on a model what must hold for any, one's own too"),
    "explain": (
        "recexp.explain",
        "explain",
        "KEY [override...]",
        "the value of a key, and which file or override set it",
    ),
    "runs": ("recexp.run.show", "runs", "[DIR...]", "the run directories below DIR (outputs)"),
    "show": ("recexp.run.show", "show", "RUN", "one run: its configuration, epochs and figures"),
    "resume": ("recexp.cli", "resume", "RUN", "goes on with an interrupted run"),
}
HELP = """recexp: config-driven experiments for deep recommender models.

Composes a model, a dataset and a trainer from YAML files, trains, evaluates, and writes one run directory.

  recexp [key=value ...]          train; NAME for a group, a value for a key
  recexp -m key=1,2,3 [...]       a sweep: one run for each combination
  recexp VERB [...]               one of the verbs below

groups
{groups}

verbs
{verbs}

examples
  recexp model=dien trainer.epochs=5
  recexp model=din dataset=csv dataset.path=log.csv dataset.columns.user=uid
  recexp -m model=deepfm,din seed=0,1,2
  recexp check model=din plugins=[my_model.py]

flags (Hydra's): --cfg job --resolve shows the configuration, --config-dir DIR adds a folder of YAML files,
-sc install=bash completes on the command line, --info, --hydra-help, --version.
Exit codes: 0 done, 1 a run failed, 2 a mistake in what was typed, 130 and 143 interrupted (go on: recexp resume RUN).
"""


def main() -> None:
    """The entry point of the command `recexp`."""
    own_process()
    sys.exit(run(sys.argv[1:]))


def own_process() -> None:
    """Settings of a process that does nothing but train; before torch is imported, which reads some once."""
    # Waiting threads of OpenMP spin for milliseconds by default: as soon as others use the cores too, a run becomes ten
    # times slower. Microseconds are enough to keep its speed on cores of its own.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    # glibc gives freed blocks of some 100 KB back to the system, and faults new ones in page by page in the next step:
    # a fifth of DIN's time. Other C libraries have no mallopt, or one that does nothing.
    if mallopt := getattr(ctypes.CDLL(None) if os.name == "posix" else None, "mallopt", None):
        for parameter in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            mallopt(parameter, KEPT_BYTES) or mallopt(parameter, KEPT_BYTES_AT_MOST)


def run(arguments: list[str]) -> int:
    """Does what the arguments say; returns the exit code. A user's mistake is one line on stderr."""
    full = bool(os.environ.get("HYDRA_FULL_ERROR", "") not in ("", "0"))
    try:
        return _dispatch(arguments)
    except UserError as error:
        if full:
            traceback.print_exc()
        print(f"recexp: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("recexp: interrupted", file=sys.stderr)
        return 130
    except Terminated:
        print("recexp: terminated", file=sys.stderr)
        return 143
    except BrokenPipeError:  # the reader of our output, such as head, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception:
        traceback.print_exc()
        return 1


def _dispatch(arguments: list[str]) -> int:
    first = arguments[0] if arguments else ""
    if first in ("-h", "--help", "help"):
        print(help_text(), end="")
        return 0
    if first == "--version":
        from importlib.metadata import version

        print(version("recexp"))
        return 0
    if re.fullmatch(r"[a-z]+", first):
        if first not in VERBS:
            raise ConfigError(f"{first}: no such verb. {choices(first, VERBS)} An override has a =, as in model=din.")
        module, function, *_ = VERBS[first]
        log_to_terminal()
        return getattr(importlib.import_module(module), function)(arguments[1:])
    return train(arguments)


def help_text() -> str:
    groups = "\n".join(
        textwrap.fill(", ".join(_options(group)), 110, initial_indent=f"  {group:11} ", subsequent_indent=" " * 14)
        for group in GROUPS
        if _options(group)
    )
    verbs = "\n".join(f"  {verb + ' ' + usage:30}  {text}" for verb, (_, _, usage, text) in VERBS.items())
    return HELP.format(groups=groups, verbs=verbs)


def conf_folder() -> Path:
    """The folder of the YAML files: inside the package when installed, beside it in a checkout."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "conf"


def load_config(overrides: list[str] | None = None, config_dir: str | None = None) -> "Config":
    """The checked configuration of some overrides, as the command line composes it.

    Raises ConfigError.
    """
    from recexp.validate import check

    raw, folders = compose(overrides or [], config_dir)
    return check(raw, model_file(raw, folders))


def compose(overrides: list[str], config_dir: str | None = None) -> "tuple[DictConfig, list[Path]]":
    """The composed configuration, and the folders of YAML files it comes from. Raises ConfigError."""
    import hydra

    check_overrides(overrides)
    search, folders = _search(config_dir)
    with _hydra(overrides):
        return hydra.compose("config", [*overrides, *search]), folders


def defaults_list(overrides: list[str], config_dir: str | None = None) -> list[tuple[str, str]]:
    """(file without .yaml, package it goes to) of all files of a composition, in the order they are merged."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode

    search, _ = _search(config_dir)
    with _hydra(overrides):
        loader = GlobalHydra.instance().config_loader()
        found = loader.compute_defaults_list("config", [*overrides, *search], RunMode.RUN).defaults
    files = [(each.config_path, each.package or "") for each in found if each.config_path]
    return [(path, package) for path, package in files if not path.startswith("hydra/")]


def split_flags(arguments: list[str]) -> tuple[list[str], str | None]:
    """A verb's arguments without --config-dir DIR, and DIR. Raises ConfigError for any other flag."""
    words, config_dir = [], None
    left = iter(arguments)
    for word in left:
        flag, _, value = word.partition("=")
        if flag in ("--config-dir", "-cd"):
            config_dir = value or next(left, "")
        elif word.startswith("-"):
            raise ConfigError(f"{word}: no such flag here. {choices(word, ['--config-dir'])}")
        else:
            words.append(word)
    return words, config_dir


def _search(config_dir: str | None) -> tuple[list[str], list[Path]]:
    """Hydra's override for a folder of the user's, and all folders of YAML files."""
    if config_dir is None:
        return [], [conf_folder()]
    folder = Path(config_dir).absolute()
    if not folder.is_dir():
        raise ConfigError(f"--config-dir = {config_dir}: no such directory.")
    return [f"hydra.searchpath=[file://{folder}]"], [folder, conf_folder()]


@contextlib.contextmanager
def _hydra(overrides: list[str]) -> Iterator[None]:
    """Hydra initialised on our folder, its errors as one line, and whatever it was before restored."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(conf_folder().absolute()), version_base="1.3"):
            yield
    except UserError:
        raise
    except Exception as error:
        raise one_line(error, overrides) from error
    finally:
        GlobalHydra.instance().hydra = before


def train(arguments: list[str]) -> int:
    """Hands the arguments to Hydra, whole, and trains what it composes: one run, or a sweep of them."""
    import hydra

    from recexp.sweep import FirstJobMistaken, Sweep

    overrides = [word for word in arguments if re.match(r"[^-=][^=]*=|~", word)]
    flags = [word for word in arguments if word not in overrides]
    multirun = any(word in ("-m", "--multirun") for word in flags)
    sweep = Sweep(overrides) if multirun else None
    if not any(word in ("-sc", "--shell-completion", "--shell_completion") for word in flags):
        check_overrides(overrides)
        own = [*OWN, *(sweep.hydra_overrides() if sweep else [])]
        # Overrides first: the argument parser takes one uninterrupted row of them.
        arguments = [*own, *overrides, *flags]
    sys.argv = [sys.argv[0], *arguments]
    full_error = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises, and `run` prints
    try:
        once = Once()
        job = once.job if sweep is None else functools.partial(_job_of, sweep)
        hydra.main(version_base="1.3", config_path=str(conf_folder().absolute()), config_name="config")(job)()
    except FirstJobMistaken as error:
        assert sweep is not None
        sweep.discard()
        raise error.mistake from None
    except Exception as error:
        if sweep and not sweep.jobs:
            sweep.discard()
        if not isinstance(error, UserError) and type(error).__module__.startswith(("hydra", "omegaconf")):
            raise one_line(error, overrides) from error
        raise
    finally:
        os.environ.pop("HYDRA_FULL_ERROR")
        if full_error is not None:
            os.environ["HYDRA_FULL_ERROR"] = full_error
    return sweep.finish() if sweep else once.finish()


def _job_of(sweep: "Sweep", raw: "DictConfig") -> float | None:
    from hydra.core.hydra_config import HydraConfig

    job = HydraConfig.get()
    return sweep.job(job.job.num, list(job.overrides.task), lambda: _checked(raw), _trained)


class Once:
    """One job. Its error is kept and raised after Hydra is done, which would print a line of its own."""

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def job(self, raw: "DictConfig") -> float | None:
        try:
            return _trained(_checked(raw))
        except BaseException as error:
            self.error = error
            return None

    def finish(self) -> int:
        if self.error:
            raise self.error
        return 0


def _checked(raw: "DictConfig") -> "Config":
    """The configuration that Hydra has composed for this job."""
    from hydra.core.hydra_config import HydraConfig

    from recexp.validate import check

    sources = HydraConfig.get().runtime.config_sources
    return check(raw, model_file(raw, [Path(source.path) for source in sources if source.schema == "file"]))


def _trained(config: "Config") -> float | None:
    """Trains this job; returns the value of the objective."""
    from hydra.core.hydra_config import HydraConfig

    from recexp.experiment import train

    log_to_terminal()
    metrics = train(config, list(HydraConfig.get().overrides.task))
    return metrics["valid"].get(config.objective or config.trainer.monitor)


def resume(arguments: list[str]) -> int:
    """The verb `resume RUN`."""
    from omegaconf import OmegaConf

    from recexp.experiment import train
    from recexp.run.directory import read_config
    from recexp.validate import check

    if len(arguments) != 1:
        raise ConfigError(
            "resume: takes one run directory, as in: recexp resume outputs/2026-01-31/12-00-00-dien-synthetic-s0"
        )
    raw = OmegaConf.create(read_config(Path(arguments[0])))
    raw.run.dir, raw.run.resume = arguments[0], True
    train(check(raw))
    return 0


def model_file(raw: "DictConfig", folders: list[Path]) -> "dict[str, Any] | None":
    """What the model's own YAML file holds; None where no folder has it."""
    import yaml

    for folder in folders:
        path = folder / "model" / f"{raw.model.get('name')}.yaml" if "model" in raw else folder
        if path.is_file():
            return yaml.safe_load(path.read_text("utf-8"))
    return None


def check_overrides(overrides: list[str]) -> None:
    """Raises ConfigError for what Hydra would take and do something surprising with."""
    for override in overrides:
        key, _, value = override.partition("=")
        if key.lstrip("+") in GROUPS and value.startswith("["):
            raise ConfigError(
                f"{override}: a group takes one choice; for a run of each write -m {key}={value.strip('[]')}."
            )


def one_line(error: Exception, overrides: list[str]) -> ConfigError:
    """Hydra's error as one line: what is wrong, and what would be right."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines)
    if found := re.search(r"Could not find '(\w+)/([^']+)'", text):
        group, name = found.groups()
        return ConfigError(f"{group} = {name}: no such {group}. {choices(name, _options(group))}")
    if found := re.search(r"Could not override '([^']+)'", text) or re.search(r"Key '([^']+)' is not in struct", text):
        key = found[1]
        typed = next((word for word in overrides if word.split("=")[0].lstrip("+~") == key), key)
        if key.startswith(OPEN):
            return ConfigError(f"{typed}: no such key yet; write +{typed} to add it.")
        return ConfigError(f"{typed}: unknown key. {nearest_key(key, compose([])[0])}")
    if type(error).__name__ == "OverrideParseException":
        return ConfigError(
            f"{lines[0]} (in the grammar of Hydra's overrides; quote values that hold spaces, commas or brackets)"
        )
    return ConfigError(lines[0] if lines else type(error).__name__)


class Terminal(logging.Handler):
    """recexp's log lines on stdout, warnings and worse on stderr, whatever these are at the time."""

    def emit(self, record: logging.LogRecord) -> None:
        warned = record.levelno >= logging.WARNING
        print(
            f"{record.levelname}: {record.getMessage()}" if warned else record.getMessage(),
            file=sys.stderr if warned else sys.stdout,
            flush=True,
        )


def log_to_terminal() -> None:
    package = logging.getLogger("recexp")
    package.setLevel(logging.INFO)
    if not any(isinstance(handler, Terminal) for handler in package.handlers):
        package.addHandler(Terminal())


def _options(group: str) -> list[str]:
    return sorted(path.stem for path in (conf_folder() / group).glob("*.yaml"))


def nearest_key(key: str, raw: "DictConfig") -> str:
    """The nearest of all dotted keys of a configuration, and the keys beside it."""
    import difflib

    from recexp.config import flat

    keys = [*dict(flat(raw)), *GROUPS]
    near = difflib.get_close_matches(key, keys, n=1, cutoff=0.6)
    parent = key.rpartition(".")[0]
    beside = [other for other in keys if other.rpartition(".")[0] == parent] or [*raw, "experiment"]
    told = choices(key, beside)
    return told if told.startswith("Did") or not near else f"Did you mean '{near[0]}'? {told}"
