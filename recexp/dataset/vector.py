"""Cells that hold numbers one after another, as 0.1|0.2 or [0.1, 0.2] or 0.1 0.2, as arrays."""

import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd


def parsed(cells: "pd.Series", separator: str) -> tuple[np.ndarray, np.ndarray]:
    """The numbers (T,) of n cells one after another, NaN where a word is no number, and how many each cell has (n,).

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


def as_text(cell: object) -> object:
    """A cell of a frame that holds its numbers as a list or an array, as text."""
    return " ".join(map(str, cell)) if isinstance(cell, list | tuple | np.ndarray) else cell
