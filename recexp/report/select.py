"""Choosing runs by any configuration key or metric, given by its dotted name."""

import difflib
import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import yaml

from recexp.error import ConfigError, choices
from recexp.metric.table import higher_is_better, is_number, label_metric
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
    """key=a,b holds if the value is one of these, key!=a,b if it is none of them; key>n and so on for numbers."""

    key: str
    sign: str
    values: list[Any]

    def holds(self, record: Record) -> bool:
        actual = value(record, self.key)
        if self.sign in ORDER:
            return is_number(actual) and ORDER[self.sign](actual, self.values[0])
        return (actual in self.values) == (self.sign == "=")


def chosen(records: list[Record], words: list[str]) -> list[Record]:
    """The records for which all filters hold. Raises ConfigError for a malformed filter or a key that no run has."""
    filters = [_parse(word, known_keys(records)) for word in words]
    return [record for record in records if all(condition.holds(record) for condition in filters)]


def known_keys(records: Iterable[Record]) -> list[str]:
    """All keys that occur in any record."""
    keys = dict.fromkeys(key for record in records for key in (*record.config, *record.metrics))
    return [*FACTS, *keys]


def resolve(flag: str, name: str, known: list[str], split: str = "test") -> str:
    """The full key of a short name: test.auc or valid.auc for auc, model.name for model. Raises ConfigError.

    If there are several labels, auc is that of the first: test.auc/like.
    """
    for key in (name, FULL.get(name), f"{split}.{name}", f"test.{name}"):
        if key in known:
            return key
    for start in (name, f"{split}.{name}", f"test.{name}"):
        for key in known:
            if key.startswith(f"{start}/") and label_metric(key.partition(".")[2]):
                return key
    ends = {key: key.rpartition(".")[2] for key in [*FULL, *known]}
    alike = difflib.get_close_matches(name.rpartition(".")[2], set(ends.values()), n=3)
    near = [key for key, end in ends.items() if end in alike]
    raise ConfigError(f"{flag} {name}: no run has such a key. {choices(name, near or ends)}")


def value(record: Record, key: str) -> Any:
    """A record's value for one of `known_keys`, short or full; None if it lacks the key."""
    if key in FACTS:
        return record.state if key == "state" else str(record.path)
    return record.config.get(FULL.get(key, key), record.metrics.get(key))


def rank(key: str, value: Any) -> tuple[int, float, str]:
    """A sort key: the best value of a metric first, other numbers ascending, then words, then missing values."""
    if value is None:
        return 2, 0.0, ""
    if not is_number(value):
        return 1, 0.0, text(value)
    return 0, -value if higher_is_better(key) else value, ""


def _parse(word: str, known: list[str]) -> Filter:
    match = re.fullmatch(r"([^=<>!]+)(!=|>=|<=|=|>|<)(.*)", word)
    if not match:
        raise ConfigError(f"--filter {word}: must be KEY=VALUE, KEY!=VALUE, KEY>NUMBER or the like, in quotes.")
    key, sign, text_value = match.groups()
    values = _values(text_value)
    if sign in ORDER and not (len(values) == 1 and is_number(values[0])):
        raise ConfigError(f"--filter {word}: {sign} compares with a number.")
    return Filter(resolve("--filter", key, known), sign, values)


def _values(text_value: str) -> list[Any]:
    """Comma-separated values, parsed as YAML; 1e-3 is a number, as in Hydra."""
    try:
        values = yaml.safe_load(f"[{text_value}]")
    except yaml.YAMLError:
        return [text_value]
    return [_number(value) if isinstance(value, str) else value for value in values]


def _number(text_value: str) -> float | str:
    try:
        return float(text_value)
    except ValueError:
        return text_value
