"""How cells of text are read: words for missing values, numbers and truth values, and lists as Python or JSON."""

import ast
from typing import TYPE_CHECKING

import numpy as np

from recexp.dataset.raw import MULTI_SEPARATOR
from recexp.dataset.vector import holds_arrays

if TYPE_CHECKING:
    import pandas as pd

GAPS = ("", "NA", "N/A", "na", "n/a", "NaN", "nan", "NULL", "null", "None", r"\N")  # of numeric features
WORDS = {"true": "1", "false": "0", "t": "1", "f": "0", "yes": "1", "no": "0", "y": "1", "n": "0"}  # of labels


def is_gap(cell: object) -> bool:
    """True if a vector is missing: the cell is a word that says so, or holds no numbers."""
    return cell in GAPS if isinstance(cell, str) else isinstance(cell, list | tuple | np.ndarray) and not len(cell)


def written_lists(text: "pd.Series") -> "pd.Series | None":
    """Cells such as ['a', 'b'], lists of Python or JSON, with their values joined; None if a cell is no list."""
    import pandas as pd

    codes, cells = pd.factorize(text)
    if not len(cells) or not (cells.str.startswith("[") & cells.str.endswith("]")).all():
        return None
    try:
        parsed = [ast.literal_eval(cell) for cell in cells]
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    if not all(isinstance(value, str | int | float) for values in parsed for value in values):
        return None
    joined = [MULTI_SEPARATOR.join(str(value) for value in values) for values in parsed]
    return pd.Series(joined, dtype=object).reindex(codes).set_axis(text.index)


def are_words(labels: "pd.Series") -> bool:
    """True if labels are words such as true, judged by the first one."""
    from pandas.api import types

    return len(labels) > 0 and types.is_string_dtype(labels) and str(labels.iloc[0]).lower() in WORDS


def mask_words(values: "pd.Series", words: list[str]) -> "pd.Series":
    """The cells, missing where they equal one of some words, or the number that a word writes."""
    from pandas.api import types

    if holds_arrays(values):
        return values
    if types.infer_dtype(values, skipna=True) not in ("integer", "floating", "mixed-integer-float"):
        return values.mask(values.isin(words))
    numbers = [number for number in map(_number, words) if number is not None]
    exact = values.astype(object)  # as floats, long integers would lose digits
    gaps = exact.isin(numbers)
    return (values if types.is_float_dtype(values) or not gaps.any() else exact).mask(gaps)


def _number(word: str) -> int | float | None:
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            pass
    return None


def is_missing(values: "pd.Series") -> "pd.Series":
    return values.isna() | (values == "")


def parsed_numbers(values: "pd.Series") -> np.ndarray | None:
    """Text as int64 or float64: the same values as from pandas, in a tenth of the time; None if Arrow cannot."""
    import pyarrow as pa
    from pandas.api import types
    from pyarrow import compute

    if not types.is_string_dtype(values) or values.hasnans:
        return None
    text = pa.array(values)
    digits = compute.all(compute.ascii_is_decimal(compute.ascii_ltrim(text, "-"))).as_py()  # Arrow would read 0x10
    try:
        return text.cast(pa.int64() if digits else pa.float64()).to_numpy()
    except pa.ArrowInvalid:
        return None
