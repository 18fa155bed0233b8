"""Feature columns to ids and numbers. Vocabularies, means and bins come from the known rows: the training part."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from recexp.config import FeatureKind
from recexp.dataset.raw import MULTI_SEPARATOR
from recexp.dataset.schema import FIRST, PADDING, UNKNOWN, Field, Side
from recexp.error import DataError, choices

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Encoded:
    """The fields of one side for n users, items or events."""

    side: Side
    ids: np.ndarray  # (n, side.id_columns) int32
    values: np.ndarray  # (n, side.value_columns) float32


def encode_side(frame: "pd.DataFrame", kinds: Mapping[str, FeatureKind], known: np.ndarray, n_bins: int) -> Encoded:
    """All columns of one side, in the order of `kinds`. known: (n,) bool, rows that the training part holds.

    Raises DataError when a numeric column holds something else.
    """
    fields: list[Field] = []
    ids: list[np.ndarray] = []
    values: list[np.ndarray] = []
    offset = 0
    for name, kind in kinds.items():
        if name not in frame:
            raise DataError(f"feature '{name}': no such column. {choices(name, map(str, frame.columns))}")
        if kind is FeatureKind.numeric:
            fields.append(Field(name=name, kind=kind, column=len(values)))
            values.append(standardise(_numbers(frame[name], name), known))
            continue
        codes, size = _codes(frame[name], name, kind, known, n_bins)
        column = sum(part.shape[1] for part in ids)
        fields.append(Field(name=name, kind=kind, column=column, width=codes.shape[1], offset=offset, size=size))
        ids.append(np.where(codes >= FIRST, codes + np.int32(offset), codes))
        offset += size
    n = len(frame)
    return Encoded(
        Side(fields=tuple(fields)),
        np.concatenate(ids, axis=1) if ids else np.zeros((n, 0), np.int32),
        np.stack(values, axis=1) if values else np.zeros((n, 0), np.float32),
    )


def categorical(column: "pd.Series", known: np.ndarray) -> tuple[np.ndarray, int]:
    """Ids (n,) and the number of known values; missing values and those of no known row are unknown."""
    import pandas as pd

    codes, uniques = pd.factorize(column, sort=True)
    seen = np.zeros(len(uniques) + 1, bool)  # the last entry is code -1, a missing value
    seen[codes[known]] = True
    seen[-1] = False
    ids = np.where(seen, np.cumsum(seen) - 1 + FIRST, UNKNOWN).astype(np.int32)
    return ids[codes], int(seen.sum())


def multi(column: "pd.Series", known: np.ndarray) -> tuple[np.ndarray, int]:
    """Ids (n, most values in a cell) in the cell's order, padded on the right; a missing cell is all padding."""
    import pandas as pd

    codes, values = taken_apart(column)
    counts = np.array([len(each) for each in values], np.int64)
    cell = np.repeat(np.arange(len(values)), counts)
    place = np.arange(len(cell)) - np.repeat(np.cumsum(counts) - counts, counts)
    seen = np.zeros(len(values) + 1, bool)  # the last entry is code -1, a missing cell
    seen[codes[known]] = True
    ids, size = categorical(pd.Series([value for each in values for value in each], dtype=str), seen[cell])
    matrix = np.full((len(values) + 1, max(1, counts.max(initial=1))), PADDING, np.int32)
    matrix[cell, place] = ids
    return matrix[codes], size


def taken_apart(column: "pd.Series") -> tuple[np.ndarray, list[list[str]]]:
    """The distinct cell (n,) of each cell, -1 where it is missing, and the values in each distinct cell."""
    import pandas as pd

    codes, cells = pd.factorize(column)  # cells repeat: each distinct one is taken apart once
    return codes, [[value for value in str(cell).split(MULTI_SEPARATOR) if value] for cell in cells]


def binned(numbers: np.ndarray, known: np.ndarray, n_bins: int) -> tuple[np.ndarray, int]:
    """Ids (n,) of the quantile each number falls in; fewer bins than asked where values repeat.

    Edges are known numbers above the least one, so every bin holds one.
    """
    finite = np.isfinite(numbers)
    sample = numbers[known & finite]
    if not len(sample):
        return np.full(len(numbers), UNKNOWN, np.int32), 0
    edges = np.unique(np.quantile(sample, np.linspace(0, 1, n_bins + 1)[1:-1], method="higher"))
    edges = edges[edges > sample.min()]
    ids = FIRST + np.searchsorted(edges, numbers, side="right")
    return np.where(finite, ids, UNKNOWN).astype(np.int32), len(edges) + 1


def standardise(numbers: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(n,) with mean 0 and deviation 1 over the known rows; a missing number becomes the mean."""
    finite = np.isfinite(numbers)
    sample = numbers[known & finite]
    mean = sample.mean() if len(sample) else 0.0
    deviation = sample.std() if len(sample) and np.ptp(sample) else 1.0  # of equal numbers, std is a rounding error
    return np.where(finite, (numbers - mean) / deviation, 0.0).astype(np.float32)


def _codes(column: "pd.Series", name: str, kind: FeatureKind, known: np.ndarray, n_bins: int) -> tuple[np.ndarray, int]:
    if kind is FeatureKind.multi:
        return multi(column, known)
    if kind is FeatureKind.binned:
        ids, size = binned(_numbers(column, name), known, n_bins)
    else:
        ids, size = categorical(column, known)
    return ids[:, None], size


def _numbers(column: "pd.Series", name: str) -> np.ndarray:
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
