"""Turns the user's own tables into Raw: which column plays which role, and which files hold the columns."""

import glob
import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from io import BufferedIOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recexp.dataset.config import FeatureKind, LabelKind, SplitKind
from recexp.dataset.feature import constant_features, features_by_id, vector_columns
from recexp.dataset.log import SPLITS
from recexp.dataset.raw import Raw
from recexp.dataset.reader import source
from recexp.dataset.sheet import Sheet
from recexp.dataset.table_config import TableConfig
from recexp.dataset.table_file import TableFile
from recexp.error import DataError
from recexp.tree import to_dict

if TYPE_CHECKING:
    import pandas as pd

RAW_OPTIONS = {"reader", "label", "features", "split", "columns", "multi_separator", "separator", "quoting", "header",
               "encoding", "time_format", "missing"}  # fmt: skip


class FileReader:
    """A reader of the user's own files; a subclass says how to open one."""

    suffixes: tuple[str, ...]

    def __init__(self, config: Any) -> None:
        self.config = self._expanded(config)

    def open(self, path: Path) -> TableFile:
        raise NotImplementedError

    def fingerprint(self) -> str:
        """Content of all files that are read, and the options that shape Raw. Raises DataError."""
        config: TableConfig = self.config
        options = {key: value for key, value in to_dict(config).items() if key in RAW_OPTIONS}
        del options["split"]["ratios"]
        sides = {side: require_file(path, f"dataset.{side}_path") for side, path in config.side_paths().items()}
        paths = [*event_files(config, self.suffixes), *sides.values()]
        return digest([options, list(sides)], map(source.stored, paths))

    def _expanded(self, config: Any) -> Any:
        """The options with patterns of feature names, such as C*, replaced by columns. Raises DataError."""
        if not any(is_pattern(name) for kinds in config.features.sides.values() for name in kinds):
            return config
        self.config = config
        files, columns = {}, {}
        for side in config.features.sides:
            path = config.side_paths().get(side)
            file = event_files(config, self.suffixes)[0] if path is None else require_file(path, f"dataset.{side}_path")
            files[side], columns[side] = file, self.open(file).columns()
        sides = expand_patterns(config.features.sides, columns, files, config.roles())
        return replace(config, features=replace(config.features, **sides))

    def read(self) -> Raw:
        return to_raw(self.config, self.open, event_files(self.config, self.suffixes))


def to_raw(config: TableConfig, open_table: Callable[[Path], TableFile], files: list[Path]) -> Raw:
    """files: those of events, or of train, valid and test. Raises DataError."""
    wanted, paths = config.roles(), config.side_paths()
    for side, kinds in config.features.sides.items():
        wanted |= dict.fromkeys(kinds if side not in paths else (), f"dataset.features.{side}")
    own_columns = [kinds for side, kinds in config.features.sides.items() if side not in paths]
    vectors = vector_columns(own_columns, config.roles())
    events = Sheet([open_table(path) for path in files], wanted, config.multi_separator, config.missing, vectors)
    columns, context = config.columns, config.features.context
    raw: dict[str, Any] = {"origin": ", ".join(config.files), **_labels(config, events)}
    if config.is_log:
        raw["timestamp"] = np.arange(len(events.frame))  # if there are no times, the order of the rows
        if columns.timestamp is not None:
            raw["timestamp"] = events.times(columns.timestamp, config.time_format)
    for side in ("user", "item"):
        if (column := getattr(columns, side)) is not None:
            raw[side] = events.ids(column)
            raw[f"{side}s"] = _side(config, side, events, raw[side], open_table)
    if context:
        raw["context"] = events.features(context)
    if config.split.kind is SplitKind.given:
        column = config.split.column
        raw["split"] = np.repeat(SPLITS, events.sizes) if column is None else events.splits(column)
    return Raw(**raw)


def _labels(config: TableConfig, events: Sheet) -> dict[str, Any]:
    """The label; and if there are several, all of them by name as `tasks`."""
    if config.label is LabelKind.implicit:
        return {"label": np.ones(len(events.frame))}
    if isinstance(config.columns.label, str):
        return {"label": events.labels(config.columns.label, config.label_threshold)}
    labels = {name: events.ruled(rule) for name, rule in config.rules().items()}
    first, rule = next(iter(labels.values())), next(iter(config.rules().values()))
    events.refuse(np.isnan(first), rule.column, "must not be empty: histories show the first label")
    return {"label": first, "tasks": labels} if len(labels) > 1 else {"label": first}


def _side(
    config: TableConfig, side: str, events: Sheet, ids: np.ndarray, open_table: Callable[[Path], TableFile]
) -> "pd.DataFrame | None":
    kinds, column = getattr(config.features, side), getattr(config.columns, side)
    path = config.side_paths().get(side)
    if not kinds:
        return None
    if path is None:
        return constant_features(events, side, ids, kinds)
    wanted = dict.fromkeys(kinds, f"dataset.features.{side}") | {column: f"dataset.columns.{side}"}
    table = open_table(require_file(path, f"dataset.{side}_path"))
    sheet = Sheet([table], wanted, config.multi_separator, config.missing, vector_columns([kinds]))
    features = features_by_id(sheet, column, kinds)
    if not features.index.isin(ids).any():
        like = repr(ids[0]) if isinstance(ids[0], str) else f"the number {ids[0]}"
        message = f"none of these ids is in {', '.join(config.files)}, where {side}s look like {like}"
        raise sheet.error(0, column, message)
    return features


def is_pattern(name: str) -> bool:
    return any(sign in name for sign in "*?")


def expand_patterns(
    sides: Mapping[str, Mapping[str, FeatureKind]],
    columns: Mapping[str, Collection[str]],
    files: Mapping[str, Path],
    roles: Collection[str],
) -> dict[str, dict[str, FeatureKind]]:
    """The features of each side, with patterns replaced by the columns that match them and have no other use.

    columns, files: of each side. A column goes to one pattern only, and to * if no other pattern takes it. A column
    that the configuration names, as a role or as a feature, goes to none. Raises DataError for a pattern without any.
    """
    named = {name for kinds in sides.values() for name in kinds} | set(roles)
    patterns = [
        (side, name)
        for side, kinds in sides.items()
        for name in kinds
        if is_pattern(name) and name not in columns[side]
    ]
    taken: set[tuple[Path, str]] = set()
    matches: dict[tuple[str, str], list[str]] = {}
    for side, name in sorted(patterns, key=lambda pattern: pattern[1] == "*"):
        file = files[side]
        free = [column for column in columns[side] if column not in named and (file, column) not in taken]
        matches[side, name] = [column for column in free if fnmatchcase(column, name)]
        if not matches[side, name]:
            reason = f"matches no column that has no other use. Columns: {', '.join(columns[side])}."
            raise DataError(f"dataset.features.{side}.{name}: {reason}")
        taken |= {(file, column) for column in matches[side, name]}
    return {
        side: {column: kind for name, kind in kinds.items() for column in matches.get((side, name), [name])}
        for side, kinds in sides.items()
    }


def event_files(config: TableConfig, suffixes: tuple[str, ...]) -> list[Path]:
    """The files of events, or those of train, valid and test in a folder. Raises DataError."""
    paths = [Path(file).expanduser() for file in config.files]
    if config.split.kind is not SplitKind.given or config.split.column is not None:
        return [file for path in paths for file in files_at(path, "dataset.path")]
    path = paths[0]
    if len(paths) > 1 or not path.is_dir():
        files = ", ".join(split + suffixes[0] for split in SPLITS)
        raise DataError(f"dataset.path = {path}: must be a folder of {files}, or name dataset.split.column.")
    options = [[path / (split + suffix) for suffix in suffixes] for split in SPLITS]
    return [require_file(next(filter(Path.is_file, names), names[0]), "dataset.path") for names in options]


def files_at(path: Path, key: str) -> list[Path]:
    """The file, or all files in a folder, or all that a pattern such as day-*.csv matches.

    Files such as _SUCCESS and .part.crc, which Spark writes, hold no data. Raises DataError.
    """
    pattern = not path.exists() and any(sign in str(path) for sign in "*?[")
    if not path.is_dir() and not pattern:
        return [require_file(path, key)]
    candidates = path.iterdir() if path.is_dir() else map(Path, glob.glob(str(path)))
    files = sorted(file for file in candidates if file.is_file() and not file.name.startswith((".", "_")))
    if not files:
        raise DataError(f"{key} = {path}: {'matches no file' if pattern else _without_files(path)}.")
    return [require_file(file, key) for file in files]


def _without_files(path: Path) -> str:
    """What is wrong with a folder without files; a pattern can name those below, as in a partitioned data set."""
    depths = [len(file.relative_to(path).parts) for file in path.rglob("*") if file.is_file()]
    if not depths:
        return "is a folder without files"
    pattern = path.joinpath(*["*"] * min(depths))
    return f'is a folder of folders; name the files in these as "{pattern}"'


def require_file(path: Path, key: str) -> Path:
    """Returns the path of a readable file, which may be in a zip archive. Raises DataError for any other path."""
    if source.archive_of(path):
        source.stored(path).close()
        return path
    if path.is_dir():
        raise DataError(f"{key} = {path}: is a folder, not a file.")
    if not path.is_file():
        reason = "is no regular file" if path.exists() else "no such file"
        raise DataError(f"{key} = {path}: {reason}.")
    if not os.access(path, os.R_OK):
        raise DataError(f"{key} = {path}: may not be read by you.")
    return path


def digest(options: Any, streams: Iterable[BufferedIOBase]) -> str:
    total = hashlib.blake2b(json.dumps(options).encode(), digest_size=16)
    for stream in streams:
        with stream:
            total.update(hashlib.file_digest(stream, "blake2b").digest())
    return total.hexdigest()
