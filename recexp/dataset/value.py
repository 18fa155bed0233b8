"""Values of a feature column: their vocabulary, their ids, and how each reads as text or as a number."""

import re
import zlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from recexp.dataset.raw import MULTI_SEPARATOR
from recexp.dataset.schema import FIRST, UNKNOWN
from recexp.error import DataError

if TYPE_CHECKING:
    import pandas as pd


WHOLE = re.compile(r"^(-?\d+)\.0+$")  # a whole number, written as one with a fraction


def split_cells(column: "pd.Series") -> tuple[np.ndarray, list[list[str]]]:
    """The index (n,) of each cell among the unique ones, -1 if it is missing, and the values in each unique cell."""
    import pandas as pd

    index, cells = pd.factorize(column)
    return index, [[value for value in str(cell).split(MULTI_SEPARATOR) if value] for cell in cells]


def vocabulary_of(values: np.ndarray) -> np.ndarray:
    """The unique values, sorted."""
    import pandas as pd

    if is_text(values):
        return _arrow(values).unique().sort().to_numpy(zero_copy_only=False)
    unique = np.asarray(pd.factorize(values, sort=True)[1])
    if unique.dtype == object:  # plain Python values, which JSON can hold
        unique = objects(value.item() if isinstance(value, np.generic) else value for value in unique)
    return unique


def ids_of(values: np.ndarray, vocabulary: np.ndarray) -> np.ndarray:
    """(n,) int32, the id of each value; UNKNOWN if it is not in the vocabulary."""
    import pandas as pd
    from pyarrow import compute

    if is_text(values) and is_text(vocabulary):  # three times as fast as the index of pandas
        positions = compute.index_in(_arrow(values), value_set=_arrow(vocabulary))
        index = compute.fill_null(positions, -1).to_numpy()
    else:
        index = pd.Index(vocabulary).get_indexer(pd.Index(values))
    return np.where(index >= 0, index + FIRST, UNKNOWN).astype(np.int32)


def is_text(values: np.ndarray) -> bool:
    """True if all are strings; False if there are none."""
    from pandas.api import types

    return types.infer_dtype(values, skipna=False) == "string"


def _arrow(text: np.ndarray) -> Any:
    import pyarrow as pa

    return pa.array(text, pa.large_string())


def checksum(value: Any) -> int:
    """CRC32 of the value's text, 0 to 2^32 - 1: equal in every process, on every machine and in exported programs."""
    return zlib.crc32(category_of(value).encode())


def category_of(value: Any) -> str:
    """A value as text, with 5, 5.0 and "5.0" all as "5", since files and frames write whole numbers differently."""
    return WHOLE.sub(r"\1", text_of(value))


def text_of(value: Any) -> str:
    """A value as text: 5 and 5.0 are "5"."""
    whole = isinstance(value, float | np.floating) and value.is_integer() and -(2**53) < value < 2**53
    return str(int(value)) if whole else str(value)


def objects(values: Iterable[object]) -> np.ndarray:
    """An object array (n,) of any Python values."""
    listed = list(values)
    array = np.empty(len(listed), object)
    array[:] = listed
    return array


def numbers_of(column: "pd.Series", name: str) -> np.ndarray:
    """(n,) float64, NaN for gaps. Raises DataError if a cell is neither a number nor blank."""
    import pandas as pd

    numbers = pd.to_numeric(column, errors="coerce")
    text = column[numbers.isna() & column.notna()].astype(str)
    wrong = text[text.str.strip() != ""]
    if len(wrong):
        raise DataError(
            f"feature '{name}' holds {wrong.iloc[0]!r}, which is no number; "
            f"declare it categorical, or mend the {len(wrong)} such values."
        )
    return numbers.to_numpy(np.float64, na_value=np.nan)
