"""Choosing runs by what is known of them: any key of their configuration or figure, by its dotted name."""

import difflib
import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import yaml

from recexp.error import ConfigError, choices
from recexp.metric.figure import is_number, more_is_better
from recexp.report.setting import FULL, text
from recexp.run.record import Record

ORDER: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
FACTS = ("state", "directory")


@dataclass(frozen=True)
class Filter:
    """key=a,b holds where the value is one of these, key!=a,b where it is none; key>n and so on for numbers."""

    key: str
    sign: str
    values: list[Any]

    def holds(self, record: Record) -> bool:
        found = value(record, self.key)
        if self.sign in ORDER:
            return is_number(found) and ORDER[self.sign](found, self.values[0])
        return (found in self.values) == (self.sign == "=")


def chosen(records: list[Record], words: list[str]) -> list[Record]:
    """Those for which all filters typed hold. Raises ConfigError for a word that is none, or a key that no run has."""
    filters = [_parse(word, known_keys(records)) for word in words]
    return [record for record in records if all(each.holds(record) for each in filters)]


def known_keys(records: Iterable[Record]) -> list[str]:
    """Every key that a record has."""
    keys = dict.fromkeys(key for record in records for key in (*record.config, *record.metrics))
    return [*FACTS, *keys]


def resolve(flag: str, typed: str, known: list[str]) -> str:
    """The full key that was meant: auc for test.auc, model for model.name. Raises ConfigError."""
    for key in (typed, FULL.get(typed), f"test.{typed}"):
        if key in known:
            return key
    ends = {key: key.rpartition(".")[2] for key in [*FULL, *known]}
    alike = difflib.get_close_matches(typed.rpartition(".")[2], set(ends.values()), n=3)
    near = [key for key, end in ends.items() if end in alike]
    raise ConfigError(f"{flag} {typed}: no run has such a key. {choices(typed, near or ends)}")


def value(record: Record, key: str) -> Any:
    """What a record has under a key of `known_keys`, short or full; None where it lacks it."""
    if key in FACTS:
        return record.state if key == "state" else str(record.path)
    return record.config.get(FULL.get(key, key), record.metrics.get(key))


def rank(key: str, value: Any) -> tuple[int, float, str]:
    """For sorting: a figure's best value first, other numbers from the lowest, then words, then what is not there."""
    if value is None:
        return 2, 0.0, ""
    if not is_number(value):
        return 1, 0.0, text(value)
    return 0, -value if more_is_better(key) else value, ""


def _parse(word: str, known: list[str]) -> Filter:
    found = re.fullmatch(r"([^=<>!]+)(!=|>=|<=|=|>|<)(.*)", word)
    if not found:
        raise ConfigError(f"--filter {word}: must be KEY=VALUE, KEY!=VALUE, KEY>NUMBER or the like, in quotes.")
    key, sign, typed = found.groups()
    values = _values(typed)
    if sign in ORDER and not (len(values) == 1 and is_number(values[0])):
        raise ConfigError(f"--filter {word}: {sign} compares with a number.")
    return Filter(resolve("--filter", key, known), sign, values)


def _values(typed: str) -> list[Any]:
    """Values between commas, each of the type that YAML, and 1e-3 of the type that Hydra, gives it."""
    try:
        values = yaml.safe_load(f"[{typed}]")
    except yaml.YAMLError:
        return [typed]
    return [_number(value) if isinstance(value, str) else value for value in values]


def _number(typed: str) -> float | str:
    try:
        return float(typed)
    except ValueError:
        return typed
