"""The features of users and items, one row per id: from a file of their own, or from the events."""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from recexp.dataset import vector
from recexp.dataset.config import FeatureKind
from recexp.dataset.raw import Ids
from recexp.dataset.sheet import Kinds, Sheet

if TYPE_CHECKING:
    import pandas as pd


def vector_columns(sides: Iterable[Mapping[str, FeatureKind]], roles: Collection[str] = ()) -> set[str]:
    """The columns of a file that are used only as vectors: of no other kind on any side, and without a role."""
    uses = [use for kinds in sides for use in kinds.items()]
    return {name for name, _ in uses} - {name for name, kind in uses if kind is not FeatureKind.vector} - set(roles)


def features_by_id(sheet: Sheet, column: str, kinds: Kinds) -> "pd.DataFrame":
    """The features of a sheet that has one row per id, indexed by the id."""
    import pandas as pd

    ids = sheet.ids(column)
    duplicated = pd.Series(ids).duplicated()
    sheet.refuse(duplicated, column, "is there a second time; an id has one row of features")
    return sheet.features(kinds).set_index(pd.Index(ids, dtype=ids.dtype))


def constant_features(sheet: Sheet, side: str, ids: Ids, kinds: Kinds) -> "pd.DataFrame":
    """The features of a side from the events themselves, one value per id."""
    import pandas as pd

    codes, unique = pd.Index(ids, dtype=ids.dtype).factorize()
    first = np.flatnonzero(~pd.Series(codes).duplicated())  # the row where each id occurs first
    for name in kinds:
        column = sheet.frame[name]
        values = pd.factorize(column.map(_hashable) if vector.holds_arrays(column) else column)[0]
        wrong = values != values[first][codes]
        if wrong.any():
            row = int(wrong.argmax())
            earlier = str(vector.as_text(column.iloc[first[codes[row]]]))
            message = f"{side} {ids[row]!r} has {earlier!r} in an earlier row; features of the event itself"
            raise sheet.error(row, name, f"{message} stand in dataset.features.context")
    return sheet.features(kinds).iloc[first].set_index(pd.Index(unique, dtype=ids.dtype))


def _hashable(cell: Any) -> Any:
    return hashlib.blake2b(cell.tobytes()).digest() if isinstance(cell, np.ndarray) else cell
