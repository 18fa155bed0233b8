"""Inspects files: guesses how to read them and what their columns are, counts, and tries out training."""

import glob
import logging
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from recexp import registry
from recexp.dataset import frame
from recexp.dataset.inspect import form, role
from recexp.dataset.inspect.choice import options_of
from recexp.dataset.inspect.facts import Label, LogFacts, facts_of, label_of
from recexp.dataset.inspect.form import Form
from recexp.dataset.inspect.role import ROLES, Column
from recexp.dataset.leak import leaks
from recexp.dataset.prepare import prepare
from recexp.dataset.raw import MULTI_SEPARATOR
from recexp.dataset.table_file import LoadedTable, joined
from recexp.error import DataError, UserError
from recexp.groups import conf_folder

if TYPE_CHECKING:
    import pandas as pd

QUOTES = "dataset.quoting=false"  # what the reader advises where a quote is text
HEAD = 200_000  # rows from which types, roles and leaks are guessed
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Side:
    """A file of user or item features."""

    path: str
    form: Form
    columns: list[Column]
    head: "pd.DataFrame"


@dataclass(frozen=True, kw_only=True)
class Inspection:
    path: str  # as dataset.path takes it
    form: Form
    rows: int
    n_head: int  # rows from which columns were guessed
    columns: list[Column]
    facts: LogFacts | None  # None for a table, which has no users and items
    label: Label | None
    sides: dict[str, Side] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)  # those of the dataset that differ from the reader's own
    warnings: list[str] = field(default_factory=list)


def inspect(paths: list[str]) -> Inspection:
    """Inspects a log in a file, a folder, the files of a pattern or several files, and files of its users and items.

    Files of users or items are recognised by a column of ids named as in the log. Raises DataError.
    """
    path, files, others = _log_and_other_files(paths)
    guessed = form.guess(files[0])
    if guessed.reader == "sequence":
        return _sequence(path, guessed)
    try:
        return _inspect(path, files, others, guessed)
    except DataError as error:
        if QUOTES not in str(error) or "quoting" in guessed.options:
            raise
        logger.warning("%s Here quotes are taken as text.", error)
        return _inspect(path, files, others, replace(guessed, options=guessed.options | {"quoting": False}))


def _inspect(path: str, files: list[Path], others: list[Path], log_form: Form) -> Inspection:
    tables = _opened(files, log_form)
    log_form = replace(log_form, columns=tuple(tables[0].columns()))
    head = _head(tables, list(log_form.columns))
    columns = role.guess(head, log_form.headed)
    if not log_form.headed:
        names = [column.role if column.role in ROLES else column.name for column in columns]
        log_form = replace(log_form, columns=tuple(names), options=log_form.options | {"header": names})
        columns = [replace(column, name=name) for column, name in zip(columns, names, strict=True)]
        head, tables = head.set_axis(names, axis=1), _opened(files, log_form)
    sides = dict(_side(other, columns, log_form) for other in others)
    by_role = {column.role: column.name for column in columns if column.role in ROLES and column.role != "split"}
    all_rows = _columns_by_role(tables, by_role)
    rows = len(next(iter(all_rows.values()))) if all_rows else len(head)
    facts, label = None, None
    if {"user", "item"} <= by_role.keys():
        time_format = next((column.time_format for column in columns if column.role == "timestamp"), None)
        facts = facts_of(all_rows, time_format)
        label = facts.label
    elif "label" in all_rows:
        label = label_of(all_rows["label"])
    inspection = Inspection(path=path, form=log_form, rows=rows, n_head=len(head), columns=columns, facts=facts,
                            label=label, sides=sides)  # fmt: skip
    options = options_of(columns, facts, label, {side: (file.path, file.columns) for side, file in sides.items()})
    inspection = replace(inspection, options={"path": path} | log_form.options | options)
    return replace(inspection, warnings=_training_warnings(inspection, head, tables))


def config_of(reader: str, options: dict[str, Any]) -> Any:
    """The typed options of a reader: those of its own YAML file, with some changed. Raises ConfigError."""
    base = OmegaConf.load(conf_folder() / "dataset" / f"{reader}.yaml")
    schema = OmegaConf.structured(registry.get("reader", reader).Config)
    return OmegaConf.to_object(OmegaConf.merge(schema, base, options))


def _log_and_other_files(paths: list[str]) -> tuple[str, list[Path], list[Path]]:
    """dataset.path, the files of the log, and other files. Files with the columns of the first are parts of the log."""
    first, *others = [frame.files_at(Path(path).expanduser(), "FILE") for path in paths]
    columns = _columns(first[0]) if others else ()
    parts = [files for files in others if _columns(files[0]) == columns]
    sides = [file for files in others if files not in parts for file in files]
    if not parts:
        return paths[0], first, sides
    files = [file for part in (first, *parts) for file in part]
    return _pattern(files), files, sides


def _columns(path: Path) -> tuple[str, ...]:
    """The columns of a file. The form of a text file holds them; a file with one user a line has none."""
    guessed = form.guess(path)
    if guessed.reader in ("parquet", "json"):
        return tuple(_opened([path], guessed)[0].columns())
    return guessed.columns


def _pattern(files: list[Path]) -> str:
    """A pattern that matches exactly these files. Raises DataError if there is none."""
    names = list(map(str, files))
    start = _common_prefix(names)
    end = _common_prefix([name[len(start) :][::-1] for name in names])[::-1]
    pattern = f"{start}*{end}"
    if sorted(glob.glob(pattern)) != sorted(names):
        raise DataError(f"{pattern}: matches other files than those given; put the parts of a log into one folder.")
    return pattern


def _common_prefix(names: list[str]) -> str:
    """The longest prefix of all names."""
    equal = [len(set(characters)) == 1 for characters in zip(*names, strict=False)]
    return names[0][: [*equal, False].index(False)]


def _opened(files: list[Path], file_form: Form) -> list[Any]:
    """The files as tables, opened by their reader."""
    config = config_of(file_form.reader, {"path": str(files[0])} | file_form.options)
    return [registry.get("reader", file_form.reader)(config).open(file) for file in files]


def _head(tables: list[Any], names: list[str]) -> "pd.DataFrame":
    """The first rows of all files together. Columns that cannot be used are left out, with a warning."""
    usable = [name for name in dict.fromkeys(names) if names.count(name) == 1]
    frames: list[pd.DataFrame] = []
    while len(frames) < len(tables) and sum(map(len, frames)) < HEAD:
        try:
            frames.append(tables[len(frames)].head(usable, HEAD))
        except DataError as error:
            unfit = re.search(r"column '(.*)': (is [a-z]+<|is (binary|null)|a value holds)", str(error))
            if unfit is None or frames:
                raise
            usable.remove(unfit[1])
    if left_out := [name for name in dict.fromkeys(names) if name not in usable]:
        why = f"which are nested, or named twice, or hold '{MULTI_SEPARATOR}' in values of lists"
        logger.warning("%s: no use of the columns %s, %s.", tables[0].path, ", ".join(left_out), why)
    frame = joined(frames)
    if frame.empty:
        raise DataError(f"{tables[0].path}: holds a header and no rows.")
    return frame.iloc[:HEAD]


def _columns_by_role(tables: list[Any], by_role: dict[str, str]) -> "dict[str, pd.Series]":
    """The columns of all rows, by role. by_role: the name of each role's column."""
    if not by_role:
        return {}
    frame = joined([table.read(list(by_role.values())) for table in tables])
    return {role: frame.pop(name) for role, name in by_role.items()}


def _side(path: Path, columns: list[Column], log: Form) -> tuple[str, Side]:
    """The side that a file describes: it has the log's column of ids, each id once. Raises DataError."""
    guessed = form.guess(path)
    if (guessed.reader, guessed.options) != (log.reader, log.options):
        raise DataError(f"{path}: is {guessed}; write it as the log is, which is {log}.")
    (table,) = _opened([path], guessed)
    head = table.read(table.columns())
    for side in ("user", "item"):
        ids = next((column.name for column in columns if column.role == side), None)
        if ids is not None and ids in head and not head[ids].duplicated().any():
            return side, Side(path=str(path), form=guessed, columns=role.features(head, ids, side), head=head)
    named = ", ".join(column.name for column in columns if column.role in ("user", "item"))
    raise DataError(f"{path}: is no part of the log, and no file of its users or items, with each id once ({named}).")


def _sequence(path: str, guessed: Form) -> Inspection:
    import pandas as pd

    options = {"path": path} | guessed.options
    raw = registry.get("reader", "sequence")(config_of("sequence", options)).read()
    assert raw.user is not None and raw.item is not None
    columns = {"user": pd.Series(raw.user), "item": pd.Series(raw.item), "timestamp": pd.Series(raw.timestamp)}
    facts = facts_of(columns)
    facts = replace(facts, unseen={kind: unseen for kind, unseen in facts.unseen.items() if kind != "time"})
    return Inspection(path=path, form=guessed, rows=facts.rows, n_head=facts.rows, columns=[], facts=facts, label=None,
                      options=options)  # fmt: skip


@dataclass(kw_only=True)
class _Rows(LoadedTable):
    """Rows that have been read already, as a table for the reader."""

    origin: Any

    def location(self, row: int) -> str:
        return self.origin.location(row)


def _training_warnings(inspection: Inspection, head: "pd.DataFrame", tables: list[Any]) -> list[str]:
    """Errors and warnings of training on the first rows; if there are more rows, only the error or the leaks."""
    if inspection.label is None and (inspection.facts is None or inspection.facts.time is None):
        return [
            "training would stop: no column looks like a label, and without users, items and times none is implied."
        ]
    try:
        config = config_of(inspection.form.reader, inspection.options)
        files = {Path(side.path): side.head for side in inspection.sides.values()}
        log = Path(inspection.path)

        def open_table(path: Path) -> Any:
            return _Rows(path=path, frame=files.get(path, head), origin=tables[0])

        raw = frame.to_raw(config, open_table, [log])
        dataset = prepare(raw, config)
    except UserError as error:
        return [f"training would stop: {error}"]
    if inspection.n_head == inspection.rows:
        return dataset.facts["warnings"]
    sides = {side: getattr(dataset.schema, side) for side in ("user", "item", "context")}
    return list(leaks(dataset.log, sides, raw.label[dataset.log.row], dataset.schema.tasks))
