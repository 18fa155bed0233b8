"""Encoders against dictionaries and loops. `known` marks the training rows: nothing else may be learnt from."""

import numpy as np
import pandas as pd
import pytest

from recexp.config import FeatureKind
from recexp.dataset.encode import binned, categorical, encode_side, multi, standardise
from recexp.dataset.schema import FIRST, PADDING, UNKNOWN
from recexp.error import DataError

SEEDS = range(5)
ALL_KINDS = {
    "city": FeatureKind.categorical,
    "tags": FeatureKind.multi,
    "age": FeatureKind.numeric,
    "price": FeatureKind.binned,
}


def vocabulary(known_values: list) -> dict:
    return {value: FIRST + place for place, value in enumerate(sorted(set(known_values)))}


def random_frame(seed: int, n: int = 60) -> tuple[pd.DataFrame, np.ndarray]:
    rng = np.random.default_rng(seed)
    cells = ["|".join(rng.choice(list("abcdefgh"), rng.integers(4))) for _ in range(n)]
    frame = pd.DataFrame({
        "city": rng.choice(["x", "y", "z", "rare", None], n, p=[0.3, 0.3, 0.2, 0.05, 0.15]),
        "tags": pd.Series(cells, dtype=object).mask(rng.random(n) < 0.1),
        "age": np.where(rng.random(n) < 0.2, np.nan, rng.normal(40, 9, n)),
        "price": np.where(rng.random(n) < 0.2, np.nan, rng.integers(6, size=n)),
    })  # fmt: skip
    return frame, rng.random(n) < 0.4


@pytest.mark.parametrize("seed", SEEDS)
def test_categorical_ids_are_those_of_a_dictionary_over_the_known_rows(seed: int) -> None:
    frame, known = random_frame(seed)
    ids = vocabulary([value for value, seen in zip(frame["city"], known, strict=True) if seen and pd.notna(value)])
    found, size = categorical(frame["city"], known)
    assert found.tolist() == [ids.get(value, UNKNOWN) for value in frame["city"]]
    assert size == len(ids)


def test_categorical_without_any_known_value_is_unknown() -> None:
    ids, size = categorical(pd.Series(["a", None]), np.zeros(2, bool))
    assert (ids.tolist(), size) == ([UNKNOWN, UNKNOWN], 0)
    ids, size = categorical(pd.Series([None, None]), np.ones(2, bool))
    assert (ids.tolist(), size) == ([UNKNOWN, UNKNOWN], 0)


@pytest.mark.parametrize("seed", SEEDS)
def test_multi_keeps_the_order_of_each_cell_and_pads_on_the_right(seed: int) -> None:
    frame, known = random_frame(seed)
    cells = [[value for value in str(cell).split("|") if value] if pd.notna(cell) else [] for cell in frame["tags"]]
    ids = vocabulary([value for cell, seen in zip(cells, known, strict=True) if seen for value in cell])
    width = max(map(len, cells))
    found, size = multi(frame["tags"], known)
    expected = [[ids.get(value, UNKNOWN) for value in cell] + [PADDING] * (width - len(cell)) for cell in cells]
    assert found.tolist() == expected
    assert size == len(ids)


def test_multi_by_hand() -> None:
    column = pd.Series(["b|a", None, "", "zz|a", "c||b"])
    ids, size = multi(column, np.array([True, True, True, False, True]))
    assert ids.tolist() == [[3, 2], [0, 0], [0, 0], [UNKNOWN, 2], [4, 3]]
    assert size == 3


def test_multi_takes_numbers_and_cells_that_are_all_missing() -> None:
    assert multi(pd.Series([7, 5]), np.ones(2, bool))[0].tolist() == [[3], [2]]
    assert multi(pd.Series([None, None], dtype=object), np.ones(2, bool))[0].tolist() == [[0], [0]]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("n_bins", [2, 3, 10])
def test_every_bin_holds_a_known_number_and_bins_are_in_order(seed: int, n_bins: int) -> None:
    frame, known = random_frame(seed)
    numbers = frame["price"].to_numpy()
    ids, size = binned(numbers, known, n_bins)
    finite = np.isfinite(numbers)
    assert (ids[~finite] == UNKNOWN).all()
    assert set(ids[known & finite]) == set(range(FIRST, FIRST + size))
    assert size <= n_bins
    assert (np.diff(ids[finite][np.argsort(numbers[finite])]) >= 0).all()


def test_bins_of_distinct_numbers_are_of_one_size_and_go_on_beyond_the_ends() -> None:
    numbers = np.append(np.arange(100.0), [-5, 1000])
    ids, size = binned(numbers, np.arange(102) < 100, 5)
    assert np.bincount(ids[:100])[FIRST:].tolist() == [20] * 5
    assert ids[100:].tolist() == [FIRST, FIRST + size - 1]


def test_a_number_below_a_frequent_least_one_shares_its_bin() -> None:
    ids, size = binned(np.array([0, 0, 0, 0, 0, 1, 2, -3]), np.arange(8) < 7, 4)
    assert ids.tolist() == [2, 2, 2, 2, 2, 3, 3, 2]
    assert size == 2


def test_bins_without_a_known_number_are_unknown() -> None:
    ids, size = binned(np.array([np.nan, 3.0]), np.array([True, False]), 4)
    assert (ids.tolist(), size) == ([UNKNOWN, UNKNOWN], 0)


@pytest.mark.parametrize("seed", SEEDS)
def test_numbers_have_mean_0_and_deviation_1_over_the_known_rows_and_gaps_are_the_mean(seed: int) -> None:
    frame, known = random_frame(seed)
    numbers = frame["age"].to_numpy()
    sample = [number for number, seen in zip(numbers, known, strict=True) if seen and np.isfinite(number)]
    mean = sum(sample) / len(sample)
    deviation = (sum((number - mean) ** 2 for number in sample) / len(sample)) ** 0.5
    expected = [(number - mean) / deviation if np.isfinite(number) else 0 for number in numbers]
    np.testing.assert_allclose(standardise(numbers, known), expected, rtol=1e-5, atol=1e-6)


def test_a_constant_number_stays_harmless() -> None:
    numbers = np.full(12, 0.1)
    assert np.std(numbers) > 0  # a rounding error
    found = standardise(np.append(numbers, 0.6), np.arange(13) < 12)
    np.testing.assert_allclose(found, [0] * 12 + [0.5], atol=1e-6)
    assert standardise(np.array([np.nan, 5.0]), np.array([True, False])).tolist() == [0, 5]


@pytest.mark.parametrize("seed", SEEDS)
def test_fields_of_a_side_share_no_id_but_padding_and_unknown(seed: int) -> None:
    frame, known = random_frame(seed)
    encoded = encode_side(frame, ALL_KINDS, known, 3)
    assert [field.name for field in encoded.side.fields] == list(ALL_KINDS)
    taken: set[int] = set()
    for field in encoded.side.fields:
        if not field.numeric:
            ids = set(encoded.ids[:, field.column : field.column + field.width].flatten()) - {PADDING, UNKNOWN}
            assert ids == set(range(FIRST + field.offset, FIRST + field.offset + field.size))
            assert not ids & taken
            taken |= ids
    assert len(taken) == encoded.side.vocabulary - FIRST
    assert (encoded.ids.dtype, encoded.values.dtype) == (np.int32, np.float32)
    assert encoded.ids.shape == (len(frame), encoded.side.id_columns)
    assert encoded.values.shape == (len(frame), encoded.side.value_columns)


def test_rows_of_other_parts_change_nothing_for_the_known_ones() -> None:
    frame, known = random_frame(0)
    other = frame.copy()
    other.loc[~known, ["city", "tags", "age", "price"]] = ["new", "a|new|b|h", 1e6, -1e6]
    before, after = (encode_side(each, ALL_KINDS, known, 3) for each in (frame, other))
    assert [field.size for field in before.side.fields] == [field.size for field in after.side.fields]
    np.testing.assert_array_equal(before.values[known], after.values[known])
    width = before.side.fields[1].width
    np.testing.assert_array_equal(before.ids[known, : 1 + width], after.ids[known, : 1 + width])
    np.testing.assert_array_equal(before.ids[known, -1], after.ids[known, -1])


def test_a_side_without_features_has_no_columns() -> None:
    encoded = encode_side(pd.DataFrame(index=range(3)), {}, np.ones(3, bool), 3)
    assert encoded.ids.shape == encoded.values.shape == (3, 0)


@pytest.mark.parametrize("kind", [FeatureKind.numeric, FeatureKind.binned])
def test_what_is_no_number_is_named_and_blanks_are_gaps(kind: FeatureKind) -> None:
    frame = pd.DataFrame({"age": ["31", " ", None, "old", "older"]})
    with pytest.raises(DataError, match=r"'age' holds 'old', which is no number; .* the 2 such values"):
        encode_side(frame, {"age": kind}, np.ones(5, bool), 3)
    encoded = encode_side(frame.head(3), {"age": kind}, np.ones(3, bool), 3)
    assert (encoded.values if kind is FeatureKind.numeric else encoded.ids).flatten().tolist() in ([0, 0, 0], [2, 1, 1])


def test_integers_and_truth_values_are_numbers() -> None:
    frame = pd.DataFrame({"n": [1, 3], "flag": [True, False]})
    encoded = encode_side(frame, {"n": FeatureKind.numeric, "flag": FeatureKind.numeric}, np.ones(2, bool), 3)
    assert encoded.values.tolist() == [[-1, 1], [1, -1]]
