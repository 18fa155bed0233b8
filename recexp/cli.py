"""The command line: verbs, and Hydra for everything with a `=`."""

import os
import re
import sys
import traceback
from typing import TYPE_CHECKING

from recexp.compose import OWN, call_hydra, check_composed
from recexp.error import ConfigError, Terminated, UserError, choices
from recexp.process import own_process
from recexp.terminal import log_to_terminal
from recexp.verb import VERBS, load
from recexp.verb.help import help_text, verb_help

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main() -> None:
    """The entry point of the command `recexp`."""
    own_process()
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Does what the arguments say; returns the exit code. A user's mistake is one line on stderr."""
    full = os.environ.get("HYDRA_FULL_ERROR", "") not in ("", "0")
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
        if {"-h", "--help"} & set(arguments[1:]):
            print(verb_help(first), end="")
            return 0
        log_to_terminal()
        return load(first).run(arguments[1:])
    return train(arguments)


def train(arguments: list[str]) -> int:
    """Hands all arguments to Hydra and trains what it composes: one run, or a sweep."""
    overrides = [word for word in arguments if re.match(r"[^-=][^=]*=|~", word)]
    flags = [word for word in arguments if word not in overrides]
    if "-m" in flags or "--multirun" in flags or "hydra.mode=MULTIRUN" in overrides:
        from hydra_plugins.recexp_launcher._entry import sweep

        return sweep(overrides, flags)
    errors: list[BaseException] = []

    def job(raw: "DictConfig") -> None:
        try:
            _train_composed(raw)
        except BaseException as error:  # Hydra would print a line of its own
            errors.append(error)

    call_hydra(job, OWN, overrides, flags)
    if errors:
        raise errors[0]
    return 0


def _train_composed(raw: "DictConfig") -> None:
    config, overrides = check_composed(raw)
    log_to_terminal()
    from recexp.experiment import train_checked

    train_checked(config, overrides)
