"""The options of a dataset: of every reader, of its features and of its split."""

import math
from dataclasses import dataclass
from enum import Enum

from recexp.error import CONTROL, ConfigError, choices
from recexp.option import between, check_ranges, file_name, option, require


class FeatureKind(Enum):
    categorical = "one of many values"
    hash = "one of very many values, each in one of n_buckets by its text"
    multi = "several values of one vocabulary"
    numeric = "a number, standardised by the training split"
    binned = "a number, cut into quantiles of the training split"
    vector = "numbers, as many in each cell, each standardised by the training split"


class LabelKind(Enum):
    explicit = "the label column, cut at label_threshold if that is set"
    implicit = "every event is a positive; negatives are sampled"


class Duplicates(Enum):
    keep = "every row is an event"
    same_time = "of rows with the same user, item and time the last one counts"
    first = "of a user's events of an item the first one counts"
    last = "of a user's events of an item the last one counts"


class HistoryKind(Enum):
    all = "all earlier events, with their labels"
    liked = "earlier events with label 1 alone"


class HistoryUntil(Enum):
    target = "all that was known at the target's time"
    split = "nothing after the training split, as where a model serves without updates"


class TimePart(Enum):
    hour = "the hour of the day, 0 to 23"
    weekday = "the day of the week, 0 for Monday"
    month = "the month, 1 to 12"


class SplitKind(Enum):
    user_time = "each user's last events, by ratio"
    leave_last_out = "each user's last event to test, the one before to valid"
    time = "one moment for all users"
    given = "a column that says train, valid or test, or three files"
    random = "by row; for tables"


def is_feature_name(name: str) -> bool:
    """True for the name of a column that may be a feature: not blank, and without control characters."""
    return bool(name.strip()) and not CONTROL.search(name)


@dataclass(kw_only=True)
class DerivedConfig:
    """Context fields derived from each event's time and the user's strictly earlier events, by derive.py."""

    last_items: int = option(lambda value: 0 <= value <= 100, "0 to 100")
    most_liked: list[str] = option(lambda names: len(set(names)) == len(names), "a list that names a column once")
    time: list[TimePart] = option(lambda parts: len(set(parts)) == len(parts), "a list that names a part once")

    def __post_init__(self) -> None:
        check_ranges(self, "dataset.features.derived")

    @property
    def names(self) -> list[str]:
        """The names that the derived fields have in models and in the context."""
        last = [f"last_item_{n}" for n in range(1, self.last_items + 1)]
        liked = [f"most_liked_{name}" for name in self.most_liked]
        return [*last, *liked, *(f"time_{part.name}" for part in self.time)]

    def require_times(self, has_times: bool, remedy: str) -> None:
        """Raises ConfigError if the data have an order of events but no times to take the parts of."""
        require(has_times or not self.time, "dataset.features.derived.time", [part.name for part in self.time], remedy)


@dataclass(kw_only=True)
class FeaturesConfig:
    """Feature columns by table: one value per user, per item or per event."""

    user: dict[str, FeatureKind]
    item: dict[str, FeatureKind]
    context: dict[str, FeatureKind]
    derived: DerivedConfig

    @property
    def sides(self) -> dict[str, dict[str, FeatureKind]]:
        """The columns of each table, without derived fields."""
        return {"user": self.user, "item": self.item, "context": self.context}

    def __post_init__(self) -> None:
        for side, kinds in self.sides.items():
            for name in kinds:
                allowed = "a name without control characters"
                require(is_feature_name(name), f"dataset.features.{side}", repr(name), allowed)
        listed = [name for name, kind in self.item.items() if kind in (FeatureKind.categorical, FeatureKind.multi)]
        for name in self.derived.most_liked:
            if name not in listed:
                hint = f"no categorical or multi column of dataset.features.item. {choices(name, listed)}"
                raise ConfigError(f"dataset.features.derived.most_liked = {name}: {hint}")
        for name in self.derived.names:
            if name in self.context:
                raise ConfigError(
                    f"dataset.features.context.{name}: is the name of a field of features.derived; rename the column."
                )


@dataclass(kw_only=True)
class SplitConfig:
    kind: SplitKind
    ratios: list[float] = option(
        lambda ratios: len(ratios) == 3 and min(ratios) >= 0 and abs(sum(ratios) - 1) < 1e-6 and ratios[0] > 0,
        "three shares train, valid, test that sum to 1, train above 0",
    )
    column: str | None

    def __post_init__(self) -> None:
        check_ranges(self, "dataset.split")


@dataclass(kw_only=True)
class DatasetConfig:
    """Options of every reader; a reader's own Config adds to them."""

    name: str = file_name()
    reader: str
    label: LabelKind
    label_threshold: float | None
    negatives: int = between(1, 10_000, "each costs as much as its positive")
    features: FeaturesConfig
    max_history: int = between(1, 2**16, "each row of a batch has as many events")
    history: HistoryKind
    history_until: HistoryUntil
    n_bins: int = between(2, 2**16, "finer ones are ids")
    n_buckets: int = between(2, 2**24, "each hashed feature has as many rows of a table")
    n_quotients: int = between(1, 2**12, "more take more rows than they save")
    min_count: int = between(1, 10**6, "rarer values than that are all there are")
    duplicates: Duplicates
    k_core: int = between(0, 10**6, "hardly a log has users and items with more events")
    split: SplitConfig
    cache_dir: str | None

    @property
    def tasks(self) -> list[str]:
        """The names of the labels if there are several."""
        return []

    def __post_init__(self) -> None:
        check_ranges(self, "dataset")
        if self.label is LabelKind.implicit and self.label_threshold is not None:
            raise ConfigError(
                f"dataset.label_threshold = {self.label_threshold}: with label=implicit every event is a positive, "
                "whatever its rating; set dataset.label_threshold=null with it."
            )
        if self.n_quotients**2 > self.n_buckets:
            most = (
                f"at most the square root of n_buckets, {math.isqrt(self.n_buckets):,}: more take rows, not save them"
            )
            raise ConfigError(f"dataset.n_quotients = {self.n_quotients}: must be {most}.")
        if self.split.column is not None and self.split.kind is not SplitKind.given:
            raise ConfigError(
                f"dataset.split.column = {self.split.column}: is read with split.kind=given alone, "
                f"not with {self.split.kind.name}."
            )
