"""How the verbs that read runs declare, parse and explain their arguments, and the arguments that several share."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from recexp.error import ConfigError, RunError, choices

FORMATS = ("table", "csv", "json", "markdown", "latex")


@dataclass(frozen=True)
class Option:
    """One argument of a verb; `settings` are the keywords of argparse's add_argument."""

    names: tuple[str, ...]
    settings: dict[str, Any]


def option(*names: str, **settings: Any) -> Option:
    return Option(names, settings)


def format_option(*formats: str) -> Option:
    def check(typed: str) -> str:
        if typed not in formats:
            raise argparse.ArgumentTypeError(f"{typed}: no such format. {choices(typed, formats)}")
        return typed

    text = f"{', '.join(formats)}; default: table, or what the ending of FILE says"
    return option("--format", metavar="FORMAT", type=check, help=text)


SORT = option(
    "--sort",
    metavar="KEY",
    help="sort by a figure, the best first, or by a key of the configuration; auc is valid.auc, not test.auc",
)
FILTER = option(
    "--filter",
    metavar="EXPR",
    action="append",
    default=[],
    help="runs with KEY=A,B (one of them), KEY!=A,B (none), KEY>N, KEY>=N, KEY<N or KEY<=N; given again: all must hold",
)
COLUMNS = option("--columns", metavar="A,B", help="figures and keys to show; default: those that differ")
OUTPUT = option("-o", "--output", metavar="FILE", help="write there, whole or not at all, not to the terminal")


class Parser(argparse.ArgumentParser):
    """Raises a one-line error, where argparse would print two lines and exit."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.prog.removeprefix('recexp ')}: {message} (recexp {self.prog.split()[1]} --help)")


def folder(typed: str) -> Path:
    """A directory that was typed. Raises RunError if it is none."""
    path = Path(typed)
    if not path.is_dir():
        raise RunError(f"{path}: {'is a file, no run directory' if path.exists() else 'no such directory'}.")
    return path


def parse(verb: str, options: Sequence[Option], arguments: list[str]) -> argparse.Namespace:
    """A verb's arguments by name. Raises ConfigError."""
    typed, unknown = _parser(verb, options).parse_known_intermixed_args(arguments)
    if unknown:
        flags = [name for option in options for name in option.names if name.startswith("-")]
        raise ConfigError(f"{verb}: {unknown[0]}: no such flag or one argument too many. {choices(unknown[0], flags)}")
    return typed


def describe(verb: str, options: Sequence[Option]) -> str:
    """A verb's arguments as argparse explains them, without its usage line; nothing if there are none."""
    if not options:
        return ""
    text = _parser(verb, options).format_help()
    return text[text.index("\n\n") + 1 :]


def _parser(verb: str, options: Sequence[Option]) -> Parser:
    parser = Parser(prog=f"recexp {verb}", add_help=False, allow_abbrev=False)
    for option in options:
        parser.add_argument(*option.names, **option.settings)
    return parser
