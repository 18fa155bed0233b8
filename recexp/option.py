"""What a field of a configuration's dataclass says of its values: their range, the labels that they need, and which
other option decides whether they are read."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any

from recexp.error import CONTROL, ConfigError

MAX_SIZE = 2**16
UNFIT = re.compile(rf"[/\\]|{CONTROL.pattern}")  # for a file's name


@dataclass(frozen=True)
class Range:
    """The values an option allows: a test, and its wording for the error."""

    holds: Callable[[Any], object]  # true or false
    words: str


def option(holds: Callable[[Any], object], words: str) -> Any:
    """A dataclass field with a range. Null is not tested: it is allowed if the field's type says so."""
    return field(metadata={"range": Range(holds, words)})


def at_least(bound: float, optional: bool = False) -> Any:
    return option(lambda value: value >= bound, f"{bound} or more{', or null' if optional else ''}")


def above(bound: float, optional: bool = False) -> Any:
    return option(lambda value: value > bound, f"above {bound}{', or null' if optional else ''}")


def between(low: int, high: int, why: str, optional: bool = False) -> Any:
    """why: the reason for the upper bound."""
    words = f"{low} to {high}{', or null' if optional else ''} ({why})"
    return option(lambda value: low <= value <= high, words)


def size() -> Any:
    """The size of a vector or a layer."""
    return between(1, MAX_SIZE, "wider ones take all memory")


def fraction() -> Any:
    """A fraction below 1, such as a dropout probability."""
    return option(lambda value: 0 <= value < 1, "at least 0 and below 1")


def random_seed() -> Any:
    return option(lambda value: 0 <= value < 2**31, "0 or more, and below 2^31")


def layer_sizes() -> Any:
    """A list of layer sizes, which may be empty."""
    return option(lambda value: all(1 <= size <= MAX_SIZE for size in value), f"a list of sizes of 1 to {MAX_SIZE}")


def file_name() -> Any:
    """A name that becomes part of a directory's name."""
    return option(
        lambda name: name not in ("", ".", "..") and len(name.encode()) <= 100 and not re.search(UNFIT, name),
        "the name of a file: no more than 100 bytes, without / and control characters",
    )


class Labels(Enum):
    """What an option's value may require of the data's labels."""

    both = "labels of both kinds"
    varied = "labels that vary within histories"


def needs_labels(labels: Labels, when: object, loss: str | None = None) -> Any:
    """A dataclass field that needs these labels when its value is `when`, and the loss, if one is named, is on."""
    return field(metadata={"labels": (labels, when, loss)})


@dataclass(frozen=True)
class Condition:
    """The option that decides whether a field is read, by its dotted key, and the values, by name, for which it is."""

    key: str
    names: tuple[str, ...]  # empty: all but 0 and nothing

    def holds(self, config: Any) -> bool:
        value = config
        for name in self.key.split("."):
            value = value.get(name) if isinstance(value, dict) else getattr(value, name)
        return getattr(value, "name", value) in self.names if self.names else bool(value)

    @property
    def words(self) -> str:
        key = self.key.removesuffix(".name")  # a group is chosen by its name
        return key + (f"={' or '.join(self.names)}" if self.names else " other than 0 or empty")


def read_if(key: str, *names: str, allowed: Any = None) -> Any:
    """A dataclass field of a model that it reads only if another option has one of these values.

    Without names, any value but 0 and nothing. allowed: a field of this file that says which values the option allows.
    """
    metadata = {} if allowed is None else allowed.metadata
    return field(metadata={**metadata, "read_if": Condition(key, names)})


def check_ranges(config: Any, prefix: str) -> None:
    """Raises ConfigError for the first field of a dataclass whose value is out of its range.

    prefix: what the fields' dotted keys start with; "" for the root.
    """
    for item in fields(config):
        allowed, value = item.metadata.get("range"), getattr(config, item.name)
        if allowed is not None and value is not None:
            require(allowed.holds(value), f"{prefix}.{item.name}".lstrip("."), value, allowed.words)


def require(condition: object, key: str, value: object, allowed: str) -> None:
    """Raises ConfigError naming the key, its value and what is allowed, unless the condition holds."""
    if not condition:
        raise ConfigError(f"{key} = {value}: must be {allowed}.")
