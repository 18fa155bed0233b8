"""Hydra as the program that a command line runs, with recexp's loader and defaults, and errors of one line."""

import argparse
import contextlib
import io
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from recexp.compose import check_overrides, one_line, search_path
from recexp.error import ConfigError, UserError, choices
from recexp.groups import conf_folder

if TYPE_CHECKING:
    from omegaconf import DictConfig

OWN = ("hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none")
AN_OVERRIDE = "An override has a =, as in model=din; one that holds a space stands in quotes, as 'run.name=my run'."


def call_hydra(
    task: "Callable[[DictConfig], Any]", own: Sequence[str], overrides: Sequence[str], flags: Sequence[str]
) -> None:
    """Runs Hydra with the user's overrides and our own; Hydra calls the task. Raises ConfigError."""
    import hydra

    from recexp.compose.loader import guard_files, own_loader

    _set_defaults()
    guard_files()
    args = parse_flags(flags)
    if args.shell_completion:
        own = []
    else:
        check_overrides(overrides)
    # Overrides first: the argument parser takes them only in one uninterrupted sequence.
    sys.argv = [sys.argv[0], *own, *overrides, *flags]
    full_error = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises, and `run` prints
    try:
        quiet = contextlib.redirect_stderr(io.StringIO()) if args.package else contextlib.nullcontext()
        with own_loader(), quiet:
            hydra.main(version_base="1.3", config_path=str(conf_folder().absolute()), config_name="config")(task)()
    except SystemExit as error:  # after a line of Hydra's own
        if args.package and error.code:
            raise ConfigError(f"--package {args.package}: no such part of the configuration.") from error
        raise
    except Exception as error:
        if not isinstance(error, UserError) and _by_hydra(error):
            raise one_line(error, overrides, args.config_dir) from error
        raise
    finally:
        os.environ.pop("HYDRA_FULL_ERROR")
        if full_error is not None:
            os.environ["HYDRA_FULL_ERROR"] = full_error


def _by_hydra(error: Exception) -> bool:
    """True if Hydra raised the error: one of its own kinds, or any kind while it composes."""
    if type(error).__module__.startswith(("hydra", "omegaconf")):
        return True
    modules = (frame.f_globals.get("__name__") for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(name in ("hydra._internal.config_loader_impl", "hydra._internal.defaults_list") for name in modules)


def parse_flags(flags: Sequence[str]) -> argparse.Namespace:
    """Hydra's flags by name. Raises ConfigError for an unknown flag, and for one that recexp does not support."""
    from hydra._internal.utils import get_args_parser

    parser = get_args_parser()
    parser.exit_on_error = parser.allow_abbrev = False
    try:
        args, unknown = parser.parse_known_args(list(flags))
    except argparse.ArgumentError as error:
        raise ConfigError(f"{str(error).removeprefix('argument ')} (recexp --hydra-help).") from error
    if other := [*unknown, *args.overrides]:
        names = [name for action in parser._actions for name in action.option_strings]
        hint = choices(other[0], names) if other[0].startswith("-") else AN_OVERRIDE
        raise ConfigError(f"{other[0]!r}: neither a flag nor an override. {hint}")
    if args.config_path or args.experimental_rerun:
        name = "--config-path" if args.config_path else "--experimental-rerun"
        raise ConfigError(f"{name}: is not for recexp; --config-dir DIR adds a folder of YAML files of your own.")
    if args.package and not args.cfg:
        raise ConfigError(f"--package {args.package}: says what --cfg shows, so give that too.")
    if args.config_name in ("config", "config.yaml"):
        raise ConfigError(
            "--config-name config: is recexp's own root file, whatever folder you add; call yours by another name."
        )
    if args.config_dir is not None and args.config_name is None:
        search_path(args.config_dir)
    return args


def _set_defaults() -> None:
    """Makes recexp's launcher the default under -m and puts the gate before any launcher, also with -cn."""
    from hydra.conf import HydraConf
    from hydra.core.config_store import ConfigStore

    node = HydraConf(callbacks={"recexp": {"_target_": "hydra_plugins.recexp_launcher.gate.Gated"}})
    node.defaults = [{"launcher": "processes"} if "launcher" in default else default for default in node.defaults]
    ConfigStore.instance().store(group="hydra", name="config", node=node, provider="hydra")
