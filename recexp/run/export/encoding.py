"""Describes how raw values become a model's inputs, for programs other than recexp.

n users, items or events
"""

from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from recexp.dataset.encoded import Encoded
from recexp.dataset.encoder import Encoder, SideEncoder
from recexp.dataset.field import MAX_DEVIATIONS, AnyField, Binned, Categorical, Hash, Multi, Numeric, Vector
from recexp.dataset.raw import MULTI_SEPARATOR
from recexp.dataset.schema import FIRST, UNKNOWN, Field, Schema, Side
from recexp.dataset.value import checksum

if TYPE_CHECKING:
    import pandas as pd


def described(encoder: Encoder, schema: Schema) -> dict[str, list[dict[str, Any]]]:
    """The fields of each side, in the order of its id columns and, if they are numbers, of its value columns.

    A field's ids start at `first`: that of its n-th value, counted from 0, is first + n; of a binned field, n is how
    many edges are not above the number, and of a hashed one its bucket, the CRC-32 of the value's text modulo
    `buckets`. A hashed field of width 2 has two ids instead, first + n % remainders and first + remainders +
    n // remainders, or 1 and 0 if it is unknown.
    """
    sides = {side: getattr(schema, side).fields for side in vars(encoder)}
    return {side: [_described(getattr(encoder, side), field) for field in fields] for side, fields in sides.items()}


def _described(encoder: SideEncoder, field: Field) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": field.name, "kind": field.kind.name}
    match encoder.fields[field.name]:
        case Numeric() | Vector() as numeric:
            mean, deviation = np.asarray(numeric.mean).tolist(), np.asarray(numeric.deviation).tolist()
            return entry | {"mean": mean, "deviation": deviation, "largest": MAX_DEVIATIONS}
        case Binned() as binned:
            entry |= {"size": binned.size, "edges": binned.edges.tolist()}
        case Hash() as hashed:
            entry |= {"buckets": hashed.n_buckets, "remainders": hashed.remainders}
        case Categorical() | Multi() as known:
            entry |= {"values": known.vocabulary.tolist()}
    return entry | {"first": FIRST + field.offset, "width": field.width}


def decoded(encoder: SideEncoder, side: Side, encoded: Encoded) -> list[dict[str, Any]]:
    """The raw values of n rows by name, None if unknown.

    Several values are a list; of a bin it is any number in it, and of a bucket any text.
    """
    texts = _texts(encoder, side, encoded)
    columns = {field.name: _decoded(encoder, field, encoded, texts) for field in side.fields}
    return [{name: column[row] for name, column in columns.items()} for row in range(len(encoded.ids))]


def raw_features(encoder: SideEncoder, known: "pd.DataFrame") -> dict[str, dict[str, Any]]:
    """The raw values of users or items by name, as `decoded` has them, by id."""
    columns = {str(name): _raw(known[name], encoder.fields[str(name)]) for name in known}
    rows = zip(*columns.values(), strict=True)
    return {str(raw): dict(zip(columns, row, strict=True)) for raw, row in zip(known.index, rows, strict=True)}


def _raw(column: "pd.Series", fitted: AnyField) -> list[Any]:
    cells = column.astype(object).where(column.notna(), None).tolist()
    if isinstance(fitted, Multi):
        return [[value for value in (cell or "").split(MULTI_SEPARATOR) if value] for cell in cells]
    return [cell.tolist() if isinstance(cell, np.ndarray) else cell for cell in cells]


def _decoded(encoder: SideEncoder, field: Field, encoded: Encoded, texts: dict[int, str]) -> list[Any]:
    fitted = encoder.fields[field.name]
    column: Any = encoded.column(field)  # no list, as no field is wide
    if isinstance(fitted, Numeric | Vector):
        return (column.astype(float) * fitted.deviation + fitted.mean).tolist()
    if isinstance(fitted, Hash):
        return [texts.get(bucket) for bucket in _buckets(fitted, field, column).tolist()]
    index = _index(field, column)
    if isinstance(fitted, Binned):
        lower = np.append(fitted.edges[:1] - 1, fitted.edges) if len(fitted.edges) else np.zeros(1)
        return [None if n < 0 else float(lower[n]) for n in index[:, 0]]
    values = [*fitted.vocabulary.tolist(), None]
    if isinstance(fitted, Multi):
        return [
            [values[n] for n, cell in zip(row, cells, strict=True) if cell]
            for row, cells in zip(index, column, strict=True)
        ]
    return [values[n] for n in index[:, 0]]


def _texts(encoder: SideEncoder, side: Side, encoded: Encoded) -> dict[int, str]:
    """A text in each bucket that the rows hold, found by trying numbers: the hashed values themselves are not kept."""
    wanted: set[int] = set()
    n_buckets = 1  # the same for all fields
    for field in side.fields:
        if isinstance(fitted := encoder.fields[field.name], Hash):
            wanted.update(_buckets(fitted, field, encoded.column(field)).tolist())
            n_buckets = fitted.n_buckets
    wanted.discard(-1)
    texts: dict[int, str] = {}
    numbers = map(str, count())
    while len(texts) < len(wanted):
        text = next(numbers)
        if (bucket := checksum(text) % n_buckets) in wanted:
            texts.setdefault(bucket, text)
    return texts


def _buckets(fitted: Hash, field: Field, column: Any) -> np.ndarray:
    """The bucket (n,) of each row, -1 if it is unknown."""
    index = _index(field, column)
    quotient = index[:, 1] - fitted.remainders if field.composed else 0
    return np.where(index[:, 0] < 0, -1, index[:, 0] + fitted.remainders * quotient)


def _index(field: Field, column: Any) -> np.ndarray:
    """The index of each value among the field's, -1 for padding and unknown, in the shape of its ids."""
    ids = column.astype(np.int64)
    return np.where(ids > UNKNOWN, ids - field.offset - FIRST, -1)
