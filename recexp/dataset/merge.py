"""Merges rows given to a trained model with the events that its run has kept.

n rows given, N events and rows together
"""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np

from recexp.dataset.config import DatasetConfig, FeatureKind, HistoryUntil, LabelKind
from recexp.dataset.derive import derive
from recexp.dataset.encoded import Encoded
from recexp.dataset.encoder import SideEncoder
from recexp.dataset.facts import unknown_rates
from recexp.dataset.given import Rows, column_names
from recexp.dataset.index import by_user_then_time, group_starts
from recexp.dataset.label import MISSING
from recexp.dataset.log import SPLITS, Dataset, Entities, Log, Table
from recexp.dataset.ragged import Ragged
from recexp.dataset.raw import MULTI_SEPARATOR
from recexp.dataset.schema import FIRST, Side
from recexp.dataset.value import objects
from recexp.error import ConfigError, choices

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)


class History(Enum):
    saved = "the events kept with the run"
    given = "the rows given that have a label"
    both = "the events kept with the run, and the rows given that have a label"


def history_of(name: str) -> History:
    """Raises ConfigError for any other name."""
    if name not in History.__members__:
        raise ConfigError(f"history = {name}: no such choice. {choices(name, History.__members__)}")
    return History[name]


@dataclass(frozen=True)
class MergedRows:
    """The kept events together with the rows given."""

    dataset: Dataset
    row: np.ndarray  # (n,) positions in the log, in the order given
    known: np.ndarray | None  # (N,) bool, the events that histories may hold; None for a table


def merge(dataset: Dataset, rows: Rows, config: DatasetConfig, history: History = History.both) -> MergedRows:
    """Merges rows with the events that a run has kept. New users and items are added with their features.

    A row with a label, or any row where labels are implicit, is also an event that later rows of its user may see,
    unless it is among the kept ones. Raises ConfigError if `history` contradicts dataset.history_until.
    """
    log, n = dataset.log, len(rows.frame)
    label = np.zeros(n) if rows.label is None else np.nan_to_num(rows.label)
    columns: dict[str, np.ndarray] = {
        "label": label.astype(np.int8),
        "split": np.full(n, SPLITS.index("test"), np.int8),
        "row": np.arange(n, dtype=np.int32),
    }
    if not isinstance(log, Log):
        return _table_of(dataset, rows, columns)
    if history is History.given and config.history_until is HistoryUntil.split:
        raise ConfigError(
            "history = given: dataset.history_until is split, so only events of the run's training count."
        )
    users, user = extended(log.users, dataset.encoder.user, "user", rows.user, rows.features.get("user"))
    items, item = log.items, np.zeros(n, np.int32)
    if rows.item is not None:
        items, item = extended(log.items, dataset.encoder.item, "item", rows.item, rows.features.get("item"))
    assert rows.timestamp is not None
    columns |= {"user": user, "item": item, "timestamp": rows.timestamp}
    is_event = _is_event(log, rows, columns, config, history)
    known = np.concatenate([np.full(len(log), history is not History.given), is_event])
    columns = {name: np.concatenate([getattr(log, name), column]) for name, column in columns.items()}
    order = by_user_then_time(columns["user"], columns["timestamp"])
    columns = {name: column[order] for name, column in columns.items()}
    position = np.empty_like(order)
    position[order] = np.arange(len(order))
    tasks = None
    if log.tasks is not None:  # the labels of the rows given are not needed
        tasks = np.concatenate([log.tasks, np.full((n, log.tasks.shape[1]), MISSING, np.int8)])[order]
    merged = Log(
        **columns,
        tasks=tasks,
        before=group_starts(columns["user"], columns["timestamp"]),
        context=Encoded(ids=np.zeros((len(order), 0), np.int32), values=np.zeros((len(order), 0), np.float32)),
        users=users,
        items=items,
    )
    merged = replace(merged, context=_context(dataset, merged, rows, known[order], position, config))
    return MergedRows(replace(dataset, log=merged, folder=None), position[len(log) :], known[order])


def _table_of(dataset: Dataset, rows: Rows, columns: dict[str, np.ndarray]) -> MergedRows:
    """The rows as a table, of which a run keeps no rows."""
    n, tasks = len(rows.frame), dataset.log.tasks
    table = Table(
        **columns,
        user=None if rows.user is None else np.unique(np.asarray(rows.user), return_inverse=True)[1],
        context=dataset.encoder.context.transform(rows.features["context"]),
        tasks=None if tasks is None else np.full((n, tasks.shape[1]), MISSING, np.int8),
    )
    return MergedRows(replace(dataset, log=table), np.arange(n), None)


def refuse_own_events(dataset: Dataset, rows: Rows, config: DatasetConfig, history: History) -> None:
    """Raises DataError for the first row without a time that may be a valid or test event of its own history."""
    import pandas as pd

    log = dataset.log
    if not rows.timeless or history is History.given or config.history_until is HistoryUntil.split:
        return
    assert isinstance(log, Log) and rows.error is not None
    held_out = log.split > 0
    known = pd.MultiIndex.from_arrays([log.user[held_out], log.item[held_out]])
    given = pd.MultiIndex.from_arrays([log.users.index_of(rows.user), log.items.index_of(rows.item)])  # type: ignore[arg-type]
    if (is_own := given.isin(known)).any():
        message = (
            "the run's own valid or test rows hold this user and item; without times it cannot be told whether this is "
            "that event, whose label its history would hold: give rows that the run does not hold, evaluate its own "
            "by `recexp evaluate RUN`, or set --history given"
        )
        raise rows.error(int(is_own.argmax()), column_names(config)["item"], message)


def warn_of_other_times(kept: Dataset, given: MergedRows) -> None:
    """Warns if the times of the rows given seem to be in another unit than those that the run has kept."""
    log, merged = kept.log, given.dataset.log
    if not (isinstance(log, Log) and isinstance(merged, Log) and len(log)):
        return
    times = (log.timestamp, merged.timestamp[given.row])
    low, high, first, last = (float(bound) for column in times for bound in (column.min(), column.max()))
    if last > 100 * abs(high) or 100 * abs(last) < low:
        logger.warning(
            "times reach from %g to %g, those of the run from %g to %g: another unit?", first, last, low, high
        )


def log_unknown(given: MergedRows, sides: Mapping[str, Side]) -> None:
    """Logs in how many of the rows given a value is unknown to the model. sides: what it reads."""
    rates = unknown_rates(given.dataset.log, given.row, sides)
    if unknown := [f"{name} in {rate * len(given.row):,.0f}" for name, rate in rates if rate]:
        logger.info("unknown to the model, of %s rows: %s", f"{len(given.row):,}", ", ".join(unknown))


def extended(
    entities: Entities, encoder: SideEncoder, name: str, ids: Any, features: "pd.DataFrame | None"
) -> tuple[Entities, np.ndarray]:
    """Users or items with new ones appended, with the features of their first row; and the row (n,) of each id."""
    import pandas as pd

    index = entities.index_of(ids)
    new = np.flatnonzero(index == 0)
    if not len(new):
        return entities, index.astype(np.int32)
    codes, unique = pd.factorize(pd.Series(ids).iloc[new])
    index[new] = len(entities.raw) + codes
    raw = np.asarray(unique).astype(entities.raw.dtype.kind if entities.raw.dtype.kind == "U" else entities.raw.dtype)
    first = new[~pd.Series(codes).duplicated()]
    frame = pd.DataFrame(index=range(len(first))) if features is None else features.iloc[first].reset_index(drop=True)
    encoded = encoder.transform(frame.reindex(columns=list(encoder.fields)).assign(**{name: raw}))
    longer = Entities(**vars(entities.with_rows(encoded)), raw=np.concatenate([entities.raw, raw]))
    return longer, index.astype(np.int32)


def _is_event(
    log: Log, rows: Rows, columns: dict[str, np.ndarray], config: DatasetConfig, history: History
) -> np.ndarray:
    """(n,) bool: the rows that histories of later rows may hold."""
    import pandas as pd

    n = len(rows.frame)
    if history is History.saved:
        return np.zeros(n, bool)
    if config.label is LabelKind.implicit:
        event = np.ones(n, bool) if rows.label is None else rows.label > 0
    else:
        event = np.zeros(n, bool) if rows.label is None else ~np.isnan(rows.label)
    if history is History.both and event.any():
        key = ("user", "item", "timestamp")
        kept = pd.MultiIndex.from_arrays([getattr(log, name) for name in key])
        event &= ~pd.MultiIndex.from_arrays([columns[name] for name in key]).isin(kept)
    return event


def _context(
    dataset: Dataset, merged: Log, rows: Rows, known: np.ndarray, position: np.ndarray, config: DatasetConfig
) -> Encoded:
    """The fields (N, .) of all rows: derived ones of the rows given from the known events before them."""
    kept, frame = dataset.log.context, rows.features["context"]
    row = position[len(dataset.log) :]
    if names := config.features.derived.names:
        items = decoded(dataset.encoder.item, merged.items, config.features.derived.most_liked)
        columns = derive(merged, items, config, known)
        frame = frame.assign(**{name: columns[name][row] for name in names})
    given = dataset.encoder.context.transform(frame.reindex(columns=list(dataset.encoder.context.fields)))
    order = np.empty_like(position)
    order[position] = np.arange(len(position))
    return kept.with_rows(given).at(order)


def decoded(encoder: SideEncoder, encoded: Encoded, names: Collection[str]) -> "pd.DataFrame":
    """Categorical and multi-valued fields as values again, one row per item from 1 on, without unknown values."""
    import pandas as pd

    columns = {}
    for field in encoder.side.fields:
        if field.name in names:
            vocabulary: Any = getattr(encoder.fields[field.name], "vocabulary")  # noqa: B009
            values = objects([None] * FIRST + vocabulary.tolist())
            column = encoded.at(slice(1, None)).column(field)
            ids = column.ids if isinstance(column, Ragged) else column
            texts = values[np.where(ids >= FIRST, ids - field.offset, 0)]
            cells = replace(column, ids=texts).cells() if isinstance(column, Ragged) else texts
            if field.kind is FeatureKind.multi:
                columns[field.name] = [MULTI_SEPARATOR.join(filter(None, row)) or None for row in cells]
            else:
                columns[field.name] = [row[0] for row in cells]
    return pd.DataFrame(columns)
