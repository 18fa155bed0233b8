"""Looks at files: guesses how they are read and what their columns are, counts, and tries what training would do."""

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
from recexp.dataset.table_file import LoadedTable
from recexp.error import DataError, UserError
from recexp.groups import conf_folder

if TYPE_CHECKING:
    import pandas as pd

QUOTES = "dataset.quoting=false"  # what the reader advises where a quote is text
HEAD = 200_000  # rows from which types, roles and leaks are told
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


def inspect(typed: list[str]) -> Inspection:
    """What is known of a log in a file, a folder, files of a pattern or several files, and of its users and items.

    Files of users or items are told by a column of ids named as in the log. Raises DataError.
    """
    path, files, others = _sorted_out(typed)
    found = form.guess(files[0])
    if found.reader == "sequence":
        return _sequence(path, found)
    try:
        return _inspect(path, files, others, found)
    except DataError as error:
        if QUOTES not in str(error) or "quoting" in found.options:
            raise
        logger.warning("%s Here quotes are taken as text.", error)
        return _inspect(path, files, others, replace(found, options=found.options | {"quoting": False}))


def _inspect(path: str, files: list[Path], others: list[Path], found: Form) -> Inspection:
    opened = _opened(files, found)
    found = replace(found, columns=tuple(opened[0].columns()))
    head = _head(opened, list(found.columns))
    columns = role.guess(head, found.headed)
    if not found.headed:
        names = [column.role if column.role in ROLES else column.name for column in columns]
        found = replace(found, columns=tuple(names), options=found.options | {"header": names})
        columns = [replace(column, name=name) for column, name in zip(columns, names, strict=True)]
        head, opened = head.set_axis(names, axis=1), _opened(files, found)
    sides = dict(_side(other, columns, found) for other in others)
    by_role = {column.role: column.name for column in columns if column.role in ROLES and column.role != "split"}
    whole = _whole(opened, by_role)
    rows = len(next(iter(whole.values()))) if whole else len(head)
    facts, label = None, None
    if {"user", "item"} <= by_role.keys():
        facts = facts_of(whole, next((column.time_format for column in columns if column.role == "timestamp"), None))
        label = facts.label
    elif "label" in whole:
        label = label_of(whole["label"])
    seen = Inspection(path=path, form=found, rows=rows, n_head=len(head), columns=columns, facts=facts, label=label,
                      sides=sides)  # fmt: skip
    options = options_of(columns, facts, label, {side: (file.path, file.columns) for side, file in sides.items()})
    seen = replace(seen, options={"path": path} | found.options | options)
    return replace(seen, warnings=_tried(seen, head, opened))


def config_of(reader: str, options: dict[str, Any]) -> Any:
    """The typed options of a reader: those of its own YAML file, with some changed. Raises ConfigError."""
    base = OmegaConf.load(conf_folder() / "dataset" / f"{reader}.yaml")
    schema = OmegaConf.structured(registry.get("reader", reader).Config)
    return OmegaConf.to_object(OmegaConf.merge(schema, base, options))


def _sorted_out(typed: list[str]) -> tuple[str, list[Path], list[Path]]:
    """dataset.path, the files of the log, and other files."""
    first, *others = [frame.parts(Path(path).expanduser(), path) for path in typed]
    columns = _columns(first[0]) if others else ()
    more = [files for files in others if _columns(files[0]) == columns]
    sides = [file for files in others if files not in more for file in files]
    if not more:
        return typed[0], first, sides
    files = [file for part in (first, *more) for file in part]
    return _pattern(files), files, sides


def _columns(path: Path) -> tuple[str, ...]:
    """The columns of a file; those of text are in its form already, and one user a line has none."""
    found = form.guess(path)
    return tuple(_opened([path], found)[0].columns()) if found.reader in ("parquet", "json") else found.columns


def _pattern(files: list[Path]) -> str:
    """A pattern that matches these files alone. Raises DataError if there is none."""
    names = list(map(str, files))
    start = _shared(names)
    end = _shared([name[len(start) :][::-1] for name in names])[::-1]
    pattern = f"{start}*{end}"
    if sorted(glob.glob(pattern)) != sorted(names):
        raise DataError(f"{pattern}: matches other files than those given; put the parts of a log into one folder.")
    return pattern


def _shared(names: list[str]) -> str:
    """What all names start with."""
    alike = [len(set(signs)) == 1 for signs in zip(*names, strict=False)]
    return names[0][: [*alike, False].index(False)]


def _opened(files: list[Path], found: Form) -> list[Any]:
    """The files as their reader opens them."""
    config = config_of(found.reader, {"path": str(files[0])} | found.options)
    return [registry.get("reader", found.reader)(config).open(file) for file in files]


def _head(opened: list[Any], names: list[str]) -> "pd.DataFrame":
    """The first rows of all files together. Columns that cannot be used are left out, aloud."""
    import pandas as pd

    usable = [name for name in dict.fromkeys(names) if names.count(name) == 1]
    frames: list[pd.DataFrame] = []
    while len(frames) < len(opened) and sum(map(len, frames)) < HEAD:
        try:
            frames.append(opened[len(frames)].head(usable, HEAD))
        except DataError as error:
            unfit = re.search(r"column '(.*)': (is [a-z]+<|is (binary|null)|a value holds)", str(error))
            if unfit is None or frames:
                raise
            usable.remove(unfit[1])
    if left_out := [name for name in dict.fromkeys(names) if name not in usable]:
        why = f"which are nested, or named twice, or hold '{MULTI_SEPARATOR}' in values of lists"
        logger.warning("%s: no use of the columns %s, %s.", opened[0].path, ", ".join(left_out), why)
    joined = pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0]
    if joined.empty:
        raise DataError(f"{opened[0].path}: holds a header and no rows.")
    return joined.iloc[:HEAD]


def _whole(opened: list[Any], by_role: dict[str, str]) -> "dict[str, pd.Series]":
    """The columns of all rows by their roles."""
    import pandas as pd

    if not by_role:
        return {}
    frames = [table.read(list(by_role.values())) for table in opened]
    joined = pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0]
    return {wanted: joined.pop(name) for wanted, name in by_role.items()}


def _side(path: Path, columns: list[Column], log: Form) -> tuple[str, Side]:
    """The side that a file describes: it has the log's column of ids, each id once. Raises DataError."""
    found = form.guess(path)
    if (found.reader, found.options) != (log.reader, log.options):
        raise DataError(f"{path}: is {found}; write it as the log is, which is {log}.")
    (table,) = _opened([path], found)
    head = table.read(table.columns())
    for side in ("user", "item"):
        ids = next((column.name for column in columns if column.role == side), None)
        if ids is not None and ids in head and not head[ids].duplicated().any():
            return side, Side(path=str(path), form=found, columns=role.features(head, ids, side), head=head)
    named = ", ".join(column.name for column in columns if column.role in ("user", "item"))
    raise DataError(f"{path}: is no part of the log, and no file of its users or items, with each id once ({named}).")


def _sequence(path: str, found: Form) -> Inspection:
    import pandas as pd

    options = {"path": path} | found.options
    raw = registry.get("reader", "sequence")(config_of("sequence", options)).read()
    assert raw.user is not None and raw.item is not None
    columns = {"user": pd.Series(raw.user), "item": pd.Series(raw.item), "timestamp": pd.Series(raw.timestamp)}
    facts = facts_of(columns)
    facts = replace(facts, unseen={kind: unseen for kind, unseen in facts.unseen.items() if kind != "time"})
    return Inspection(path=path, form=found, rows=facts.rows, n_head=facts.rows, columns=[], facts=facts, label=None,
                      options=options)  # fmt: skip


@dataclass(kw_only=True)
class _Rows(LoadedTable):
    """Rows that have been read already, as a table for the reader."""

    origin: Any

    def location(self, row: int) -> str:
        return self.origin.location(row)


def _tried(seen: Inspection, head: "pd.DataFrame", opened: list[Any]) -> list[str]:
    """What training on the first rows would stop at or warn of; if there are more rows, only what leaks in these."""
    if seen.label is None and (seen.facts is None or seen.facts.time is None):
        return [
            "training would stop: no column looks like a label, and without users, items and times none is implied."
        ]
    try:
        config = config_of(seen.form.reader, seen.options)
        files = {Path(side.path): side.head for side in seen.sides.values()}
        log = Path(seen.path)

        def open_table(path: Path) -> Any:
            return _Rows(path=path, frame=files.get(path, head), origin=opened[0])

        raw = frame.to_raw(config, open_table, [log])
        dataset = prepare(raw, config)
    except UserError as error:
        return [f"training would stop: {error}"]
    if seen.n_head == seen.rows:
        return dataset.facts["warnings"]
    sides = {side: getattr(dataset.schema, side) for side in ("user", "item", "context")}
    return list(leaks(dataset.log, sides, raw.label[dataset.log.row]))
