"""Arrow tables as frames: columns keep their types; lists of floats become arrays, others text with a separator."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recexp.dataset.raw import MULTI_SEPARATOR
from recexp.error import DataError

if TYPE_CHECKING:
    import pandas as pd


def to_frame(path: Path, table: Any, separator: str) -> "pd.DataFrame":
    """Raises DataError, which names the file and the column, for what is neither values nor lists of them."""
    import pyarrow as pa

    plain = {name: _plain(f"{path}: column '{name}'", table[name], separator) for name in table.column_names}
    # Without integer_object_nulls integers beside gaps become floats, and long ones lose digits.
    return pa.table(plain).to_pandas(integer_object_nulls=True, ignore_metadata=True, date_as_object=False)


def first_rows(batches: Iterable[Any], n_rows: int) -> Any:
    """A table of the first batches that hold as many rows together."""
    import pyarrow as pa

    taken: list[Any] = []
    for batch in batches:
        taken.append(batch)
        if sum(map(len, taken)) >= n_rows:
            break
    return pa.Table.from_batches(taken) if taken else pa.table({})


def _plain(what: str, column: Any, separator: str) -> Any:
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        return column.cast(kind.value_type)
    if pa.types.is_decimal(kind):
        return _exact(column)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return column if pa.types.is_floating(kind.value_type) else joined(what, column, separator)
    if pa.types.is_nested(kind) or pa.types.is_binary(kind):
        raise DataError(f"{what}: is {kind}; it must hold strings, numbers, times or lists.")
    return column


def joined(what: str, column: Any, separator: str) -> Any:
    """Lists as text, their values joined by the separator. Raises DataError if a value holds it."""
    import pyarrow as pa
    from pyarrow import compute

    try:
        values = column.cast(pa.list_(pa.string()))
    except pa.ArrowException as error:
        raise DataError(f"{what}: is {column.type}; a list must hold strings or numbers.") from error
    flat = compute.list_flatten(values)
    if compute.any(compute.match_substring(flat, separator)).as_py():
        kept = "which stands between values: replace it in the data, or leave the column out"
        hint = kept if separator == MULTI_SEPARATOR else "set another dataset.multi_separator"
        raise DataError(f"{what}: a value holds '{separator}'; {hint}.")
    return compute.binary_join(_without_nulls(values.combine_chunks()), separator)


def _exact(column: Any) -> Any:
    """Decimals as integers, if they are whole and not too large, or as text; floats only if they have a fraction."""
    import pyarrow as pa

    try:
        whole = column.cast(pa.decimal256(76, 0))
    except pa.ArrowException:
        return column.cast(pa.float64())
    try:
        return whole.cast(pa.int64())
    except pa.ArrowException:
        return whole.cast(pa.string())


def _without_nulls(lists: Any) -> Any:
    """The same lists without their null elements."""
    import numpy as np
    import pyarrow as pa
    from pyarrow import compute

    if not lists.flatten().null_count:
        return lists
    counts = compute.fill_null(compute.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    kept = np.append(0, np.cumsum(lists.flatten().is_valid().to_numpy(zero_copy_only=False)))
    ends = kept[np.append(0, np.cumsum(counts))].astype(np.int32)
    return pa.ListArray.from_arrays(ends, lists.flatten().drop_null(), mask=lists.is_null())
