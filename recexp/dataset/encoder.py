"""The fitted encoder, which turns the feature columns of users, items and events into ids and numbers.

It learns vocabularies, means and bin edges from the training rows; `transform` then encodes any rows, also new ones.
It is saved as JSON, which keeps the types of text and integers and every bit of floats.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recexp.dataset.config import FeatureKind
from recexp.dataset.encoded import Encoded
from recexp.dataset.field import ENCODERS, AnyField, Categorical, Multi
from recexp.dataset.ragged import Ragged, concat_columns
from recexp.dataset.schema import FIRST, Field, Side
from recexp.dataset.value import is_text
from recexp.error import DataError, choices

if TYPE_CHECKING:
    import pandas as pd

FILE = "encoder.json"
MAX_IDS = 2**31 - 1  # of the fields of a side together, as they are numbered in 32 bits


@dataclass(frozen=True)
class SideEncoder:
    """The fields of one side by name: of the user, of the item or of the event's context."""

    fields: dict[str, AnyField] = field(default_factory=dict)

    @property
    def side(self) -> Side:
        """The fields as the schema holds them. Ids of one side share a vocabulary, so each field's ids are shifted."""
        fields: list[Field] = []
        offset = 0
        for name, encoder in self.fields.items():
            before = Side(fields=tuple(fields))
            new = Field(name=name, kind=encoder.kind, column=before.id_columns, width=encoder.width, size=encoder.size)
            if new.numeric:
                fields.append(replace(new, column=before.value_columns))
                continue
            column = before.list_columns if new.wide else new.column
            fields.append(replace(new, column=column, offset=offset))
            offset += encoder.size
        return Side(fields=tuple(fields))

    @classmethod
    def fit(
        cls,
        frame: "pd.DataFrame",
        kinds: Mapping[str, FeatureKind],
        train: np.ndarray,
        n_bins: int,
        min_count: int = 1,
        ids: Collection[str] = (),
        n_buckets: int = 1,
        n_quotients: int = 1,
    ) -> tuple["SideEncoder", Encoded]:
        """Learns from the rows where `train` (n,) is true, and encodes all n rows; columns in the order of `kinds`.

        min_count: values in fewer training rows are unknown, apart from those of `ids` and hashed ones.
        Raises DataError if a numeric column holds something else, or the ids of all fields are too many.
        """
        encoders: dict[str, AnyField] = {}
        arrays: dict[str, Any] = {}
        for name, kind in kinds.items():
            min_rows = 1 if name in ids else min_count
            sizes = (n_buckets, n_quotients) if kind is FeatureKind.hash else (n_bins,)
            encoders[name], arrays[name] = _fitted(frame, name, kind, train, sizes, min_rows)
        encoder = cls(encoders)
        if (n_ids := encoder.side.vocabulary) > MAX_IDS:
            raise DataError(
                f"features {', '.join(kinds)}: {n_ids:,} ids are more than {MAX_IDS:,}; lower dataset.n_buckets."
            )
        return encoder, encoder._side_by_side(arrays, len(frame))

    def transform(self, frame: "pd.DataFrame") -> Encoded:
        """The fields of n rows, from the columns of the same names. Raises DataError if one is missing."""
        arrays: dict[str, Any] = {}
        for name, encoder in self.fields.items():
            cells: Any = _read(frame, name, encoder.kind)
            arrays[name] = encoder.encode(cells)
        return self._side_by_side(arrays, len(frame))

    def _side_by_side(self, arrays: Mapping[str, Any], n: int) -> Encoded:
        """The encoded fields side by side, ids shifted by each field's offset."""
        fields = self.side.fields
        values = [arrays[field.name] for field in fields if field.numeric]
        lists = [_shifted_lists(arrays[field.name], field.offset) for field in fields if field.wide]
        ids = np.empty((n, self.side.id_columns), np.int32)
        for spec in fields:
            if not (spec.numeric or spec.wide):
                ids[:, spec.column : spec.column + spec.width] = _shifted(arrays[spec.name], spec.offset)
        return Encoded(
            ids=ids,
            values=_value_matrix(values) if values else np.zeros((n, 0), np.float32),
            lists=concat_columns(lists) if lists else None,
        )


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """The encoders of all sides; a user's or item's first field is its id."""

    user: SideEncoder = field(default_factory=SideEncoder)
    item: SideEncoder = field(default_factory=SideEncoder)
    context: SideEncoder = field(default_factory=SideEncoder)

    def save(self, folder: Path) -> None:
        tree = {
            side: {name: {"kind": field.kind.name} | vars(field) for name, field in encoder.fields.items()}
            for side, encoder in vars(self).items()
        }
        (folder / FILE).write_text(json.dumps(tree, default=_array_to_json), "utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Encoder":
        """Raises OSError, ValueError, KeyError or TypeError if the file is missing or damaged."""
        tree = json.loads((folder / FILE).read_text("utf-8"))
        return cls(**{
            side: SideEncoder({name: _field_from_json(**entry) for name, entry in fields.items()})
            for side, fields in tree.items()
        })  # fmt: skip


def _read(frame: "pd.DataFrame", name: str, kind: FeatureKind) -> Any:
    if name not in frame:
        raise DataError(f"feature '{name}': no such column. {choices(name, map(str, frame.columns))}")
    return ENCODERS[kind].read(frame[name], name)


def _fitted(
    frame: "pd.DataFrame", name: str, kind: FeatureKind, train: np.ndarray, sizes: tuple[int, ...], min_count: int
) -> tuple[AnyField, Any]:
    """The encoder of a column, and the column encoded. sizes: bins, or buckets and quotients, as the kind needs."""
    cells: Any = _read(frame, name, kind)
    encoder = ENCODERS[kind].fit(cells, train, *sizes)
    _check_vocabulary(name, encoder)
    if min_count > 1:
        encoder = _without_rare_values(encoder, cells, train, min_count)
    return encoder, encoder.encode(cells)


def _check_vocabulary(name: str, encoder: AnyField) -> None:
    vocabulary = getattr(encoder, "vocabulary", np.zeros(0))
    for value in () if is_text(vocabulary) else vocabulary.tolist():
        if not isinstance(value, str | int | float):
            raise DataError(f"feature '{name}' holds {value!r}: a categorical value must be a string or a number.")


def _without_rare_values(encoder: AnyField, cells: Any, train: np.ndarray, min_count: int) -> AnyField:
    """The encoder without values that fewer than `min_count` training rows hold."""
    if not isinstance(encoder, Categorical | Multi):
        return encoder
    encoded: Any = encoder.encode(cells)
    n_ids = FIRST + encoder.size
    if isinstance(encoded, Ragged):
        ids, row = encoded.at(train).flat()
    else:
        ids = encoded[train]
        ids, row = ids.ravel(), np.repeat(np.arange(len(ids)), ids.shape[1])
    # A row counts once, however often it holds a value.
    counts = np.bincount(np.unique(row.astype(np.int64) * n_ids + ids) % n_ids, minlength=n_ids)[FIRST:]
    return replace(encoder, vocabulary=encoder.vocabulary[counts >= min_count])


def _value_matrix(values: list[np.ndarray]) -> np.ndarray:
    """(n, V) from columns (n,) and (n, width)."""
    return values[0] if len(values) == 1 and values[0].ndim == 2 else np.column_stack(values)


def _shifted(ids: np.ndarray, offset: int) -> np.ndarray:
    return np.where(ids >= FIRST, ids + np.int32(offset), ids)


def _shifted_lists(lists: Ragged, offset: int) -> Ragged:
    return replace(lists, ids=_shifted(lists.ids, offset))


def _array_to_json(array: np.ndarray) -> dict[str, Any]:
    return {"dtype": array.dtype.str, "values": array.tolist()}


def _field_from_json(kind: str, **members: Any) -> AnyField:
    """The encoder that an entry of the file describes."""
    arrays = {name: _array_from_json(**member) for name, member in members.items() if isinstance(member, dict)}
    return ENCODERS[FeatureKind[kind]](**members | arrays)


def _array_from_json(dtype: str, values: list) -> np.ndarray:
    array = np.empty(len(values), dtype)
    array[:] = values
    return array
