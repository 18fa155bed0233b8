"""Encoders of one feature column, one class per kind: fitted on the training rows, then applied to any rows.

`read` parses a column, so that fitting and encoding it need only one pass; `fit` learns from the rows where `train` is
true; `encode` returns ids (n, width), lists of them for wide cells, values (n,) for numbers, or (n, width) for vectors.
The ids are without the field's offset: 0 is padding, 1 is unknown, known values start at 2.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeAlias

import numpy as np

from recexp.dataset import vector
from recexp.dataset.config import FeatureKind
from recexp.dataset.ragged import Ragged
from recexp.dataset.schema import FIRST, PADDING, UNKNOWN, WIDE
from recexp.dataset.value import checksum, ids_of, numbers_of, objects, split_cells, vocabulary_of
from recexp.error import DataError

if TYPE_CHECKING:
    import pandas as pd


MAX_DEVIATIONS = 1000.0  # a single number beyond would make the losses of its batch infinite


@dataclass(frozen=True)
class Cells:
    """A column as its unique cells and an index, so per-cell work runs once."""

    index: np.ndarray  # (n,) index of each row's cell in `unique`, -1 if it is missing
    unique: np.ndarray

    def trained(self, train: np.ndarray) -> np.ndarray:
        """True for each unique cell that a training row holds."""
        held = np.zeros(len(self.unique) + 1, bool)  # the last entry is index -1, a missing cell
        held[self.index[train]] = True
        return held[:-1]


@dataclass(frozen=True, kw_only=True)
class Categorical:
    """A value becomes its index in the vocabulary; missing values and values outside it are unknown."""

    kind: ClassVar[FeatureKind] = FeatureKind.categorical
    width: ClassVar[int] = 1
    vocabulary: np.ndarray  # sorted

    @property
    def size(self) -> int:
        return len(self.vocabulary)

    @staticmethod
    def read(column: "pd.Series", name: str) -> Cells:
        import pandas as pd

        index, unique = pd.factorize(column)
        return Cells(index, np.asarray(unique))

    @classmethod
    def fit(cls, cells: Cells, train: np.ndarray, n_bins: int) -> "Categorical":
        return cls(vocabulary=vocabulary_of(cells.unique[cells.trained(train)]))

    def encode(self, cells: Cells) -> np.ndarray:
        return np.append(ids_of(cells.unique, self.vocabulary), np.int32(UNKNOWN))[cells.index, None]


@dataclass(frozen=True, kw_only=True)
class Hash:
    """A value becomes the bucket of its text's checksum, so no vocabulary is kept and values may share a bucket.

    A missing value is unknown; every other one has a bucket, whether or not training holds it. With quotients, a bucket
    is two ids instead of one, so that fewer rows tell buckets apart: its remainder and its quotient by `remainders`
    (Shi et al., Compositional Embeddings Using Complementary Partitions, KDD 2020).
    """

    kind: ClassVar[FeatureKind] = FeatureKind.hash
    n_buckets: int
    n_quotients: int  # 1: no quotients
    n_values: int  # of the training rows

    @property
    def width(self) -> int:
        return 1 if self.n_quotients == 1 else 2

    @property
    def remainders(self) -> int:
        return -(-self.n_buckets // self.n_quotients)

    @property
    def size(self) -> int:
        return self.remainders + (self.n_quotients if self.width == 2 else 0)

    @staticmethod
    def read(column: "pd.Series", name: str) -> Cells:
        cells = Categorical.read(column, name)
        return Cells(cells.index, np.fromiter(map(checksum, cells.unique), np.uint32, len(cells.unique)))

    @classmethod
    def fit(cls, cells: Cells, train: np.ndarray, n_buckets: int, n_quotients: int = 1) -> "Hash":
        return cls(n_buckets=n_buckets, n_quotients=n_quotients, n_values=int(cells.trained(train).sum()))

    def encode(self, cells: Cells) -> np.ndarray:
        ids = np.concatenate([self.ids(cells.unique % self.n_buckets), [[UNKNOWN, PADDING][: self.width]]])
        return ids.astype(np.int32)[cells.index]

    def ids(self, buckets: np.ndarray) -> np.ndarray:
        """(n, width) from buckets (n,)."""
        quotients, remainders = np.divmod(buckets, self.remainders)
        return np.stack([FIRST + remainders, FIRST + self.remainders + quotients], 1)[:, : self.width]


@dataclass(frozen=True)
class ListedCells:
    """A column as its unique cells, each a list of values."""

    cells: Cells
    count: np.ndarray  # of values in each unique cell
    values: np.ndarray  # of all unique cells, one after another


@dataclass(frozen=True, kw_only=True)
class Multi:
    """The values of a cell in their order, padded on the right unless they are many; a missing cell has none.

    The width is that of the longest cell at the time of fitting; a longer cell keeps its first values.
    """

    kind: ClassVar[FeatureKind] = FeatureKind.multi
    vocabulary: np.ndarray  # sorted
    width: int

    @property
    def size(self) -> int:
        return len(self.vocabulary)

    @staticmethod
    def read(column: "pd.Series", name: str) -> ListedCells:
        index, lists = split_cells(column)
        count = np.array([len(values) for values in lists], np.int64)
        return ListedCells(
            Cells(index, np.arange(len(lists))), count, objects(value for values in lists for value in values)
        )

    @classmethod
    def fit(cls, lists: ListedCells, train: np.ndarray, n_bins: int) -> "Multi":
        trained = np.repeat(lists.cells.trained(train), lists.count)
        return cls(vocabulary=vocabulary_of(lists.values[trained]), width=int(max(1, lists.count.max(initial=1))))

    def encode(self, lists: ListedCells) -> np.ndarray | Ragged:
        if self.width >= WIDE:
            start, count = np.cumsum(lists.count) - lists.count, np.minimum(lists.count, self.width)
            index = lists.cells.index  # -1, the appended entry, is a missing cell
            ids = ids_of(lists.values, self.vocabulary)
            return Ragged(
                ids=ids, start=np.append(start, 0)[index, None], count=np.append(count, 0)[index, None].astype(np.int32)
            )
        cell = np.repeat(np.arange(len(lists.count)), lists.count)
        column = np.arange(len(cell)) - np.repeat(np.cumsum(lists.count) - lists.count, lists.count)
        ids = np.full((len(lists.count) + 1, self.width), PADDING, np.int32)  # the last row is a missing cell
        kept = column < self.width
        ids[cell[kept], column[kept]] = ids_of(lists.values[kept], self.vocabulary)
        return ids[lists.cells.index]


@dataclass(frozen=True, kw_only=True)
class Binned:
    """The id of the quantile a number falls in; fewer bins than configured if numbers repeat.

    Edges are training numbers above the smallest one, so every bin holds a training number.
    """

    kind: ClassVar[FeatureKind] = FeatureKind.binned
    width: ClassVar[int] = 1
    edges: np.ndarray  # (size - 1,) float64, ascending
    size: int  # 0 if training holds no number: all are unknown then

    @staticmethod
    def read(column: "pd.Series", name: str) -> np.ndarray:
        return numbers_of(column, name)

    @classmethod
    def fit(cls, numbers: np.ndarray, train: np.ndarray, n_bins: int) -> "Binned":
        sample = numbers[train & np.isfinite(numbers)]
        if not len(sample):
            return cls(edges=np.zeros(0), size=0)
        edges = np.unique(np.quantile(sample, np.linspace(0, 1, n_bins + 1)[1:-1], method="higher"))
        edges = edges[edges > sample.min()]
        return cls(edges=edges, size=len(edges) + 1)

    def encode(self, numbers: np.ndarray) -> np.ndarray:
        ids = FIRST + np.searchsorted(self.edges, numbers, side="right")
        return np.where(np.isfinite(numbers) & (self.size > 0), ids, UNKNOWN).astype(np.int32)[:, None]


@dataclass(frozen=True, kw_only=True)
class Numeric:
    """A number with mean 0 and standard deviation 1 over the training rows; a missing number becomes the mean.

    Numbers are clipped to MAX_DEVIATIONS from the mean. Among fewer than a million training rows none is further away.
    Where training holds no two different numbers, all are the mean: a model has learnt nothing of them, so any other
    number would be multiplied by weights as they were drawn.
    """

    kind: ClassVar[FeatureKind] = FeatureKind.numeric
    size: ClassVar[int] = 0
    width: ClassVar[int] = 1
    mean: float
    deviation: float  # 0 without two different numbers

    @staticmethod
    def read(column: "pd.Series", name: str) -> np.ndarray:
        return numbers_of(column, name)

    @classmethod
    def fit(cls, numbers: np.ndarray, train: np.ndarray, n_bins: int) -> "Numeric":
        sample = numbers[train & np.isfinite(numbers)]
        mean = float(sample.mean()) if len(sample) else 0.0
        # The standard deviation of equal numbers is a rounding error.
        deviation = float(sample.std()) if len(sample) and np.ptp(sample) else 0.0
        return cls(mean=mean, deviation=deviation)

    def encode(self, numbers: np.ndarray) -> np.ndarray:
        return _scaled(numbers, self.mean, self.deviation)


@dataclass(frozen=True, kw_only=True)
class Vector:
    """As many numbers in each cell, each as a Numeric; a missing cell becomes the means."""

    kind: ClassVar[FeatureKind] = FeatureKind.vector
    size: ClassVar[int] = 0
    mean: np.ndarray  # (width,) float64
    deviation: np.ndarray  # (width,)

    @property
    def width(self) -> int:
        return len(self.mean)

    @staticmethod
    def read(column: "pd.Series", name: str) -> np.ndarray:
        """(n, width) from cells that are arrays, float32 if these are; NaN where one is missing, (n, 0) if all are."""
        present = np.flatnonzero(column.notna())
        cells = column.iloc[present].to_list()
        single = all(isinstance(cell, np.ndarray) and cell.dtype == np.float32 for cell in cells)
        shapes = set(map(np.shape, cells)) or {(0,)}
        try:
            (shape,) = shapes
            (width,) = shape
            numbers = np.full((len(column), width), np.nan, np.float32 if single else np.float64)
            for row, cell in zip(present, cells, strict=True):
                numbers[row] = cell
        except (TypeError, ValueError) as error:
            message = f"feature '{name}': a vector's cells must be lists of numbers, all of one length."
            raise DataError(message) from error
        return numbers

    @classmethod
    def fit(cls, numbers: np.ndarray, train: np.ndarray, n_bins: int) -> "Vector":
        width = numbers.shape[1]
        rows = np.flatnonzero(train & np.isfinite(numbers.sum(1, np.float64)))
        if not len(rows):
            return cls(mean=np.zeros(width), deviation=np.zeros(width))
        mean, deviation = vector.moments(numbers, rows)
        return cls(mean=mean, deviation=deviation)

    def encode(self, numbers: np.ndarray) -> np.ndarray:
        if not numbers.shape[1]:  # no cell says how many numbers a vector has
            return np.zeros((len(numbers), self.width), np.float32)
        scaled = np.empty(numbers.shape, np.float32)
        for rows in vector.blocks(np.arange(len(numbers))):
            scaled[rows] = _scaled(numbers[rows], self.mean, self.deviation)
        return scaled


AnyField: TypeAlias = Categorical | Hash | Multi | Binned | Numeric | Vector
ENCODERS: dict[FeatureKind, type[AnyField]] = {
    field.kind: field for field in (Categorical, Hash, Multi, Binned, Numeric, Vector)
}


def _scaled(numbers: np.ndarray, mean: float | np.ndarray, deviation: float | np.ndarray) -> np.ndarray:
    """float32 in the shape of the numbers; 0 for what is missing, and where the deviation is 0."""
    spread = np.where(deviation, deviation, np.inf)
    scaled = np.clip((numbers - mean) / spread, -MAX_DEVIATIONS, MAX_DEVIATIONS)
    return np.where(np.isfinite(numbers), scaled, 0.0).astype(np.float32)
