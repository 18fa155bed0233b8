"""From tables of the user's own to Raw: roles, feature columns, and errors that name file, row and column."""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import numpy as np

from recexp.config import DatasetConfig, FeatureKind, LabelKind, SplitKind, require, to_dict
from recexp.dataset.log import PARTS
from recexp.dataset.raw import MULTI_SEPARATOR, Raw
from recexp.error import ConfigError, DataError, choices

if TYPE_CHECKING:
    import pandas as pd

Kinds = dict[str, FeatureKind]
GAPS = ("", "NA", "N/A", "na", "n/a", "NaN", "nan", "NULL", "null", "None", r"\N")  # of numeric features
RAW_OPTIONS = {"reader", "label", "features", "split", "columns", "multi_separator", "separator"}
ID = "an id must be an integer or a string, in all rows the same of the two"
TIME = "must be a number or an ISO date-time (2024-01-31T23:59:59Z), in all rows the same of the two"
LABEL = "must be 0 or 1; cut ratings with dataset.label_threshold=NUMBER"


@dataclass(kw_only=True)
class Columns:
    user: str | None
    item: str | None
    label: str | None
    timestamp: str | None


@dataclass(kw_only=True)
class TableConfig(DatasetConfig):
    """What the readers of the user's own files share."""

    path: str | None
    columns: Columns
    user_path: str | None
    item_path: str | None
    multi_separator: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.path:
            raise ConfigError("dataset.path = null: no data; give your file with dataset.path=FILE.")
        require(bool(self.multi_separator), "dataset.multi_separator", "''", "one character or more")
        _check_columns(self)
        _check_features(self)

    @property
    def is_log(self) -> bool:
        return self.columns.user is not None

    def roles(self) -> dict[str, str]:
        """Column -> config key of those that are no features. Implicit feedback has no label to read."""
        keys = {f"dataset.columns.{role}": column for role, column in asdict(self.columns).items()}
        if self.label is LabelKind.implicit:
            del keys["dataset.columns.label"]
        if self.split.kind is SplitKind.given:
            keys["dataset.split.column"] = self.split.column
        return {column: key for key, column in keys.items() if column is not None}

    def side_paths(self) -> dict[str, Path]:
        """The files of user and item features that are read, by side."""
        given = {"user": self.user_path, "item": self.item_path}
        read = {side: path for side, path in given.items() if path and getattr(self.features, side)}
        return {side: Path(path).expanduser() for side, path in read.items()}


def _check_columns(config: TableConfig) -> None:
    columns = asdict(config.columns)
    absent = [role for role in ("user", "item", "timestamp") if columns[role] is None]
    if 0 < len(absent) < 3:
        raise ConfigError(
            f"dataset.columns.{absent[0]} = null: a log has user, item and timestamp; name all three, or "
            "none for a table without users and time (there, ids are features.context)."
        )
    if config.label is LabelKind.explicit and config.columns.label is None:
        raise ConfigError("dataset.columns.label = null: name the column, or set dataset.label=implicit.")
    if absent and config.label is LabelKind.implicit:
        raise ConfigError(
            "dataset.label = implicit: needs users and items; name columns.user and columns.item."
        )
    kind = config.split.kind
    if absent and kind not in (SplitKind.random, SplitKind.given):
        raise ConfigError(f"dataset.split.kind = {kind.name}: a table has no time; use random or given.")
    named = [column for column in columns.values() if column is not None]
    if twice := {column for column in named if named.count(column) > 1}:
        raise ConfigError(
            f"dataset.columns = {columns}: each role has a column of its own, not {twice.pop()!r} twice."
        )


def _check_features(config: TableConfig) -> None:
    roles = config.roles()
    for side, kinds in vars(config.features).items():
        if side != "context" and kinds and not config.is_log:
            raise ConfigError(
                f"dataset.features.{side}: a table has no {side}s; use dataset.features.context."
            )
        for name in kinds:
            if name in roles and name != config.columns.timestamp:
                raise ConfigError(f"dataset.features.{side}.{name}: is {roles[name]} already, so no feature.")


class Table(Protocol):
    """A file of named columns."""

    path: Path

    def columns(self) -> list[str]:
        """Raises DataError where it is no such file."""

    def read(self, names: list[str]) -> "pd.DataFrame": ...

    def place(self, row: int) -> str:
        """Where the user finds a row (from 0): file and line."""


class Sheet:
    """Columns of a table, or of several below one another; converts one, or names its first wrong row."""

    def __init__(
        self, tables: list[Table], wanted: dict[str, str], multi_separator: str = MULTI_SEPARATOR
    ) -> None:
        """wanted: column -> the config key that asks for it."""
        import pandas as pd

        self.tables = tables
        self.multi_separator = multi_separator
        frames = [_load(table, wanted) for table in tables]
        self.sizes = [len(frame) for frame in frames]
        self.frame = pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0]

    def error(self, row: int, column: str, message: str) -> DataError:
        starts = np.cumsum([0, *self.sizes])
        part = bisect_right(starts, row) - 1
        place = self.tables[part].place(int(row - starts[part]))
        value = str(self.frame[column].iloc[row])
        shown = repr(value if len(value) < 60 else value[:60] + "...")
        return DataError(f"{place}: column '{column}' = {shown}: {message}.")

    def ids(self, column: str) -> np.ndarray:
        """Strings exactly as they stand in the file, or integers."""
        from pandas.api import types

        values = self._filled(column)
        if types.is_float_dtype(values):  # integers from a column that had gaps
            self.refuse(values % 1 != 0, column, ID)
            values = values.astype(np.int64)
        if types.is_integer_dtype(values):
            return values.to_numpy()
        if not types.is_string_dtype(values):
            self.refuse(values.map(lambda value: not isinstance(value, str)), column, ID)
        return values.to_numpy(dtype=object)

    def labels(self, column: str, threshold: float | None) -> np.ndarray:
        self._filled(column)
        values = self._numbers(column)
        if threshold is None:
            self.refuse(~np.isin(values, (0, 1)), column, LABEL)
        return values

    def times(self, column: str) -> np.ndarray:
        """Numbers as given; date-times as seconds or, where any row has a fraction, as microseconds."""
        import pandas as pd

        values = self._filled(column)
        dates = pd.api.types.is_datetime64_any_dtype(values)
        if not dates and pd.notna(pd.to_numeric(values.iloc[0], errors="coerce")):
            return self._numbers(column, TIME)
        if not dates and not pd.api.types.is_string_dtype(values):
            raise self.error(0, column, TIME)
        words = values.isin(("now", "today"))  # pandas would read the clock
        moments = pd.to_datetime(values.mask(words), format="ISO8601", utc=True, errors="coerce")
        self.refuse(moments.isna(), column, TIME)
        micros = moments.dt.tz_localize(None).astype("datetime64[us]").astype(np.int64).to_numpy()
        return micros if (micros % 1_000_000).any() else micros // 1_000_000

    def parts(self, column: str) -> np.ndarray:
        values = self.frame[column].astype(object)
        wrong = ~values.isin(PARTS)
        near = choices(str(values[wrong].iloc[0]), PARTS) if wrong.any() else ""
        self.refuse(wrong, column, f"no part of the data. {near.rstrip('.')}")
        return values.to_numpy()

    def features(self, kinds: Kinds) -> "pd.DataFrame":
        """Numbers as float64, all else as text; gaps are missing values."""
        import pandas as pd

        convert = {FeatureKind.categorical: self._text, FeatureKind.multi: self._multi}
        columns = {name: convert.get(kind, self._measure)(name) for name, kind in kinds.items()}
        return pd.DataFrame(columns, index=self.frame.index)

    def _measure(self, column: str) -> np.ndarray:
        message = "a numeric or binned feature must be a number, or empty where it is unknown"
        return self._numbers(column, message, gaps=GAPS).astype(np.float64)

    def _text(self, column: str) -> "pd.Series":
        from pandas.api import types

        values = self.frame[column]
        missing = _missing(values)
        if types.is_float_dtype(values) and (values.dropna() % 1 == 0).all():
            values = values.astype("Int64")  # "5", not "5.0"
        return values.astype(str).mask(missing)

    def _multi(self, column: str) -> "pd.Series":
        text = self._text(column)
        if self.multi_separator == MULTI_SEPARATOR:
            return text
        message = f"holds '{MULTI_SEPARATOR}', which is kept for dataset.multi_separator itself"
        self.refuse(text.str.contains(MULTI_SEPARATOR, regex=False).eq(True), column, message)
        return text.str.replace(self.multi_separator, MULTI_SEPARATOR, regex=False)

    def _numbers(
        self, column: str, message: str = "must be a number", gaps: tuple[str, ...] = ()
    ) -> np.ndarray:
        import pandas as pd

        values = self.frame[column]
        if pd.api.types.is_datetime64_any_dtype(values):
            raise self.error(0, column, message)
        missing = _missing(values) | values.isin(gaps) if gaps else np.zeros(len(values), bool)
        numbers = pd.to_numeric(values.mask(missing), errors="coerce").to_numpy()
        numbers = numbers.astype(np.int64 if numbers.dtype.kind in "ib" else np.float64, copy=False)
        self.refuse(~np.isfinite(numbers) & ~missing, column, message)
        return numbers

    def _filled(self, column: str) -> "pd.Series":
        self.refuse(_missing(self.frame[column]), column, "must not be empty")
        return self.frame[column]

    def refuse(self, wrong: "np.ndarray | pd.Series", column: str, message: str) -> None:
        wrong = np.asarray(wrong, dtype=bool)
        if wrong.any():
            raise self.error(int(wrong.argmax()), column, message)


def to_raw(config: TableConfig, open_table: Callable[[Path], Table], parts: list[Path]) -> Raw:
    """parts: the file of events, or those of train, valid and test.

    Raises DataError.
    """
    wanted, paths = config.roles(), config.side_paths()
    for side, kinds in vars(config.features).items():
        wanted |= dict.fromkeys(kinds if side not in paths else (), f"dataset.features.{side}")
    events = Sheet([open_table(path) for path in parts], wanted, config.multi_separator)
    columns, context = config.columns, config.features.context
    raw: dict[str, Any] = {"origin": str(config.path), "label": np.ones(len(events.frame))}
    if config.label is LabelKind.explicit:
        raw["label"] = events.labels(str(columns.label), config.label_threshold)
    if config.is_log:
        raw["timestamp"] = events.times(str(columns.timestamp))
        for side in ("user", "item"):
            raw[side] = events.ids(getattr(columns, side))
            raw[f"{side}s"] = _side(config, side, events, raw[side], open_table)
    if context:
        raw["context"] = events.features(context)
    if len(parts) > 1:
        raw["split"] = np.repeat(PARTS, events.sizes)
    elif config.split.kind is SplitKind.given:
        raw["split"] = events.parts(str(config.split.column))
    return Raw(**raw)


def _side(
    config: TableConfig, side: str, events: Sheet, ids: np.ndarray, open_table: Callable[[Path], Table]
) -> "pd.DataFrame | None":
    kinds, column = getattr(config.features, side), getattr(config.columns, side)
    path = config.side_paths().get(side)
    if not kinds:
        return None
    if path is None:
        return constant_features(events, side, ids, kinds)
    wanted = dict.fromkeys(kinds, f"dataset.features.{side}") | {column: f"dataset.columns.{side}"}
    sheet = Sheet([open_table(existing(path, f"dataset.{side}_path"))], wanted, config.multi_separator)
    found = features_by_id(sheet, column, kinds)
    if not found.index.isin(ids).any():
        message = f"none of these ids is in {config.path}, where {side}s look like {ids[0]!r}"
        raise sheet.error(0, column, message)
    return found


def features_by_id(sheet: Sheet, column: str, kinds: Kinds) -> "pd.DataFrame":
    """The features of a sheet that has one row an id, indexed by the id."""
    import pandas as pd

    ids = sheet.ids(column)
    again = pd.Series(ids).duplicated()
    sheet.refuse(again, column, "is there a second time; an id has one row of features")
    return sheet.features(kinds).set_index(pd.Index(ids, dtype=ids.dtype))


def constant_features(sheet: Sheet, side: str, ids: np.ndarray, kinds: Kinds) -> "pd.DataFrame":
    """The features of a side from the events themselves, one value an id."""
    import pandas as pd

    codes, unique = pd.factorize(ids)
    first = np.flatnonzero(~pd.Series(codes).duplicated())  # the row where each id occurs first
    for name in kinds:
        values = pd.factorize(sheet.frame[name])[0]
        wrong = values != values[first][codes]
        if wrong.any():
            row = int(wrong.argmax())
            earlier = str(sheet.frame[name].iloc[first[codes[row]]])
            message = f"{side} {ids[row]!r} has {earlier!r} in an earlier row; features of the event itself"
            raise sheet.error(row, name, f"{message} stand in dataset.features.context")
    return sheet.features(kinds).iloc[first].set_index(pd.Index(unique, dtype=ids.dtype))


def event_files(config: TableConfig, suffixes: tuple[str, ...]) -> list[Path]:
    """The file of events, or those of train, valid and test in a folder.

    Raises DataError.
    """
    path = Path(str(config.path)).expanduser()
    if config.split.kind is not SplitKind.given or config.split.column is not None:
        return [existing(path, "dataset.path")]
    if not path.is_dir():
        files = ", ".join(part + suffixes[0] for part in PARTS)
        raise DataError(f"dataset.path = {path}: must be a folder of {files}, or name dataset.split.column.")
    options = [[path / (part + suffix) for suffix in suffixes] for part in PARTS]
    return [existing(next(filter(Path.is_file, names), names[0]), "dataset.path") for names in options]


def existing(path: Path, key: str) -> Path:
    """Raises DataError unless it is a file."""
    if path.is_dir():
        raise DataError(
            f"{key} = {path}: is a folder; give a file (dataset.split.kind=given takes a folder of three)."
        )
    if not path.is_file():
        raise DataError(f"{key} = {path}: no such file.")
    return path


def fingerprint(config: TableConfig, parts: list[Path]) -> str:
    """Content of all files that are read, and the options that shape Raw.

    Raises DataError.
    """
    options = {key: value for key, value in to_dict(config).items() if key in RAW_OPTIONS}
    del options["split"]["ratios"]
    sides = {
        side: existing(path, f"dataset.{side}_path")
        for side, path in config.side_paths().items()
    }
    return digest([options, list(sides)], (path.open("rb") for path in [*parts, *sides.values()]))


def digest(options: Any, streams: Iterable[BinaryIO]) -> str:
    total = hashlib.blake2b(json.dumps(options).encode(), digest_size=16)
    for stream in streams:
        with stream:
            total.update(hashlib.file_digest(stream, "blake2b").digest())
    return total.hexdigest()


def _load(table: Table, wanted: dict[str, str]) -> "pd.DataFrame":
    columns = table.columns()
    for column, key in wanted.items():
        if column not in columns:
            raise DataError(f"{table.path}: no column '{column}' ({key}). {choices(column, columns)}")
        if columns.count(column) > 1:
            raise DataError(f"{table.path}: two columns are named '{column}' ({key}).")
    frame = table.read(list(wanted))
    if frame.empty:
        raise DataError(f"{table.path}: holds a header and no rows.")
    return frame


def _missing(values: "pd.Series") -> "pd.Series":
    return values.isna() | (values == "")
