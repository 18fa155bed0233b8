"""The labels of the user's own rows: one column, or several labels by name, each a column or a comparison of one.

columns.label = liked                                       one label, the column itself
columns.label = [liked, finished]                           two labels, named as their columns
columns.label = {like: "rating>=4", finish: "ratio>=.9"}    two labels of comparisons
"""

import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from recexp.dataset.config import DatasetConfig, LabelKind
from recexp.dataset.raw import Raw
from recexp.error import ConfigError, DataError
from recexp.option import require

SIGNS: dict[str, Callable[[Any, Any], Any]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}
COMPARISON = re.compile(rf"(.*?\S)\s*({'|'.join(SIGNS)})\s*(\S.*)")
MALFORMED = re.compile(r"[=<>!]\s*-?[\d.]*$")  # the end of a name that is no column but another comparison
NAME = re.compile(r"[^\W\d][\w-]*")
KEY = "dataset.columns.label"
MISSING = -1  # of a label, among those that are 0 or 1


@dataclass(frozen=True)
class Rule:
    """How a label follows from a column."""

    column: str
    sign: str | None = None  # None: the column holds 0 and 1
    bound: float = 0.0

    def apply(self, values: np.ndarray) -> np.ndarray:
        """0 or 1 for each value (N,) of the column, NaN where it is NaN."""
        if self.sign is None:
            return values
        return np.where(np.isnan(values), np.nan, SIGNS[self.sign](values, self.bound))


def rules(given: Any) -> dict[str, Rule]:
    """The labels by name, from the value of columns.label; none for null. Raises ConfigError."""
    if given is None:
        return {}
    if isinstance(given, str):
        return {given: Rule(given)}
    if not isinstance(given, list | dict) or not given or not all(isinstance(text, str) for text in _texts(given)):
        raise ConfigError(f"{KEY} = {given}: must be a column, a list of columns, or as {{like: 'rating>=4'}}.")
    pairs = list(given.items()) if isinstance(given, dict) else [(column, column) for column in given]
    if len({name for name, _ in pairs}) < len(pairs):
        raise ConfigError(f"{KEY} = {given}: names a label twice.")
    for name, _ in pairs:
        allowed = "letters, digits, _ and -, as metrics bear it; {NAME: COLUMN} names the label of any column"
        require(isinstance(name, str) and NAME.fullmatch(name), KEY, repr(name), f"a name of {allowed}")
    return {name: _parsed(name, text) if isinstance(given, dict) else Rule(text) for name, text in pairs}


def task_labels(columns: dict[str, np.ndarray]) -> np.ndarray:
    """(N, T) int8 of T labels (N,): 0 or 1, MISSING where they are NaN."""
    labels = np.stack(list(columns.values()), axis=1)
    return np.where(np.isnan(labels), MISSING, labels).astype(np.int8)


def binary_labels(raw: Raw, config: DatasetConfig) -> np.ndarray:
    """(N,) int8, 0 or 1, of the rows as read. Raises DataError for a label that is missing or neither."""
    if config.label is LabelKind.implicit:
        return np.ones(len(raw.label), np.int8)
    if config.label_threshold is not None:
        if (missing := np.isnan(raw.label)).any():
            raise DataError(f"{raw.origin}: the label is missing in row {int(missing.argmax())}, counted from 0.")
        return (raw.label >= config.label_threshold).astype(np.int8)
    wrong = (raw.label != 0) & (raw.label != 1)
    if wrong.any():
        raise DataError(
            f"{raw.origin}: label {raw.label[wrong][0]:g} is neither 0 nor 1; "
            "set dataset.label_threshold to call labels from there on 1."
        )
    return raw.label.astype(np.int8)


def out_of_order(tasks: np.ndarray) -> np.ndarray:
    """(N,) bool: the rows whose labels (N, T) are 1 after one that is 0, be it next to it or further before."""
    after_0 = np.logical_or.accumulate(tasks == 0, axis=1)
    return ((tasks == 1) & after_0).any(1)


def _texts(given: list | dict) -> list[Any]:
    return list(given.values()) if isinstance(given, dict) else given


def _parsed(name: str, text: str) -> Rule:
    match = COMPARISON.fullmatch(text.strip())
    column = match[1] if match else text.strip()
    require(not MALFORMED.search(column), f"{KEY}.{name}", text, "a column, or one compared by " + ", ".join(SIGNS))
    if match is None:
        return Rule(column)
    column, sign, bound = match.groups()
    try:
        number = float(bound)
    except ValueError:
        raise ConfigError(f"{KEY}.{name} = {text}: compares with {bound!r}, which is no number.") from None
    require(math.isfinite(number), f"{KEY}.{name}", text, f"a comparison with a finite number, not with {bound}")
    return Rule(column, sign, number)
