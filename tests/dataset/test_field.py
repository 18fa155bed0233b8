"""Encoders of single columns against dictionaries and loops. `train` marks the rows they may learn from."""

import zlib
from typing import Any

import numpy as np
import pandas as pd
import pytest
from columns import random_frame

from recexp.dataset.field import Binned, Categorical, Hash, Multi, Numeric
from recexp.dataset.schema import FIRST, PADDING, UNKNOWN
from recexp.dataset.value import checksum

SEEDS = range(5)


def encoded(kind: type, column: Any, train: np.ndarray, n_bins: int = 3) -> tuple[np.ndarray, int]:
    """What a newly fitted encoder makes of a column, and the number of values it knows."""
    cells = kind.read(pd.Series(column), "name")
    encoder = kind.fit(cells, train, n_bins)
    array = encoder.encode(cells)
    return array[:, 0] if kind in (Categorical, Binned) else array, encoder.size


def ids_by_value(values: list) -> dict:
    return {value: FIRST + index for index, value in enumerate(sorted(set(values)))}


@pytest.mark.parametrize("seed", SEEDS)
def test_categorical_ids_are_those_of_a_dictionary_over_the_training_rows(seed: int) -> None:
    frame, train = random_frame(seed)
    known = ids_by_value(
        [value for value, trains in zip(frame["city"], train, strict=True) if trains and pd.notna(value)]
    )
    ids, size = encoded(Categorical, frame["city"], train)
    assert ids.tolist() == [known.get(value, UNKNOWN) for value in frame["city"]]
    assert size == len(known)


def test_categorical_without_any_training_value_is_unknown() -> None:
    ids, size = encoded(Categorical, pd.Series(["a", None]), np.zeros(2, bool))
    assert (ids.tolist(), size) == ([UNKNOWN, UNKNOWN], 0)
    ids, size = encoded(Categorical, pd.Series([None, None]), np.ones(2, bool))
    assert (ids.tolist(), size) == ([UNKNOWN, UNKNOWN], 0)


def test_buckets_are_those_of_crc_32_in_every_process() -> None:
    assert checksum("123456789") == 0xCBF43926  # the check value of the standard
    cells = Hash.read(pd.Series(["123456789", None, "a", "new"]), "ad")
    encoder = Hash.fit(cells, np.array([True, True, True, False]), 1000)
    buckets = [0xCBF43926 % 1000, zlib.crc32(b"a") % 1000, zlib.crc32(b"new") % 1000]
    assert encoder.encode(cells)[:, 0].tolist() == [FIRST + buckets[0], UNKNOWN, FIRST + buckets[1], FIRST + buckets[2]]
    assert (encoder.size, encoder.n_values) == (1000, 2)


def test_quotient_and_remainder_tell_all_buckets_apart_in_fewer_rows() -> None:
    encoder = Hash(n_buckets=103, n_quotients=8, n_values=0)
    ids = encoder.ids(np.arange(103))
    assert encoder.remainders == 13 and encoder.size == 13 + 8
    assert len(np.unique(ids, axis=0)) == 103 and ids.min() == FIRST and ids.max() == FIRST + 13 + 8 - 1
    assert ids[30].tolist() == [FIRST + 30 % 13, FIRST + 13 + 30 // 13]
    cells = Hash.read(pd.Series(["a", None]), "ad")
    bucket = zlib.crc32(b"a") % 103
    assert encoder.encode(cells).tolist() == [ids[bucket].tolist(), [UNKNOWN, PADDING]]


def test_equal_values_of_any_type_are_in_one_bucket() -> None:
    columns = [["5", "-7"], [5, -7], [5.0, -7.0], np.array([5, -7], np.float32), pd.array([5, -7], "Int64")]
    assert len({tuple(Hash.read(pd.Series(column), "ad").unique.tolist()) for column in columns}) == 1
    assert checksum("5.0") == checksum("5") == checksum(np.int8(5)) != checksum("5.01")
    assert checksum(2.5) == checksum("2.5") and checksum(1e20) == checksum("1e+20")


def test_values_spread_evenly_over_buckets() -> None:
    for n_buckets in (1000, 1024):  # numbers in a row, where a checksum is most likely to repeat
        counts = np.bincount([checksum(str(n)) % n_buckets for n in range(20_000)], minlength=n_buckets)
        assert counts.var() < 2 * counts.mean()  # of random buckets it is the mean


@pytest.mark.parametrize("seed", SEEDS)
def test_multi_keeps_the_order_of_each_cell_and_pads_on_the_right(seed: int) -> None:
    frame, train = random_frame(seed)
    cells = [[value for value in str(cell).split("|") if value] if pd.notna(cell) else [] for cell in frame["tags"]]
    known = ids_by_value([value for cell, trains in zip(cells, train, strict=True) if trains for value in cell])
    width = max(map(len, cells))
    ids, size = encoded(Multi, frame["tags"], train)
    expected = [[known.get(value, UNKNOWN) for value in cell] + [PADDING] * (width - len(cell)) for cell in cells]
    assert ids.tolist() == expected
    assert size == len(known)


def test_multi_by_hand() -> None:
    column = pd.Series(["b|a", None, "", "zz|a", "c||b"])
    ids, size = encoded(Multi, column, np.array([True, True, True, False, True]))
    assert ids.tolist() == [[3, 2], [0, 0], [0, 0], [UNKNOWN, 2], [4, 3]]
    assert size == 3


def test_multi_takes_numbers_and_cells_that_are_all_missing() -> None:
    assert encoded(Multi, pd.Series([7, 5]), np.ones(2, bool))[0].tolist() == [[3], [2]]
    assert encoded(Multi, pd.Series([None, None], dtype=object), np.ones(2, bool))[0].tolist() == [[0], [0]]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("n_bins", [2, 3, 10])
def test_every_bin_holds_a_training_number_and_bins_are_in_order(seed: int, n_bins: int) -> None:
    frame, train = random_frame(seed)
    numbers = frame["price"].to_numpy()
    ids, size = encoded(Binned, numbers, train, n_bins)
    finite = np.isfinite(numbers)
    assert (ids[~finite] == UNKNOWN).all()
    assert set(ids[train & finite]) == set(range(FIRST, FIRST + size))
    assert size <= n_bins
    assert (np.diff(ids[finite][np.argsort(numbers[finite])]) >= 0).all()


def test_bins_of_distinct_numbers_are_of_one_size_and_go_on_beyond_the_ends() -> None:
    numbers = np.append(np.arange(100.0), [-5, 1000])
    ids, size = encoded(Binned, numbers, np.arange(102) < 100, 5)
    assert np.bincount(ids[:100])[FIRST:].tolist() == [20] * 5
    assert ids[100:].tolist() == [FIRST, FIRST + size - 1]


def test_a_number_below_a_frequent_least_one_shares_its_bin() -> None:
    ids, size = encoded(Binned, np.array([0, 0, 0, 0, 0, 1, 2, -3]), np.arange(8) < 7, 4)
    assert ids.tolist() == [2, 2, 2, 2, 2, 3, 3, 2]
    assert size == 2


def test_bins_without_a_training_number_are_unknown() -> None:
    ids, size = encoded(Binned, np.array([np.nan, 3.0]), np.array([True, False]), 4)
    assert (ids.tolist(), size) == ([UNKNOWN, UNKNOWN], 0)


@pytest.mark.parametrize("seed", SEEDS)
def test_numbers_have_mean_0_and_deviation_1_over_the_training_rows_and_gaps_are_the_mean(seed: int) -> None:
    frame, train = random_frame(seed)
    numbers = frame["age"].to_numpy()
    sample = [number for number, trains in zip(numbers, train, strict=True) if trains and np.isfinite(number)]
    mean = sum(sample) / len(sample)
    deviation = (sum((number - mean) ** 2 for number in sample) / len(sample)) ** 0.5
    expected = [(number - mean) / deviation if np.isfinite(number) else 0 for number in numbers]
    np.testing.assert_allclose(encoded(Numeric, numbers, train)[0], expected, rtol=1e-5, atol=1e-6)


def test_numbers_of_which_training_holds_no_two_different_ones_are_all_the_mean() -> None:
    numbers = np.full(12, 0.1)
    assert np.std(numbers) > 0  # a rounding error
    assert encoded(Numeric, np.append(numbers, 300.0), np.arange(13) < 12)[0].tolist() == [0] * 13
    assert encoded(Numeric, np.array([np.nan, 500.0]), np.array([True, False]))[0].tolist() == [0, 0]


def test_a_longer_cell_of_later_rows_keeps_its_first_values() -> None:
    cells = Multi.read(pd.Series(["a|b", "c"]), "tags")
    encoder = Multi.fit(cells, np.ones(2, bool), 3)
    later = Multi.read(pd.Series(["c|new|a", None, "b"]), "tags")
    assert encoder.encode(later).tolist() == [[4, UNKNOWN], [PADDING, PADDING], [3, PADDING]]


def test_integers_that_a_float_cannot_tell_apart_stay_apart() -> None:
    ids = 2**60 + np.arange(4)
    encoder = Categorical.fit(Categorical.read(pd.Series(ids), "id"), np.array([True, False, True, False]), 3)
    for column in (pd.Series(ids), pd.Series([*ids.tolist(), None], dtype=object), pd.Series(ids, dtype="Int64")):
        assert encoder.encode(Categorical.read(column, "id"))[:4, 0].tolist() == [2, UNKNOWN, 3, UNKNOWN]
