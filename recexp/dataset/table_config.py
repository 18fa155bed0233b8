"""The options of all readers of the user's own files."""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recexp.dataset.config import DatasetConfig, Duplicates, LabelKind, SplitKind
from recexp.dataset.label import KEY, Rule, rules
from recexp.error import ConfigError
from recexp.option import require


@dataclass(kw_only=True)
class Columns:
    user: str | None
    item: str | None
    label: Any  # a column, or several labels: a list of columns, or names with a column or comparison each
    timestamp: str | None


@dataclass(kw_only=True)
class TableConfig(DatasetConfig):
    path: Any  # str, list of str, or None
    columns: Columns
    user_path: str | None
    item_path: str | None
    multi_separator: str
    time_format: str | None
    missing: list[str]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.path:
            raise ConfigError("dataset.path = null: no data; give your file with dataset.path=FILE.")
        require(all(self.files), "dataset.path", self.path, "a file, a folder, a pattern, or a list of these")
        require(bool(self.multi_separator), "dataset.multi_separator", "''", "one character or more")
        timed = self.time_format is None or "%" in self.time_format
        require(timed, "dataset.time_format", self.time_format, "as for strptime, such as %d/%m/%Y %H:%M, or null")
        _check_columns(self)
        _check_features(self)

    @property
    def files(self) -> list[str]:
        """What dataset.path names, one or several."""
        return list(map(str, self.path)) if isinstance(self.path, list) else [str(self.path)]

    @property
    def is_log(self) -> bool:
        return self.columns.user is not None and self.columns.item is not None

    def roles(self) -> dict[str, str]:
        """Column -> config key of the columns that are not features. Implicit feedback has no label to read."""
        columns = self.columns
        roles = {getattr(columns, role): f"dataset.columns.{role}" for role in ("user", "item", "timestamp")}
        roles |= {rule.column: KEY for rule in self.rules().values()}
        if self.split.kind is SplitKind.given:
            roles[self.split.column] = "dataset.split.column"
        return {column: key for column, key in roles.items() if column is not None}

    def rules(self) -> dict[str, Rule]:
        """The labels that are read, by name."""
        return rules(self.columns.label) if self.label is LabelKind.explicit else {}

    @property
    def tasks(self) -> list[str]:
        names = list(self.rules())
        return names if len(names) > 1 else []

    def side_paths(self) -> dict[str, Path]:
        """The files of user and item features to read, by side."""
        given = {"user": self.user_path, "item": self.item_path}
        return {side: Path(path).expanduser() for side, path in given.items() if path}


def _check_columns(config: TableConfig) -> None:
    _check_roles(config)
    _check_log_or_table(config)
    labels = {rule.column for rule in rules(config.columns.label).values()}
    columns = asdict(config.columns).items()
    named = [*labels, *(column for role, column in columns if role != "label" and column is not None)]
    if not isinstance(config.columns.label, str | None) and config.label_threshold is not None:
        raise ConfigError(
            f"dataset.label_threshold = {config.label_threshold}: cuts one label; of those that {KEY} lists, each says "
            "its own, as {like: 'rating>=4'}; set dataset.label_threshold=null."
        )
    if twice := {column for column in named if named.count(column) > 1}:
        raise ConfigError(f"dataset.columns: each role has a column of its own, not {twice.pop()!r} twice.")


def _check_roles(config: TableConfig) -> None:
    """Raises ConfigError unless the columns are those of a log, or of a table."""
    columns = asdict(config.columns)
    absent = [role for role in ("user", "item", "timestamp") if columns[role] is None]
    joined = absent == ["user", "timestamp"] and config.item_path  # a table whose rows have features by their item
    if absent not in ([], ["timestamp"], ["item", "timestamp"], ["user", "item", "timestamp"]) and not joined:
        raise ConfigError(
            f"dataset.columns.{absent[0]} = null: a log has user and item, and timestamp if it has times; name them, "
            "or for a table none, or the user alone (for gauc, or a user_path), or the item alone with an item_path; "
            "there, ids are features.context."
        )
    if config.label is LabelKind.explicit and config.columns.label is None:
        raise ConfigError("dataset.columns.label = null: name the column, or set dataset.label=implicit.")
    if config.label is LabelKind.implicit and not isinstance(config.columns.label, str | None):
        raise ConfigError(
            f"{KEY} = {config.columns.label}: dataset.label=implicit reads no labels; set it to explicit."
        )


def _check_log_or_table(config: TableConfig) -> None:
    """Raises ConfigError for an option that the columns leave without meaning."""
    if not config.is_log and config.label is LabelKind.implicit:
        raise ConfigError("dataset.label = implicit: needs users and items; name columns.user and .item.")
    kind = config.split.kind
    if not config.is_log and kind not in (SplitKind.random, SplitKind.given):
        raise ConfigError(f"dataset.split.kind = {kind.name}: a table has no time; use random or given.")
    if config.is_log and config.columns.timestamp is None and config.duplicates is Duplicates.same_time:
        raise ConfigError(
            "dataset.duplicates = same_time: there are no times (dataset.columns.timestamp=null), so no two rows "
            "have the same; use keep, first or last."
        )


def _check_features(config: TableConfig) -> None:
    roles = config.roles()
    if config.features.derived.names and not config.is_log:
        raise ConfigError("dataset.features.derived: a table without time has no events before a row.")
    has_times = config.columns.timestamp is not None
    config.features.derived.require_times(has_times, "empty; dataset.columns.timestamp names no column of times")
    for side, kinds in config.features.sides.items():
        if side != "context" and kinds and not config.is_log:
            _check_joined(config, side, kinds)
        if side in config.side_paths() and not kinds:
            raise ConfigError(
                f"dataset.{side}_path: nothing of it is read; name its columns in dataset.features.{side}, "
                f"or set dataset.{side}_path=null."
            )
        for name in kinds:
            ids = () if config.is_log or side != "context" else (config.columns.user, config.columns.item)
            if name in roles and name not in (config.columns.timestamp, *ids):
                raise ConfigError(f"dataset.features.{side}.{name}: is {roles[name]} already, so no feature.")


def _check_joined(config: TableConfig, side: str, kinds: Collection[str]) -> None:
    """Raises ConfigError unless a file of users or items can be joined to the rows of a table."""
    if side not in config.side_paths() or getattr(config.columns, side) is None:
        raise ConfigError(
            f"dataset.features.{side}: of a log, which may be without times (name columns.user and .item, "
            f"timestamp=null), or of a file joined to a table (name columns.{side} and {side}_path); "
            "a table's own columns are features.context."
        )
    for name in kinds:
        if name in config.features.context:
            raise ConfigError(
                f"dataset.features.{side}.{name}: the rows of a table have a column of that name in "
                "features.context too; leave one out, or rename it."
            )
