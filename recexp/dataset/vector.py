"""Cells that hold numbers one after another: as text such as 0.1|0.2 or [0.1, 0.2] or 0.1 0.2, in lists or arrays.

Arrays of floats stay what they are, from the file to the model; text is parsed some cells at a time.
"""

import re
from collections.abc import Collection
from typing import TYPE_CHECKING, cast

import numpy as np

from recexp.dataset.reader.arrow import joined
from recexp.error import DataError

if TYPE_CHECKING:
    import pandas as pd

LISTS = (np.ndarray, list, tuple)
BLOCK = 4096  # cells parsed, or vectors standardised, at a time


def arrays_of(cells: "pd.Series", separator: str) -> list[np.ndarray]:
    """The numbers of each of n cells, NaN for what is no number: text and lists as float64, arrays of 32 or 64 bits."""
    arrays = [_array(cell) for cell in cells]
    for rows in blocks(np.array([row for row, array in enumerate(arrays) if array is None], np.int64)):
        numbers, counts = parsed(cells.iloc[rows].map(as_text).astype(str), separator)
        for row, array in zip(rows.tolist(), np.split(numbers, np.cumsum(counts)[:-1]), strict=True):
            arrays[row] = array
    return cast("list[np.ndarray]", arrays)


def parsed(cells: "pd.Series", separator: str) -> tuple[np.ndarray, np.ndarray]:
    """The numbers (T,) of n cells of text one after another, NaN where a word is no number, and how many each has (n,).

    Between them stand the separator, commas or spaces, around them brackets or nothing; a missing cell has none.
    """
    import pandas as pd
    import pyarrow as pa
    from pyarrow import compute

    between = rf"[\s,\[\]()]+|{re.escape(separator)}"
    plain = compute.replace_substring_regex(pa.array(cells, pa.large_string()), between, " ")
    words = compute.utf8_split_whitespace(compute.utf8_trim_whitespace(plain))
    counts = compute.fill_null(compute.list_value_length(words), 0).to_numpy()
    flat = compute.list_flatten(words)
    try:
        numbers = flat.cast(pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        numbers = pd.to_numeric(flat.to_pandas(), errors="coerce").to_numpy(np.float64)
    return numbers, counts


def without_arrays(frame: "pd.DataFrame", separator: str, but: Collection[str] = ()) -> "pd.DataFrame":
    """The frame with array cells as text, joined by the separator, except in the columns of `but`."""
    texts = {
        str(name): _joined_lists(str(name), frame[name], separator)
        for name in frame
        if name not in but and holds_arrays(frame[name])
    }
    return frame.assign(**texts)


def _joined_lists(name: str, cells: "pd.Series", separator: str) -> "pd.Series":
    import pyarrow as pa

    what = f"column '{name}'"
    try:
        lists = pa.chunked_array([pa.array(cells, from_pandas=True)])
    except pa.ArrowException as error:
        raise DataError(f"{what}: some cells are arrays, so all must be lists of strings or numbers.") from error
    return joined(what, lists, separator).to_pandas().set_axis(cells.index)


def moments(numbers: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (width,) of some rows of numbers (n, width), 0 of numbers that are all equal."""
    width = numbers.shape[1]
    total, square = np.zeros(width), np.zeros(width)
    low, high = np.full(width, np.inf), np.full(width, -np.inf)
    for block in blocks(rows):
        total = np.vstack([total, numbers[block]]).sum(0)
        low, high = np.minimum(low, numbers[block].min(0)), np.maximum(high, numbers[block].max(0))
    mean = total / len(rows)
    for block in blocks(rows):
        square = np.vstack([square, (numbers[block] - mean) ** 2]).sum(0)
    return mean, np.where(high > low, np.sqrt(square / len(rows)), 0.0)


def blocks(rows: np.ndarray) -> list[np.ndarray]:
    """The rows in blocks: text or float64 copies of all vectors at once would take several times their memory."""
    return [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]


def holds_arrays(cells: "pd.Series") -> bool:
    return cells.dtype == object and any(isinstance(cell, LISTS) for cell in cells)


def as_text(cell: object) -> object:
    """A list or an array of numbers as text; other cells unchanged."""
    return " ".join(map(str, cell)) if isinstance(cell, LISTS) else cell


def _array(cell: object) -> np.ndarray | None:
    """A cell that is an array of floats, with 16 bits widened to 32; None for other cells."""
    if not isinstance(cell, np.ndarray) or cell.dtype.kind != "f" or cell.ndim != 1:
        return None
    return cell if cell.itemsize > 2 else cell.astype(np.float32)
