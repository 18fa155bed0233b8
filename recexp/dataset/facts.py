"""Facts about prepared data, for the run directory and the terminal: sizes, label rates, rates of unknown values."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from recexp.dataset.encoded import Encoded
from recexp.dataset.log import SPLITS, Log, Table
from recexp.dataset.ragged import Ragged
from recexp.dataset.schema import UNKNOWN, Field, Side


def facts(log: Table, sides: Mapping[str, Side], tasks: Sequence[str] = ()) -> dict[str, Any]:
    """Digest of the events, sizes, label rates and, for valid and test, the share of unknown values by column.

    tasks: the names of several labels; of each, the rate in training and the share of rows that have it.
    """
    facts: dict[str, Any] = {"events": log.digest(), "rows": {}, "label_rate": {}, "unknown_rate": {}}
    if isinstance(log, Log):
        facts |= {"users": len(log.users.raw) - 1, "items": len(log.items.raw) - 1}
    for split in SPLITS:
        rows = log.rows(split)
        facts["rows"][split] = len(rows)
        facts["label_rate"][split] = round(float(log.label[rows].mean()), 6) if len(rows) else None
        if split != "train" and len(rows):
            facts["unknown_rate"][split] = dict(unknown_rates(log, rows, sides))
    if log.tasks is not None:
        facts["tasks"] = dict(zip(tasks, map(_label_facts, log.tasks[log.rows("train")].T), strict=True))
    return facts


def _label_facts(label: np.ndarray) -> dict[str, float | None]:
    """The share of rows (N,) that have a label, and its rate among them."""
    known = label[label >= 0]
    return {"known": round(len(known) / len(label), 6), "rate": round(float(known.mean()), 6) if len(known) else None}


def unknown_rates(log: Table, rows: np.ndarray, sides: Mapping[str, Side]) -> Iterable[tuple[str, float]]:
    """The share of some rows whose value is unknown, for each field but numbers."""
    tables: dict[str, tuple[Encoded, np.ndarray]] = {"context": (log.context, rows)}
    if isinstance(log, Log):
        tables = {"user": (log.users, log.user[rows]), "item": (log.items, log.item[rows])} | tables
    for side, (encoded, index) in tables.items():
        for field in sides[side].fields:
            if not field.numeric:
                name = field.name if field.name == side else f"{side}.{field.name}"
                yield name, round(float(_unknown(encoded, field, index).mean()), 6)


def _unknown(encoded: Encoded, field: Field, rows: np.ndarray) -> np.ndarray:
    """True for each of some rows in which a field has an unknown value: (n,) bool."""
    column = encoded.column(field)
    if not isinstance(column, Ragged):
        return (column[rows] == UNKNOWN).any(axis=1)
    ids, cell = column.flat()
    return (np.bincount(cell, ids == UNKNOWN, len(encoded.ids)) > 0)[rows]
