"""The options of the verbs that read runs: parsed, and explained by --help."""

import argparse
from dataclasses import dataclass
from typing import Any, NoReturn

from recexp.error import ConfigError, choices

FORMATS = ("table", "csv", "json", "markdown", "latex")
MIN_DRAWS = 100  # fewer leave the ends of a 95 % interval to chance


@dataclass(frozen=True)
class Option:
    """One argument of a verb, as argparse takes it."""

    names: tuple[str, ...]
    how: dict[str, Any]


def _option(*names: str, **how: Any) -> Option:
    return Option(names, how)


def _format(*allowed: str) -> Option:
    def check(typed: str) -> str:
        if typed not in allowed:
            raise argparse.ArgumentTypeError(f"{typed}: no such format. {choices(typed, allowed)}")
        return typed

    what = f"{', '.join(allowed)}; default: table, or what the ending of FILE says"
    return _option("--format", metavar="FORMAT", type=check, help=what)


def _draws(typed: str) -> int:
    if not (typed.isdecimal() and int(typed) >= MIN_DRAWS):
        raise argparse.ArgumentTypeError(f"{typed}: must be a number, {MIN_DRAWS} or more")
    return int(typed)


SORT = _option("--sort", metavar="KEY", help="sort by a figure, the best first, or by a key of the configuration")
FILTER = _option(
    "--filter",
    metavar="EXPR",
    action="append",
    default=[],
    help="runs with KEY=A,B (one of them), KEY!=A,B (none), KEY>N, KEY>=N, KEY<N or KEY<=N; given again: all must hold",
)
COLUMNS = _option("--columns", metavar="A,B", help="figures and keys to show; default: those that differ")
OUTPUT = _option("-o", "--output", metavar="FILE", help="write there, whole or not at all, not to the terminal")
VERBS: dict[str, list[Option]] = {
    "runs": [
        _option("folders", metavar="DIR", nargs="*", help="folder of runs; default: outputs"),
        SORT,
        FILTER,
        COLUMNS,
        _format(*FORMATS),
        OUTPUT,
    ],
    "show": [_option("run", metavar="RUN", help="run directory, as outputs/2026-01-31/12-00-00-dien-synthetic-s0")],
    "report": [
        _option("folders", metavar="DIR", nargs="+", help="folder of runs, such as a sweep's"),
        _option("--metric", metavar="NAME", help="figure to rank by; default: what the runs monitored, on test"),
        SORT,
        FILTER,
        COLUMNS,
        _option("--baseline", metavar="ROW", help="row to compare with, by words of its name; default: the best"),
        _option("--mix", action="store_true", help="let runs on other data, splits or labels share the table"),
        _format(*FORMATS, "html"),
        OUTPUT,
    ],
    "compare": [
        _option("a", metavar="A", help="run directory"),
        _option("b", metavar="B", help="run directory"),
        _option("--draws", metavar="N", type=_draws, default=2000, help="of the bootstrap; default: 2000"),
        _option("--mix", action="store_true", help="compare runs on other data too, without their predictions"),
    ],
}


class Parser(argparse.ArgumentParser):
    """Raises a mistake as one line, where argparse prints two and exits."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.prog.removeprefix('recexp ')}: {message} (recexp {self.prog.split()[1]} --help)")


def parse(verb: str, arguments: list[str]) -> argparse.Namespace:
    """The verb's options by name. Raises ConfigError."""
    found, unknown = _parser(verb).parse_known_intermixed_args(arguments)
    if unknown:
        flags = [name for option in VERBS[verb] for name in option.names if name.startswith("-")]
        raise ConfigError(f"{verb}: {unknown[0]}: no such flag or one argument too many. {choices(unknown[0], flags)}")
    return found


def describe(verb: str) -> str:
    """The verb's arguments in words; nothing for a verb that takes overrides."""
    if verb not in VERBS:
        return ""
    text = _parser(verb).format_help()
    return text[text.index("\n\n") + 1 :]  # the usage stands in recexp.cli


def _parser(verb: str) -> Parser:
    parser = Parser(prog=f"recexp {verb}", add_help=False, allow_abbrev=False)
    for option in VERBS[verb]:
        parser.add_argument(*option.names, **option.how)
    return parser
