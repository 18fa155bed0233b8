"""Data whose cells of many values are padded as those of few are, so that an exported graph sees only columns."""

from dataclasses import replace
from typing import TypeVar

import numpy as np

from recexp.dataset.encoded import Encoded
from recexp.dataset.log import Dataset, Log
from recexp.dataset.ragged import Ragged
from recexp.dataset.schema import PADDING, Field, Schema, Side
from recexp.error import ConfigError

Rows = TypeVar("Rows", bound=Encoded)
MOST = 2**27  # ids of a table


def padded(dataset: Dataset) -> Dataset:
    """The dataset without lists. Raises ConfigError if a table would be too large for that."""
    log, schema = dataset.log, dataset.schema
    if not any(side.list_columns for side in (schema.user, schema.item, schema.context)):
        return dataset
    log = replace(log, context=_rows(log.context, schema.context))
    if isinstance(log, Log):
        log = replace(log, users=_rows(log.users, schema.user), items=_rows(log.items, schema.item))
    return replace(dataset, log=log, schema=padded_schema(schema), folder=None)


def padded_schema(schema: Schema) -> Schema:
    """The schema in which no field is wide."""
    return replace(schema, user=_side(schema.user), item=_side(schema.item), context=_side(schema.context))


def lists_of(columns: list[np.ndarray]) -> Ragged:
    """Padded ids (n, width) of each of M fields as lists."""
    width = np.array([column.shape[1] for column in columns])
    first, n = np.cumsum(width) - width, len(columns[0])
    start = np.arange(n)[:, None] * width.sum() + first
    count = np.stack([(column != PADDING).sum(1) for column in columns], 1)
    return Ragged(ids=np.concatenate(columns, 1).ravel(), start=start, count=count.astype(np.int32))


def _side(side: Side) -> Side:
    fields: list[Field] = []
    for field in side.fields:
        column = field.column if field.numeric else Side(fields=tuple(fields)).id_columns
        fields.append(replace(field, column=column, padded=True))
    return Side(fields=tuple(fields))


def _rows(rows: Rows, side: Side) -> Rows:
    columns = [_column(rows, field) for field in side.fields if not field.numeric]
    return replace(rows, ids=np.concatenate(columns, 1), lists=None) if columns else rows


def _column(rows: Encoded, field: Field) -> np.ndarray:
    """The ids (n, width) of a field."""
    column = rows.column(field)
    if not isinstance(column, Ragged):
        return column
    if (size := len(rows.ids) * field.width) > MOST:
        raise ConfigError(
            f"export: {field.name} has up to {field.width:,} values a cell; padded, {size:,} are more than {MOST:,}."
        )
    ids, cell = column.flat()
    position = np.arange(len(ids)) - np.searchsorted(cell, cell)
    filled = np.full((len(rows.ids), field.width), PADDING, np.int32)
    filled[cell, position] = ids
    return filled
