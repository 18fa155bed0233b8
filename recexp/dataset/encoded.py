"""Fields as a model reads them: ids, numbers and lists of ids, one row for each user, item or event."""

from dataclasses import dataclass, replace

import numpy as np

from recexp.dataset.config import FeatureKind
from recexp.dataset.ragged import Ragged, concat_rows
from recexp.dataset.schema import Field


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """The fields of n users, items or events."""

    ids: np.ndarray  # (n, C) integers
    values: np.ndarray  # (n, V) float32
    lists: Ragged | None = None  # of the n rows, if there are wide fields

    def at(self, rows: np.ndarray | slice) -> "Encoded":
        """Some of the rows."""
        lists = None if self.lists is None else self.lists.at(rows)
        return Encoded(ids=self.ids[rows], values=self.values[rows], lists=lists)

    def with_rows(self, rows: "Encoded") -> "Encoded":
        """These rows, then others of the same fields."""
        return Encoded(
            ids=np.concatenate([self.ids, rows.ids]),
            values=np.concatenate([self.values, rows.values]),
            lists=None if self.lists is None or rows.lists is None else concat_rows(self.lists, rows.lists),
        )

    def column(self, field: Field) -> np.ndarray | Ragged:
        """A field: numbers (n,), of a vector (n, width), ids (n, width), or lists of ids if it is wide."""
        if field.wide:
            assert self.lists is not None
            return self.lists.column(field.column)
        if field.kind is FeatureKind.numeric:
            return self.values[:, field.column]
        if field.numeric:
            return self.values[:, field.column : field.column + field.width]
        return self.ids[:, field.column : field.column + field.width]

    def compact(self) -> "Encoded":
        """The same rows, without list values of other rows."""
        return self if self.lists is None else replace(self, lists=self.lists.compact())
