"""Rows given to a trained model, n of them: read from a frame or a file, and checked."""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from recexp.dataset.config import DatasetConfig, FeatureKind, LabelKind
from recexp.dataset.encoder import Encoder, SideEncoder
from recexp.dataset.feature import vector_columns
from recexp.dataset.field import Categorical
from recexp.dataset.frame import require_file
from recexp.dataset.label import KEY, Rule, rules, task_labels
from recexp.dataset.log import Dataset, Log
from recexp.dataset.raw import MULTI_SEPARATOR, Ids
from recexp.dataset.reader.csv import CsvTable
from recexp.dataset.reader.json import JsonTable
from recexp.dataset.reader.parquet import ParquetTable
from recexp.dataset.reader.source import format_of
from recexp.dataset.sheet import Sheet
from recexp.dataset.table_file import LoadedTable, TableFile
from recexp.dataset.value import WHOLE, category_of
from recexp.dataset.vector import without_arrays
from recexp.error import DataError, choices
from recexp.groups import conf_folder
from recexp.safe_yaml import parse_yaml

if TYPE_CHECKING:
    import pandas as pd

ROLES = ("user", "item", "timestamp")
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """n rows as given; a column that they lack is None."""

    frame: "pd.DataFrame"  # what was read, unchanged
    user: "Ids | None" = None
    item: "Ids | None" = None
    timestamp: np.ndarray | None = None
    label: np.ndarray | None = None  # (n,) 0 or 1, NaN where it is unknown
    tasks: np.ndarray | None = None  # (n, T) int8, several labels: 0, 1, or -1 where one is unknown; first: `label`
    features: "dict[str, pd.DataFrame]"  # the feature columns that are there, by side
    timeless: bool = False  # they have no times, so they count as later than all of the run's events
    error: Callable[[int, str, str], DataError] | None = None  # makes the error for a row, a column and a message


class FrameTable(LoadedTable):
    """A pandas.DataFrame as a TableFile."""

    def __init__(self, frame: "pd.DataFrame", name: str = "frame") -> None:
        import pandas as pd

        frame = frame.set_axis(list(map(str, frame.columns)), axis=1).reset_index(drop=True)
        kinds = {name: kind for name, kind in frame.dtypes.items() if isinstance(kind, pd.CategoricalDtype)}
        super().__init__(
            path=Path(name), frame=frame.astype({name: kind.categories.dtype for name, kind in kinds.items()})
        )

    def location(self, row: int) -> str:
        return f"{self.path}, row {row} (counted from 0)"


def open_table(path: Path, config: Any, key: str) -> TableFile:
    """A file of rows: Parquet, JSON lines, or CSV as the run's own CSV files are. Raises DataError, naming `key`."""
    require_file(path, key)
    if (kind := format_of(path)) in ("parquet", "JSON"):
        return (ParquetTable if kind == "parquet" else JsonTable)(path, _separator(config))
    defaults = parse_yaml((conf_folder() / "dataset" / "csv.yaml").read_text("utf-8"))
    csv_config = config if config.reader == "csv" else None
    csv: Any = SimpleNamespace(**{name: getattr(csv_config, name, value) for name, value in defaults.items()})
    csv.header = None
    header = getattr(csv_config, "header", None)
    if header and not set(column_names(config).values()) & set(CsvTable(path, csv).columns()):
        csv.header = header
    return CsvTable(path, csv)


def column_names(config: Any) -> dict[str, str]:
    """Role -> column, named as in the run's own data, or as in its predictions if the reader names no columns."""
    columns = getattr(config, "columns", None)
    if columns is None:
        return {role: role for role in (*ROLES, "label")}
    first = next(iter(rules(columns.label).values()), None)
    names = vars(columns) | {"label": first and first.column}
    return {role: name for role, name in names.items() if name is not None}


def read_rows(
    table: TableFile,
    dataset: Dataset,
    config: Any,
    roles: Sequence[str] = ROLES,
    sides: Sequence[str] = ("user", "item", "context"),
    optional: Sequence[str] = ("label",),
    labelled: bool = False,
    needed: Sequence[str] = ("context",),
) -> Rows:
    """Reads the columns of some roles and the features of some sides, as far as the table has them.

    optional: roles that are read where the table has their column. labelled: each row must have a label. needed: sides
    whose features must all be there. Raises DataError for a missing column or the first wrong cell.
    """
    names, there = column_names(config), table.columns()
    if not isinstance(dataset.log, Log):
        roles = _ids_of_table(dataset, labelled)
    named = set(names)
    if labelled:
        roles, names = (*roles, "label"), {"label": "label"} | names  # data without labels name no column of them
    has_columns = hasattr(config, "columns")
    label_rules = config.rules() if has_columns and not isinstance(config.columns.label, str) else {}
    timeless = "timestamp" in roles and "timestamp" not in names
    roles = [role for role in roles if role != "timestamp" or not timeless]
    wanted = {
        names.get(role, role): f"dataset.columns.{role}" if has_columns and role in named else f"the {role} of each row"
        for role in roles
    }
    wanted |= {names[role]: role for role in optional if names.get(role) in there}
    if "label" in (*roles, *optional):
        wanted |= {rule.column: KEY for rule in label_rules.values() if labelled or rule.column in there}
    by_id = [str(name) for frame in dataset.joined.values() for name in frame]
    kinds = {side: _kinds(dataset.encoder, config, side, there, by_id, side in needed) for side in sides}
    for side, columns in kinds.items():
        wanted |= {name: wanted.get(name, f"dataset.features.{side}") for name in columns}
    separator, vectors = _separator(config), vector_columns(kinds.values(), names.values())
    sheet = Sheet([table], wanted, separator, getattr(config, "missing", ()), vectors)
    read = {role: names[role] for role in (*roles, *optional) if names.get(role) in wanted}
    parsed = _parsed_ids_and_times(sheet, read, dataset, config, timeless)
    if "label" in read:
        parsed |= _parsed_labels(sheet, read["label"], label_rules, config, labelled)
    features = {side: _features(sheet, kinds[side], getattr(dataset.encoder, side)) for side in sides}
    for side, known in dataset.joined.items():
        features["context"] = _with_joined(features["context"], known, parsed[side], side)
    frame = without_arrays(sheet.frame[[name for name in there if name in wanted]], separator)
    return Rows(frame=frame, features=features, error=sheet.error, **parsed)


def _ids_of_table(dataset: Dataset, labelled: bool) -> tuple[str, ...]:
    """The roles that a table's rows need: ids whose features join them and, for metrics by user, the user."""
    by_user = ("user",) if labelled and dataset.log.user is not None else ()
    return tuple(dict.fromkeys((*dataset.joined, *by_user)))


def _parsed_labels(
    sheet: Sheet, column: str, label_rules: Mapping[str, Rule], config: DatasetConfig, labelled: bool
) -> dict[str, Any]:
    """Members of Rows: label and, of several that metrics need, tasks."""
    rule = next(iter(label_rules.values()), None)
    parsed = {"label": sheet.ruled(rule) if rule else _labels(sheet, column, config, labelled)}
    if labelled and len(label_rules) > 1:
        parsed["tasks"] = task_labels({name: sheet.ruled(rule) for name, rule in label_rules.items()})
    if labelled:
        sheet.refuse(np.isnan(parsed["label"]), column, "must not be empty, as metrics need it")
    return parsed


def _parsed_ids_and_times(
    sheet: Sheet, read: Mapping[str, str], dataset: Dataset, config: Any, timeless: bool
) -> dict[str, Any]:
    """Members of Rows: user, item and timestamp. read: role -> column. timeless: the run's own data have no times."""
    parsed: dict[str, Any] = {}
    for side in ("user", "item"):
        if side in read:
            kept = _kept_ids(dataset, side)
            parsed[side] = sheet.ids(read[side]) if kept is None else _ids(sheet, read[side], kept)
    if "timestamp" in read:
        kept_times = dataset.log.timestamp if isinstance(dataset.log, Log) else None
        parsed["timestamp"] = sheet.times(read["timestamp"], getattr(config, "time_format", None), kept_times)
    if timeless and isinstance(dataset.log, Log):  # as in the run's data, the order of the rows is that of the events
        parsed["timeless"] = True
        parsed["timestamp"] = dataset.log.timestamp.max() + 1 + np.arange(len(sheet.frame), dtype=np.int64)
    return parsed


def names_by_id(table: TableFile, config: Any) -> "pd.DataFrame":
    """All other columns of a file of items, such as their titles, by the id as text. Raises DataError."""
    column, there = column_names(config)["item"], table.columns()
    if column not in there:
        advice = table.hint(there) or choices(column, there)
        raise DataError(f"{table.path}: no column '{column}' of item ids. {advice}")
    frame = table.read(there)
    return frame.set_axis(frame.pop(column).astype(str)).loc[lambda names: ~names.index.duplicated()]


def _separator(config: Any) -> str:
    return getattr(config, "multi_separator", MULTI_SEPARATOR)


def _with_joined(given: "pd.DataFrame", known: "pd.DataFrame", ids: Ids, side: str) -> "pd.DataFrame":
    """The context of rows, with the known features of their ids. Rows of unknown ids keep the features given."""
    import pandas as pd

    index = pd.Index(ids, dtype=ids.dtype)
    joined, new = known.reindex(index).set_axis(given.index), ~index.isin(known.index)
    if new.any():
        columns = [name for name in known if name in given]
        joined.loc[new, columns] = given.loc[new, columns]
        lacking = ", ".join(str(name) for name in known if name not in given)
        remark = f"missing in these rows: {lacking}" if lacking else "those in the rows count"
        logger.info("features kept with the run lack the %s of %s of %s rows; %s", side, new.sum(), len(new), remark)
    return given.drop(columns=known.columns, errors="ignore").join(joined)


def _kinds(
    encoder: Encoder, config: DatasetConfig, side: str, there: Collection[str], by_id: Collection[str], all_needed: bool
) -> dict[str, FeatureKind]:
    """The feature columns to read for a side. They come from the encoder, as options may name them by a pattern."""
    not_read = config.features.derived.names if side == "context" else [side]
    kinds = {name: field.kind for name, field in getattr(encoder, side).fields.items() if name not in not_read}
    needed = set(kinds) - set(by_id) if all_needed else ()
    return {name: kind for name, kind in kinds.items() if name in needed or name in there}


def _kept_ids(dataset: Dataset, side: str) -> np.ndarray | None:
    """The raw ids of a log's users or items, or of those whose features join a table; None if a table has none."""
    if isinstance(dataset.log, Log):
        return getattr(dataset.log, f"{side}s").raw
    return dataset.joined[side].index.to_numpy() if side in dataset.joined else None


def _ids(sheet: Sheet, column: str, kept: np.ndarray) -> Ids:
    """Ids in the type of those kept with the run. Raises DataError for text where those are integers."""
    import pandas as pd

    ids: Any = pd.Series(sheet.ids(column))
    text = pd.api.types.is_string_dtype(ids)
    if kept.dtype.kind in "iu" and text:
        sheet.refuse(~ids.str.fullmatch(r"-?\d{1,18}"), column, "must be an integer, as the ids of the run's data are")
        return ids.astype(np.int64).to_numpy()
    if kept.dtype.kind in "iu" or text:
        return ids.array
    ids = ids.astype(str)
    known = ids.isin(kept)
    if not known.all():
        written = {category_of(raw): raw for raw in kept.tolist()}  # 10.0 in a file is the number 10 in a frame
        ids = ids.where(known, ids.map(written).fillna(ids))
    return ids.array


def _labels(sheet: Sheet, column: str, config: DatasetConfig, labelled: bool) -> np.ndarray:
    labels = sheet.known_labels(column)
    if config.label_threshold is not None:
        return np.where(np.isnan(labels), np.nan, labels >= config.label_threshold)
    if config.label is LabelKind.explicit or labelled:
        sheet.refuse(~np.isin(labels, (0, 1)) & ~np.isnan(labels), column, "must be 0 or 1, or empty if it is unknown")
    return labels


def _features(sheet: Sheet, kinds: dict[str, FeatureKind], encoder: SideEncoder) -> "pd.DataFrame":
    """The features with categorical values in the types of the encoder's vocabulary, and vectors of its length."""
    frame = sheet.features(kinds, {name: field.width for name, field in encoder.fields.items()})
    for name, field in encoder.fields.items():
        if name in frame and isinstance(field, Categorical):
            values = field.vocabulary.tolist()
            if any(not isinstance(value, str) or WHOLE.match(value) for value in values):
                frame = frame.assign(**{name: frame[name].map({category_of(value): value for value in values})})
    return frame
