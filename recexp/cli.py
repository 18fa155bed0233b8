"""The command line: verbs, and Hydra for everything with a `=`."""

import os
import re
import sys
import traceback
from typing import TYPE_CHECKING

from recexp.compose import CONFIG_DIR, check_composed
from recexp.compose.program import OWN, call_hydra
from recexp.error import ConfigError, Failure, Terminated, UserError, choices, disk_line, printable
from recexp.process import own_process
from recexp.terminal import harmless, log_to_terminal, say, silence
from recexp.verb import VERBS, load
from recexp.verb.help import help_text, verb_help

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main() -> None:
    """The entry point of the command `recexp`."""
    own_process()
    sys.stdout, sys.stderr = harmless(sys.stdout), harmless(sys.stderr)
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except OSError:  # nobody reads the last lines; the exit code is the same
        silence(sys.stdout)
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Does what the arguments say; returns the exit code. A user's mistake is one line on stderr."""
    try:
        return _dispatch(arguments)
    except UserError as error:
        return _failed(2, str(error))
    except Failure as error:
        return _failed(1, str(error))
    except KeyboardInterrupt:
        return _failed(130, "interrupted", traced=False)
    except Terminated:
        return _failed(143, "terminated", traced=False)
    except BrokenPipeError:  # the reader of what a verb prints, such as head, has gone
        silence(sys.stdout)
        return 0
    except OSError as error:
        return _failed(1, disk_line(error))
    except Exception:
        traceback.print_exc()
        return 1


def _failed(code: int, message: str, traced: bool = True) -> int:
    """Prints what went wrong, below its traceback if HYDRA_FULL_ERROR asks for that; returns the exit code."""
    if traced and os.environ.get("HYDRA_FULL_ERROR", "") not in ("", "0"):
        traceback.print_exc()
    say(f"recexp: {printable(message)}", sys.stderr)
    return code


def _dispatch(arguments: list[str]) -> int:
    first = arguments[0] if arguments else ""
    if first in ("-h", "--help", "help"):
        print(help_text(), end="")
        return 0
    if first == "--version":
        from importlib.metadata import version

        print(version("recexp"))
        return 0
    if arguments[1:2] == ["="]:
        raise ConfigError(f"{' '.join(arguments)}: an override has no spaces around its =, as in model=din.")
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
    folder = os.environ.get(CONFIG_DIR)
    if folder and not any(flag.partition("=")[0] in ("--config-dir", "-cd") for flag in flags):
        flags += ["--config-dir", folder]
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
