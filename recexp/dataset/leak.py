"""Finds leaks: columns that hold the label itself, or a statistic that includes the held-out events.

N rows of the log; n rows sampled; E users or items; V components of a vector

Of a vector we check the component that correlates most, and the best linear combination of all.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from recexp.dataset.config import FeatureKind
from recexp.dataset.encoded import Encoded
from recexp.dataset.label import MISSING
from recexp.dataset.log import SPLITS, Log, Table
from recexp.dataset.ragged import Ragged
from recexp.dataset.schema import UNKNOWN, Field, Side

PREDICTS = 0.95  # AUC of a column alone; the best of a column without a leak that we know is .93, Frappe's items
N_TRAIN, N_VALID = 50_000, 20_000  # rows sampled to find such a column
N_BINS = 32  # of a numeric column there
N_VECTORS = 10_000  # rows, or users or items, sampled for a vector: about half a second for 768 components
RIDGE = 0.01  # of the regression on a vector's components, whose variances are about 1
PRIOR = 5  # weight, in rows, of the mean in the smoothed label rate of a value
FOLLOWS = 0.95  # least rank correlation of a leak with a statistic over all events
TRAIN_FOLLOWS = 0.995  # rank correlation from which the statistic over train explains the column as well
UNEXPLAINED = 0.3  # variance left by the statistic over all events, relative to that left by the one over train
MIN_ENTITIES = 30  # users or items for a correlation
PER_CODE = 10  # users or items for each value of a categorical column, on average, to tell that it is a statistic
SMOOTHED = 10  # weight, in rows, of the overall mean in a smoothed mean


@dataclass(frozen=True)
class Column:
    """A field of the log, of its users or of its items."""

    name: str  # as in unknown_rate of the facts
    field: Field
    values: np.ndarray | Ragged  # (rows,) numbers, (rows, width) ids, or lists of ids
    index: np.ndarray | None  # (N,) which of its rows an event has; None for context, which has a row an event

    def of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The values (T,) at some rows of the log, and the number (T,) of each one's row among these."""
        index = rows if self.index is None else self.index[rows]
        if isinstance(self.values, Ragged):
            return self.values.at(index).flat()
        values = self.values[index]
        return values.ravel(), np.arange(len(rows)).repeat(values.size // max(1, len(rows)))


@dataclass(frozen=True)
class Statistic:
    """A statistic of each user's or item's events, NaN unless some train and some do not."""

    name: str
    of_train: np.ndarray  # (E,)
    of_all: np.ndarray  # (E,)


def leaks(
    log: Table,
    sides: Mapping[str, Side],
    label: np.ndarray,
    tasks: Sequence[str] = (),
    joined: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> Iterator[str]:
    """One line for each such column. label: (N,) as given, before it is cut at a threshold, in the order of the log.

    tasks: the names of several labels. joined: the user or item (N,) of each row of a table, where a file of these has
    joined it.
    """
    columns = list(_columns(log, sides))
    labels = {"label": log.label}
    if log.tasks is not None:
        labels = {f"label {name}": of_task for name, of_task in zip(tasks, log.tasks.T, strict=True)}
    for name, of_rows in labels.items():
        yield from _label_leaks(log, columns, name, of_rows)
    entities = {"user": log.user, "item": log.item} if isinstance(log, Log) else joined
    yield from _statistic_leaks(log, columns, labels, label, entities)


def _columns(log: Table, sides: Mapping[str, Side]) -> Iterator[Column]:
    tables: dict[str, tuple[Encoded, np.ndarray | None]] = {"context": (log.context, None)}
    if isinstance(log, Log):
        tables |= {"user": (log.users, log.user), "item": (log.items, log.item)}
    for side, (encoded, index) in tables.items():
        for field in sides[side].fields:
            name = field.name if field.name == side else f"{side}.{field.name}"
            yield Column(name, field, encoded.column(field), index)


def _label_leaks(log: Table, columns: list[Column], name: str, label: np.ndarray) -> Iterator[str]:
    """Columns that alone predict a label: each value's label rate in a sample of train, scored on held-out rows.

    label: (N,), MISSING in rows that do not have it.
    """
    labelled = {split: log.rows(split)[label[log.rows(split)] != MISSING] for split in SPLITS}
    held_out = "valid" if len(labelled["valid"]) else "test"
    train, scored = _sample(labelled["train"], N_TRAIN), _sample(labelled[held_out], N_VALID)
    if not len(train):
        return
    for column in columns:
        if column.field.kind is FeatureKind.vector:
            train_rows, rows = _sample(train, N_VECTORS), _sample(scored, N_VECTORS)
            scores = _vector_scores(column, train_rows, label[train_rows], rows)
        else:
            rows, scores = scored, {column.name: _label_rates(column, train, label[train], scored)}
        for of_scores, score in scores.items():
            if (auc := _auc(label[rows], score)) > PREDICTS:
                fact = f"{of_scores} alone predicts the {name} (auc {auc:.3f} on {held_out})"
                yield f"{fact}; is it known before the event?"
                break


def _vector_scores(column: Column, train: np.ndarray, label: np.ndarray, scored: np.ndarray) -> dict[str, np.ndarray]:
    """Scores (n,) of some rows by name: the component, and the linear combination, that fit the label best in train."""
    assert isinstance(column.values, np.ndarray)
    x, scored_x = (column.values[rows if column.index is None else column.index[rows]] for rows in (train, scored))
    best, sign = _most_correlated(label, x)
    gram = x.T @ x + RIDGE * len(x) * np.eye(x.shape[1], dtype=x.dtype)
    weights = np.linalg.solve(gram, x.T @ (label - label.mean()))
    return {
        _component(column, best): sign * scored_x[:, best],
        f"a linear combination of {column.name}": scored_x @ weights,
    }


def _most_correlated(numbers: np.ndarray, vectors: np.ndarray) -> tuple[int, float]:
    """The component of vectors (n, V) that numbers (n,) correlate with most, and the sign of that."""
    spread = vectors.std(0)
    correlation = (numbers - numbers.mean()) @ vectors / np.where(spread > 0, spread, np.inf)
    best = int(np.abs(correlation).argmax())
    return best, float(np.sign(correlation[best]))


def _component(column: Column, number: int) -> str:
    return f"component {number} (counted from 0) of {column.name}"


def _label_rates(column: Column, train: np.ndarray, label: np.ndarray, scored: np.ndarray) -> np.ndarray:
    """(n,) the mean label rate, in train, of the values of each scored row."""
    (train_value, train_row), (value, row) = column.of(train), column.of(scored)
    if column.field.numeric:
        edges = np.unique(np.quantile(train_value, np.arange(1, N_BINS) / N_BINS))
        train_value, value = _bins(train_value, edges), _bins(value, edges)
    # Few codes, however large the ids are.
    unique, code = np.unique(np.concatenate([train_value, value]), return_inverse=True)
    train_code, code = code[: len(train_value)], code[len(train_value) :]
    count = np.bincount(train_code, minlength=len(unique))
    positive = np.bincount(train_code, label[train_row], minlength=len(unique))
    rate = ((positive + PRIOR * label.mean()) / (count + PRIOR))[code]
    n_values = np.bincount(row, minlength=len(scored))
    return np.where(n_values, np.bincount(row, rate, len(scored)) / np.maximum(n_values, 1), label.mean())


def _bins(numbers: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """(n,) the bin of each number; an edge is a bin of its own, as often it is a frequent number such as 0."""
    return np.searchsorted(edges, numbers, side="left") + np.searchsorted(edges, numbers, side="right")


def _statistic_leaks(
    log: Table,
    columns: list[Column],
    labels: Mapping[str, np.ndarray],
    rating: np.ndarray,
    entities: Mapping[str, np.ndarray],
) -> Iterator[str]:
    """Numbers of users or items, or categories, that are a statistic of all their events, also of valid and test.

    Such a number follows the statistic over all events far more closely than that over train. What comes from elsewhere
    follows it only somewhat more closely, as more events have less noise.
    """
    ratings = {name: np.where(label == MISSING, np.nan, label) for name, label in labels.items()}
    for side, entity in entities.items():
        candidates = {column.name: _numbers(column, entity) for column in columns}
        numbers = {name: values for name, values in candidates.items() if values is not None}
        vectors = [column for column in columns if column.field.kind is FeatureKind.vector and column.index is entity]
        codes = {
            name: of for name, of in ((column.name, _codes(column, entity)) for column in columns) if of is not None
        }
        if not numbers and not vectors and not codes:
            continue
        statistics = list(_statistics(entity, log.split == 0, ratings, rating))
        for column in vectors:
            numbers |= dict(_correlated_components(column, statistics))
        for name, values in [*numbers.items(), *codes.items()]:
            follows = _codes_follow if name in codes else _follows
            if followed := next((statistic.name for statistic in statistics if follows(values, statistic)), None):
                yield f"{name} is the {followed} of each {side} over train, valid and test: it tells what test asks."


def _numbers(column: Column, entity: np.ndarray) -> np.ndarray | None:
    """(E,) a column of numbers by user or item, NaN if unknown; None if it is not that.

    entity: (N,) the user or item of each event. A context column counts if all events of an entity have one number.
    """
    if isinstance(column.values, Ragged) or column.field.kind not in (FeatureKind.numeric, FeatureKind.binned):
        return None
    numbers = column.values if column.field.numeric else column.values[:, 0].astype(np.float64)
    numbers = numbers if column.field.numeric else np.where(numbers == UNKNOWN, np.nan, numbers)
    return _by_entity(column, numbers, entity)


def _codes(column: Column, entity: np.ndarray) -> np.ndarray | None:
    """(E,) a categorical column by user or item, NaN if unknown; None if it is not that, or has too many values."""
    if isinstance(column.values, Ragged) or column.field.kind is not FeatureKind.categorical:
        return None
    ids = column.values[:, 0].astype(np.float64)
    codes = _by_entity(column, np.where(ids == UNKNOWN, np.nan, ids), entity)
    if codes is None:
        return None
    known = codes[np.isfinite(codes)]
    return codes if 1 < len(np.unique(known)) <= len(known) / PER_CODE else None


def _by_entity(column: Column, numbers: np.ndarray, entity: np.ndarray) -> np.ndarray | None:
    """(E,) the numbers of a column by user or item; None if these do not have one each."""
    if column.index is not None:
        return numbers if column.index is entity else None
    by_entity = np.full(int(entity.max()) + 1, np.nan)
    by_entity[entity] = numbers
    return by_entity if np.array_equal(by_entity[entity], numbers, equal_nan=True) else None


def _correlated_components(column: Column, statistics: Iterable[Statistic]) -> Iterator[tuple[str, np.ndarray]]:
    """By name, the component (E,) of a vector that correlates most with each statistic over all events."""
    assert isinstance(column.values, np.ndarray)
    for statistic in statistics:
        known = _sample(np.flatnonzero(np.isfinite(statistic.of_all)), N_VECTORS)
        if len(known) >= MIN_ENTITIES:
            best, _ = _most_correlated(_ranks(statistic.of_all[known]), column.values[known])
            yield _component(column, best), column.values[:, best]


def _statistics(
    entity: np.ndarray, train: np.ndarray, labels: Mapping[str, np.ndarray], rating: np.ndarray
) -> Iterator[Statistic]:
    """labels: (N,) by name, NaN in rows that do not have one. rating: (N,) the label as given."""
    size = int(entity.max()) + 1
    count = [np.bincount(entity[rows], minlength=size) for rows in (train, slice(None))]
    both = (count[0] > 0) & (count[1] > count[0])
    yield Statistic("number of events", *(np.where(both, number, np.nan) for number in count))
    for name, values in {**labels, "rating": rating}.items():
        known = np.isfinite(values)
        rows = [known & train, known]
        number = [np.bincount(entity[kept], minlength=size) for kept in rows]
        total = [np.bincount(entity[kept], values[kept], size) for kept in rows]
        if name in labels:
            yield Statistic(f"number of positives ({name})", *(np.where(both, positive, np.nan) for positive in total))
        for prior, kind in ((0, "mean"), (SMOOTHED, "smoothed mean")):
            mean = values[known].mean() if known.any() else 0.0
            means = [(of + prior * mean) / np.maximum(n + prior, 1) for of, n in zip(total, number, strict=True)]
            yield Statistic(f"{kind} {name}", *(np.where(both, value, np.nan) for value in means))


def _follows(numbers: np.ndarray, statistic: Statistic) -> bool:
    """True if numbers (E,) follow the statistic over all events, and far more closely than that over train."""
    known = np.isfinite(numbers) & np.isfinite(statistic.of_all)
    if known.sum() < MIN_ENTITIES:
        return False
    ranks = _ranks(numbers[known])
    of_train, of_all = (_ranks(values[known]) for values in (statistic.of_train, statistic.of_all))
    return _closer(_correlation(ranks, of_train), _correlation(ranks, of_all))


def _codes_follow(codes: np.ndarray, statistic: Statistic) -> bool:
    """The same of categories (E,): as numbers they have the mean rank of their users or items."""
    known = np.isfinite(codes) & np.isfinite(statistic.of_all)
    if known.sum() < MIN_ENTITIES:
        return False
    _, code = np.unique(codes[known], return_inverse=True)
    correlations = []
    for values in (statistic.of_train, statistic.of_all):
        ranks = _ranks(values[known])
        correlations.append(_correlation((np.bincount(code, ranks) / np.bincount(code))[code], ranks))
    return _closer(*correlations)


def _closer(with_train: float, with_all: float) -> bool:
    """True if a column follows a statistic over all events, and far more closely than that over train."""
    if abs(with_all) < FOLLOWS or abs(with_train) > TRAIN_FOLLOWS:
        return False
    return 1 - with_all**2 < UNEXPLAINED * (1 - with_train**2)


def _sample(rows: np.ndarray, n: int) -> np.ndarray:
    """At most n of the rows, evenly spaced."""
    return rows[np.linspace(0, len(rows) - 1, n).astype(np.int64)] if len(rows) > n else rows


def _auc(label: np.ndarray, score: np.ndarray) -> float:
    """NaN if a class is missing."""
    positive = label > 0
    n_positive = int(positive.sum())
    pairs = n_positive * (len(label) - n_positive)
    won = _ranks(score)[positive].sum() - n_positive * (n_positive + 1) / 2
    return float(won / pairs) if pairs else float("nan")


def _ranks(values: np.ndarray) -> np.ndarray:
    """From 1, the mean rank among equal values."""
    import pandas as pd

    return pd.Series(values).rank().to_numpy()


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """0 if either does not vary."""
    return float(np.corrcoef(a, b)[0, 1]) if a.std() and b.std() else 0.0
