"""How the verbs that read runs declare, parse and explain their arguments, and the arguments that several share."""

import argparse
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from recexp.error import ConfigError, RunError, choices
from recexp.run.trust import require_trust

if TYPE_CHECKING:
    from recexp.run.trained import Trained

FORMATS = ("table", "csv", "json", "markdown", "latex")


@dataclass(frozen=True)
class Option:
    """One argument of a verb; `settings` are the keywords of argparse's add_argument."""

    names: tuple[str, ...]
    settings: dict[str, Any]


def option(*names: str, **settings: Any) -> Option:
    return Option(names, settings)


def format_option(*formats: str) -> Option:
    def check(text: str) -> str:
        if text not in formats:
            raise argparse.ArgumentTypeError(f"{text}: no such format. {choices(text, formats)}")
        return text

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


RUN = option("run", metavar="RUN", help="run directory, as outputs/2026-01-31/12-00-00-dien-synthetic-s0")
# Arguments of the verbs that use a trained model; `load_trained` reads them.
TRAINED = (
    option(
        "options",
        metavar="override",
        nargs="*",
        help="device=cpu, trainer.threads=N or trainer.eval_batch_size=N in place of the run's",
    ),
    option("--trust", action="store_true", help="use a run of another user: this runs the plugins that it names"),
)
HISTORY = option(
    "--history",
    metavar="FROM",
    default="both",
    help="a row's history is of the events kept with the run (saved), of rows of FILE that have a label (given) or of "
    "both, always strictly before the row's time; default: both",
)
TABLE = option(
    "-o", "--output", metavar="OUT", required=True, help="CSV or Parquet file, by its ending: .csv, .parquet"
)


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """The type of an argument."""

    def parsed(text: str) -> int:
        if not (re.fullmatch("[0-9]{1,18}", text) and low <= int(text) <= high):
            raise argparse.ArgumentTypeError(f"{text}: must be a number from {low} to {high}")
        return int(text)

    return parsed


class Parser(argparse.ArgumentParser):
    """Raises a one-line error, where argparse would print two lines and exit."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.prog.removeprefix('recexp ')}: {message} (recexp {self.prog.split()[1]} --help)")


def folder(name: str) -> Path:
    """The directory of this name. Raises RunError if it is none."""
    path = Path(name)
    if not path.is_dir():
        raise RunError(f"{path}: {'is a file, no run directory' if path.exists() else 'no such directory'}.")
    return path


def folder_and_words(verb: str, arguments: list[str]) -> tuple[Path, list[str]]:
    """The directory of a verb that trains what is there, which must be trusted, and all words after it but --trust.

    Raises ConfigError or RunError.
    """
    words = [word for word in arguments if word != "--trust"]
    if not words or "=" in words[0] or words[0].startswith("-"):
        raise ConfigError(f"{verb}: takes one directory, as in: recexp {verb} outputs/RUN")
    path = folder(words[0])
    require_trust(path, trusted=words != arguments)
    return path, words[1:]


def load_trained(args: argparse.Namespace) -> "Trained":
    """The trained model of the argument RUN. Raises ConfigError or RunError."""
    path = folder(args.run)
    require_trust(path, args.trust)
    from recexp.experiment import PLACED, load_run
    from recexp.safe_yaml import parse_yaml

    names = {key: name for name, key in PLACED.items()}
    options: dict[str, Any] = {}
    for word in args.options:
        key, equals, value = word.partition("=")
        if not equals or key not in names:
            raise ConfigError(f"{word}: a trained model is used as it is. {choices(key, names)}")
        options[names[key]] = parse_yaml(value)
    return load_run(path, **options)


def load_ended(args: argparse.Namespace) -> "Trained":
    """As `load_trained`, of a run to which something is added. Raises RunError if it has not ended."""
    from recexp.run.record import has_ended

    path = folder(args.run)
    require_trust(path, args.trust)
    if not has_ended(path):
        raise RunError(f"{path}: has not ended; go on with: recexp resume {shlex.quote(str(path))}")
    return load_trained(args)


def table_path(name: str) -> Path:
    """The file that -o names. Raises ConfigError before anything is computed in vain."""
    path = Path(name)
    if path.suffix not in (".csv", ".parquet"):
        raise ConfigError(f"-o {path}: must end in .csv or .parquet.")
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(f"-o {path}: {'is a directory' if path.is_dir() else 'is in no directory that is there'}.")
    return path


def parse(verb: str, options: Sequence[Option], arguments: list[str]) -> argparse.Namespace:
    """A verb's arguments by name. Raises ConfigError."""
    args, unknown = _parser(verb, options).parse_known_intermixed_args(arguments)
    if unknown:
        flags = [name for option in options for name in option.names if name.startswith("-")]
        raise ConfigError(f"{verb}: {unknown[0]}: no such flag or one argument too many. {choices(unknown[0], flags)}")
    return args


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
