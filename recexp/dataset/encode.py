"""Feature columns to ids and numbers. Vocabularies, means and bins come from the known rows alone: the training part."""

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
        ids.append(np.where(codes >= FIRST, codes + offset, codes))
        offset += size
    n = len(frame)
    return Encoded(
        Side(fields=tuple(fields)),
        np.concatenate(ids, axis=1, dtype=np.int32) if ids else np.zeros((n, 0), np.int32),
        np.stack(values, axis=1).astype(np.float32) if values else np.zeros((n, 0), np.float32),
    )


def categorical(column: "pd.Series", known: np.ndarray) -> tuple[np.ndarray, int]:
    """Ids (n,) and the number of known values; missing values and those of no known row are unknown."""
    import pandas as pd

    codes, uniques = pd.factorize(column, sort=True)
    seen = np.zeros(len(uniques) + 1, bool)  # the last entry is code -1, a missing value
    seen[codes[known]] = True
    seen[-1] = False
    ids = np.where(seen, np.cumsum(seen) - 1 + FIRST, UNKNOWN)
    return ids[codes], int(seen.sum())


def multi(column: "pd.Series", known: np.ndarray) -> tuple[np.ndarray, int]:
    """Ids (n, most values in a cell), padded on the right."""
    cells = column.fillna("").astype(str).str.split(MULTI_SEPARATOR, regex=False)
    counts = cells.str.len().to_numpy()
    flat = cells.explode()
    row = np.repeat(np.arange(len(column)), counts)
    place = np.arange(len(flat)) - np.repeat(np.cumsum(counts) - counts, counts)
    present = (flat != "").to_numpy()
    ids, size = categorical(flat[present].reset_index(drop=True), known[row[present]])
    matrix = np.full((len(column), max(1, int(counts.max(initial=1)))), PADDING)
    matrix[row[present], place[present]] = ids
    return matrix, size


def binned(numbers: np.ndarray, known: np.ndarray, n_bins: int) -> tuple[np.ndarray, int]:
    """Ids (n,) of the quantile each number falls in; fewer bins than asked where values repeat."""
    sample = numbers[known & np.isfinite(numbers)]
    edges = np.unique(np.quantile(sample, np.linspace(0, 1, n_bins + 1)[1:-1])) if len(sample) else np.zeros(0)
    ids = FIRST + np.searchsorted(edges, numbers, side="right")
    return np.where(np.isfinite(numbers), ids, UNKNOWN), len(edges) + 1


def standardise(numbers: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(n,) with mean 0 and deviation 1 over the known rows; a missing number becomes the mean."""
    sample = numbers[known & np.isfinite(numbers)]
    mean = sample.mean() if len(sample) else 0.0
    deviation = sample.std() if len(sample) else 0.0
    return np.where(np.isfinite(numbers), (numbers - mean) / (deviation or 1.0), 0.0)


def _codes(
    column: "pd.Series", name: str, kind: FeatureKind, known: np.ndarray, n_bins: int
) -> tuple[np.ndarray, int]:
    if kind is FeatureKind.multi:
        return multi(column, known)
    ids, size = categorical(column, known) if kind is FeatureKind.categorical else binned(_numbers(column, name), known, n_bins)
    return ids[:, None], size


def _numbers(column: "pd.Series", name: str) -> np.ndarray:
    import pandas as pd

    numbers = pd.to_numeric(column, errors="coerce")
    wrong = numbers.isna() & column.notna() & (column.astype(str).str.strip() != "")
    if wrong.any():
        raise DataError(
            f"feature '{name}' holds {column[wrong].iloc[0]!r}, which is no number; "
            f"declare it categorical, or mend the {int(wrong.sum())} such values."
        )
    return numbers.to_numpy(np.float64, na_value=np.nan)
