"""What the run directory and the terminal say about prepared data: sizes, label rates, rates of unknown values."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from recexp.dataset.field import Encoded
from recexp.dataset.log import SPLITS, Log, Table
from recexp.dataset.schema import UNKNOWN, Field, Side


def facts(log: Table, sides: Mapping[str, Side]) -> dict[str, Any]:
    """Digest of the events, sizes, label rates and, for valid and test, the share of unknown values by column."""
    facts: dict[str, Any] = {"events": log.digest(), "rows": {}, "label_rate": {}, "unknown_rate": {}}
    if isinstance(log, Log):
        facts |= {"users": len(log.users.raw) - 1, "items": len(log.items.raw) - 1}
    for split in SPLITS:
        rows = log.rows(split)
        facts["rows"][split] = len(rows)
        facts["label_rate"][split] = round(float(log.label[rows].mean()), 6) if len(rows) else None
        if split != "train" and len(rows):
            facts["unknown_rate"][split] = dict(unknown_rates(log, rows, sides))
    return facts


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
    """Whether a field has an unknown value in some rows: bool."""
    if not field.wide:
        return (encoded.ids[rows, field.column : field.column + field.width] == UNKNOWN).any(axis=1)
    assert encoded.lists is not None
    ids, cell = encoded.lists.column(field.column).flat()
    return (np.bincount(cell, ids == UNKNOWN, len(encoded.ids)) > 0)[rows]
