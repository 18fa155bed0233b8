"""All fields of a side encoded together, on later rows, and by an encoder that was saved and loaded."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from columns import random_frame

from recexp.dataset.config import FeatureKind
from recexp.dataset.encoded import Encoded
from recexp.dataset.encoder import Encoder, SideEncoder
from recexp.dataset.schema import FIRST, PADDING, UNKNOWN
from recexp.error import DataError

SEEDS = range(5)
ALL_KINDS = {
    "city": FeatureKind.categorical,
    "tags": FeatureKind.multi,
    "age": FeatureKind.numeric,
    "price": FeatureKind.binned,
}


def same(one: Encoded, two: Encoded) -> bool:
    pairs = ((one.ids, two.ids), (one.values, two.values))
    return all(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in pairs)


def reloaded(encoder: SideEncoder, folder: Path) -> SideEncoder:
    Encoder(item=encoder).save(folder)
    return Encoder.load(folder).item


@pytest.mark.parametrize("seed", SEEDS)
def test_fields_of_a_side_share_no_id_but_padding_and_unknown(seed: int) -> None:
    frame, train = random_frame(seed)
    encoder, encoded = SideEncoder.fit(frame, ALL_KINDS, train, 3)
    assert [field.name for field in encoder.side.fields] == list(ALL_KINDS)
    taken: set[int] = set()
    for field in encoder.side.fields:
        if not field.numeric:
            ids = set(encoded.ids[:, field.column : field.column + field.width].flatten()) - {PADDING, UNKNOWN}
            assert ids == set(range(FIRST + field.offset, FIRST + field.offset + field.size))
            assert not ids & taken
            taken |= ids
    assert len(taken) == encoder.side.vocabulary - FIRST
    assert (encoded.ids.dtype, encoded.values.dtype) == (np.int32, np.float32)
    assert encoded.ids.shape == (len(frame), encoder.side.id_columns)
    assert encoded.values.shape == (len(frame), encoder.side.value_columns)


def test_rows_of_other_splits_change_nothing_for_the_training_rows() -> None:
    frame, train = random_frame(0)
    other = frame.copy()
    other.loc[~train, ["city", "tags", "age", "price"]] = ["new", "a|new|b|h", 1e6, -1e6]
    (first, before), (second, after) = (SideEncoder.fit(rows, ALL_KINDS, train, 3) for rows in (frame, other))
    assert [field.size for field in first.side.fields] == [field.size for field in second.side.fields]
    np.testing.assert_array_equal(before.values[train], after.values[train])
    width = first.side.fields[1].width
    np.testing.assert_array_equal(before.ids[train, : 1 + width], after.ids[train, : 1 + width])
    np.testing.assert_array_equal(before.ids[train, -1], after.ids[train, -1])


def test_a_side_without_features_has_no_columns() -> None:
    _, encoded = SideEncoder.fit(pd.DataFrame(index=range(3)), {}, np.ones(3, bool), 3)
    assert encoded.ids.shape == encoded.values.shape == (3, 0)


@pytest.mark.parametrize("kind", [FeatureKind.numeric, FeatureKind.binned])
def test_what_is_no_number_is_named_and_blanks_are_gaps(kind: FeatureKind) -> None:
    frame = pd.DataFrame({"age": ["31", " ", None, "old", "older"]})
    with pytest.raises(DataError, match=r"'age' holds 'old', which is no number; .* the 2 such values"):
        SideEncoder.fit(frame, {"age": kind}, np.ones(5, bool), 3)
    _, encoded = SideEncoder.fit(frame.head(3), {"age": kind}, np.ones(3, bool), 3)
    assert (encoded.values if kind is FeatureKind.numeric else encoded.ids).flatten().tolist() in ([0, 0, 0], [2, 1, 1])


def test_integers_and_truth_values_are_numbers() -> None:
    frame = pd.DataFrame({"n": [1, 3], "flag": [True, False]})
    kinds = {"n": FeatureKind.numeric, "flag": FeatureKind.numeric}
    assert SideEncoder.fit(frame, kinds, np.ones(2, bool), 3)[1].values.tolist() == [[-1, 1], [1, -1]]


def test_a_categorical_value_is_a_string_or_a_number() -> None:
    frame = pd.DataFrame({"day": pd.to_datetime(["2024-01-01", "2024-01-02"])})
    with pytest.raises(DataError, match=r"'day' holds .*: a categorical value must be a string or a number"):
        SideEncoder.fit(frame, {"day": FeatureKind.categorical}, np.ones(2, bool), 3)


def test_a_column_that_is_not_there_is_named() -> None:
    frame, train = random_frame(0)
    encoder, _ = SideEncoder.fit(frame, ALL_KINDS, train, 3)
    with pytest.raises(DataError, match=r"feature 'city': no such column\. .*Choices: age, price, tags"):
        encoder.transform(frame[["tags", "age", "price"]])


# Later rows


@pytest.mark.parametrize("seed", SEEDS)
def test_the_fitted_rows_are_encoded_as_at_fitting_alone_or_together(seed: int) -> None:
    frame, train = random_frame(seed)
    encoder, encoded = SideEncoder.fit(frame, ALL_KINDS, train, 3)
    assert same(encoder.transform(frame), encoded)
    alone = [encoder.transform(frame.iloc[[row]]) for row in range(len(frame))]
    ids, values = (np.concatenate([getattr(row, name) for row in alone]) for name in ("ids", "values"))
    assert same(Encoded(ids=ids, values=values), encoded)
    assert same(encoder.transform(frame.iloc[:0]), Encoded(ids=encoded.ids[:0], values=encoded.values[:0]))


def test_later_values_that_training_lacks_are_unknown_and_gaps_are_the_mean() -> None:
    frame = pd.DataFrame({"city": ["x", "y"], "tags": ["a|b", "b"], "age": [1.0, 3.0], "price": [1.0, 2.0]})
    encoder, _ = SideEncoder.fit(frame, ALL_KINDS, np.ones(2, bool), 2)
    later = pd.DataFrame({"city": ["y", "new", None], "tags": ["b|new", None, ""], "age": [5.0, None, 2.0],
                          "price": [-9.0, 9.0, None]})  # fmt: skip
    encoded = encoder.transform(later)
    assert encoded.ids.tolist() == [[3, 5, UNKNOWN, 6], [UNKNOWN, 0, 0, 7], [UNKNOWN, 0, 0, UNKNOWN]]
    assert encoded.values.tolist() == [[3], [0], [0]]


# Saved and loaded


@pytest.mark.parametrize("seed", SEEDS)
def test_a_loaded_encoder_encodes_as_the_saved_one(seed: int, tmp_path: Path) -> None:
    frame, train = random_frame(seed)
    encoder, encoded = SideEncoder.fit(frame, ALL_KINDS, train, 3)
    later, _ = random_frame(seed + 100)
    loaded = reloaded(encoder, tmp_path)
    assert loaded.side == encoder.side
    assert same(loaded.transform(frame), encoded)
    assert same(loaded.transform(later), encoder.transform(later))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoder.json"]


VALUES = {
    "small integers": np.array([3, -7, 3, 12], np.int32),
    "integers above 2^53": 2**60 + np.array([0, 1, 1, 3]),
    "unsigned": np.array([2**64 - 1, 2**64 - 2, 5, 5], np.uint64),
    "text": ["ä", "a", "", "a\0"],
    "digits": ["10", "9", "010", "9.0"],
    "fractions": [0.1, 1 / 3, 1e300, 0.1 + 0.2],
    "truth values": [True, False, True, True],
    "integers with a gap": pd.array([2**60, None, 2**60 + 1, 4], "Int64"),
    "integers as objects": np.array([2**60, 2**60 + 1, None, 4], object),
    "a category": pd.Categorical(["b", "a", None, "b"]),
}


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_vocabularies_keep_their_types_and_digits(values: object, tmp_path: Path) -> None:
    frame = pd.DataFrame({"id": values})
    encoder, encoded = SideEncoder.fit(frame, {"id": FeatureKind.categorical}, np.array([1, 1, 0, 0], bool), 3)
    loaded = reloaded(encoder, tmp_path)
    before, after = encoder.fields["id"].vocabulary, loaded.fields["id"].vocabulary
    assert before.dtype == after.dtype and before.tolist() == after.tolist()
    assert list(map(type, before.tolist())) == list(map(type, after.tolist()))
    assert same(encoder.transform(frame), encoded) and same(loaded.transform(frame), encoded)
    assert len(set(encoded.ids[:2, 0].tolist())) == 2
    other = pd.DataFrame({"id": ["10", "a", "b", None]})
    assert same(loaded.transform(other), encoder.transform(other))


def test_statistics_come_back_to_the_bit(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).lognormal(3, 2, 1000)
    frame = pd.DataFrame({"age": numbers, "price": numbers})
    kinds = {"age": FeatureKind.numeric, "price": FeatureKind.binned}
    encoder, encoded = SideEncoder.fit(frame, kinds, np.arange(1000) < 700, 50)
    loaded = reloaded(encoder, tmp_path)
    assert loaded.fields["age"] == encoder.fields["age"]
    assert loaded.fields["price"].edges.tobytes() == encoder.fields["price"].edges.tobytes()
    assert same(loaded.transform(frame), encoded)


def test_a_hashed_field_keeps_no_vocabulary_and_comes_back(tmp_path: Path) -> None:
    frame = pd.DataFrame({"ad": [f"a{n % 70}" for n in range(200)], "city": list("xyzz") * 50})
    kinds = {"ad": FeatureKind.hash, "city": FeatureKind.categorical}
    encoder, encoded = SideEncoder.fit(frame, kinds, np.arange(200) < 100, 3, min_count=30, n_buckets=50)
    assert [field.size for field in encoder.side.fields] == [50, 1] and encoder.side.fields[1].offset == 50
    loaded = reloaded(encoder, tmp_path)
    assert loaded.fields["ad"] == encoder.fields["ad"] and same(loaded.transform(frame), encoded)
    assert "a1" not in (tmp_path / "encoder.json").read_text()
    later = loaded.transform(pd.DataFrame({"ad": ["a3", "never seen", None], "city": "z"}))
    assert later.ids[0, 0] == encoded.ids[3, 0]
    assert (later.ids[:, 0] > UNKNOWN).tolist() == [True, True, False]


def test_more_ids_than_32_bits_can_number_are_refused() -> None:
    kinds = {f"ad{n}": FeatureKind.hash for n in range(3)}
    frame = pd.DataFrame({name: ["a"] for name in kinds})
    with pytest.raises(DataError, match="features ad0, ad1, ad2: 3,000,000,002 ids are more than 2,147,483,647"):
        SideEncoder.fit(frame, kinds, np.ones(1, bool), 3, n_buckets=10**9)


def test_fields_without_any_training_value_come_back(tmp_path: Path) -> None:
    frame = pd.DataFrame({"city": [None, "x"], "tags": [None, "a|b"], "age": [np.nan, 2], "price": [np.nan, 1]})
    for train in ([True, False], [False, False]):
        encoder, encoded = SideEncoder.fit(frame, ALL_KINDS, np.array(train), 3)
        assert [field.size for field in encoder.side.fields] == [0, 0, 0, 0]
        assert encoded.ids.tolist() == [[1, 0, 0, 1], [1, 1, 1, 1]] and encoded.values.tolist() == [[0], [0]]
        assert same(reloaded(encoder, tmp_path).transform(frame), encoded)


def test_a_row_counts_once_however_often_it_holds_a_value() -> None:
    frame = pd.DataFrame({"few": ["a|a|b", "b"], "many": ["|".join(["a"] * 20 + ["b"]), "b"]})
    kinds = dict.fromkeys(frame, FeatureKind.multi)
    encoder, _ = SideEncoder.fit(frame, kinds, np.ones(2, bool), n_bins=2, min_count=2)
    assert [field.vocabulary.tolist() for field in encoder.fields.values()] == [["b"], ["b"]]  # type: ignore[union-attr]
