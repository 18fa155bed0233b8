"""Cells of many values without padding, so that memory follows the values and not the longest cell."""

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Ragged:
    """The cells of n rows, M in each, as spans of one array of ids. Equal cells may share their ids."""

    ids: np.ndarray  # (V,) integers
    start: np.ndarray  # (n, M) where a cell's ids begin
    count: np.ndarray  # (n, M) how many they are

    def at(self, rows: np.ndarray | slice) -> "Ragged":
        """Some rows; the ids stay whole."""
        return replace(self, start=self.start[rows], count=self.count[rows])

    def column(self, number: int) -> "Ragged":
        return replace(self, start=self.start[:, [number]], count=self.count[:, [number]])

    def flat(self) -> tuple[np.ndarray, np.ndarray]:
        """The ids of all cells one after another, and the number of each id's cell, counted row by row: (T,) both."""
        start, count = self.start.ravel().astype(np.int64), self.count.ravel().astype(np.int64)
        cell = np.repeat(np.arange(len(count)), count)
        return self.ids[np.arange(len(cell)) + (start - np.cumsum(count) + count)[cell]], cell

    def cells(self) -> list[np.ndarray]:
        """The ids of each cell, row by row."""
        ids, cell = self.flat()
        return np.split(ids, np.searchsorted(cell, np.arange(1, self.count.size)))

    def compact(self) -> "Ragged":
        """The same cells, without ids that are in none of them."""
        count = self.count.astype(np.int64)
        return Ragged(ids=self.flat()[0], start=np.cumsum(count).reshape(count.shape) - count, count=self.count)


def concat_columns(columns: list[Ragged]) -> Ragged:
    """Columns of the same rows, side by side."""
    first = np.cumsum([0, *(len(column.ids) for column in columns)])
    return Ragged(
        ids=np.concatenate([column.ids for column in columns]),
        start=np.concatenate([column.start + n for column, n in zip(columns, first, strict=False)], axis=1),
        count=np.concatenate([column.count for column in columns], axis=1),
    )


def concat_rows(above: Ragged, rows: Ragged) -> Ragged:
    """The rows of `above`, then `rows`, of as many columns."""
    return Ragged(
        ids=np.concatenate([above.ids, rows.ids]),
        start=np.concatenate([above.start, rows.start + len(above.ids)]),
        count=np.concatenate([above.count, rows.count]),
    )
