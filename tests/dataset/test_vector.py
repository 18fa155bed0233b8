"""Cells of several numbers: what is read of them, what is learnt, and what is told of a wrong one."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recexp.dataset.config import FeatureKind, SplitKind
from recexp.dataset.encoder import Encoder, SideEncoder
from recexp.dataset.field import MAX_DEVIATIONS, Numeric
from recexp.dataset.given import FrameTable
from recexp.dataset.prepare import prepare
from recexp.dataset.sheet import Sheet
from recexp.dataset.vector import parsed
from recexp.error import DataError

KINDS = {"v": FeatureKind.vector}


def sheet(cells: list, separator: str = "|") -> Sheet:
    return Sheet([FrameTable(pd.DataFrame({"v": pd.Series(cells)}))], {"v": "asked"}, separator)


@pytest.mark.parametrize("cell", ["1.5|-2|3e1", "[1.5, -2, 3e1]", "1.5 -2  3e1", "(1.5,-2,3e1)", " 1.5;-2;3e1 "])
def test_numbers_are_read_with_any_usual_sign_between_them(cell: str) -> None:
    numbers, counts = parsed(pd.Series([cell, None]), ";" if ";" in cell else "|")
    assert numbers.tolist() == [1.5, -2, 30] and counts.tolist() == [3, 0]


@pytest.mark.parametrize("form", ["text", list, tuple, np.array])
def test_text_lists_and_arrays_are_the_same_vectors(form: object) -> None:
    rows = [[0.1, 2.0], [3.0, -4.5e-7]]
    cells = [" ".join(map(repr, row)) if form == "text" else form(row) for row in rows]  # type: ignore[operator]
    frame = sheet([cells[0], None, cells[1]]).features(KINDS)
    assert frame["v"].iloc[1] is None
    assert np.array_equal(np.stack(frame["v"].iloc[[0, 2]].to_list()), rows)


@pytest.mark.parametrize(
    ("cells", "told"),
    [
        (["1|2", "3|4", "5"], "frame, row 2 (counted from 0): column 'v' = '5': holds 1 numbers, not 2; all vectors"),
        (["1|2|3", "3|4", "5|6"], "row 0 (counted from 0): column 'v' = '1|2|3': holds 3 numbers, not 2"),
        (["1|2", "3|x"], "row 1 (counted from 0): column 'v' = '3|x': a vector must hold numbers alone"),
        (["1|2", "3|nan"], "row 1 (counted from 0): column 'v' = '3|nan': a vector must hold numbers alone"),
        (["1|2", "3|1e31"], "at most 1e+30 in size"),
        (["", "NA"], "frame: column 'v' holds no vector: all cells are empty."),
    ],
)
def test_a_wrong_cell_is_one_line_that_names_it(cells: list[str], told: str) -> None:
    with pytest.raises(DataError, match=re.escape(told)):
        sheet(cells).features(KINDS)


def test_later_rows_have_the_length_that_was_learnt() -> None:
    with pytest.raises(DataError, match="holds 2 numbers, not 3"):
        sheet(["1|2", "3|4"]).features(KINDS, {"v": 3})
    assert sheet([None, None]).features(KINDS, {"v": 3})["v"].isna().all()


def test_each_number_is_standardised_as_a_numeric_column_of_training(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    numbers, train = rng.normal(5, 3, size=(60, 4)), rng.random(60) < 0.7
    numbers[:, 2] = 7.0
    numbers[np.flatnonzero(~train)[0], 3] = 1e9
    missing = rng.random(60) < 0.2
    frame = pd.DataFrame({"v": sheet([None if gap else row for row, gap in zip(numbers, missing, strict=True)])
                          .features(KINDS)["v"]})  # fmt: skip
    encoder, encoded = SideEncoder.fit(frame, KINDS, train, n_bins=3)
    given = np.where(missing[:, None], np.nan, numbers)
    for column in range(4):
        expected = Numeric.fit(given[:, column], train, 3).encode(given[:, column])
        np.testing.assert_allclose(encoded.values[:, column], expected, rtol=1e-6, atol=1e-6)
    assert not encoded.values[missing].any() and encoded.values.max() == MAX_DEVIATIONS
    Encoder(item=encoder).save(tmp_path)
    loaded = Encoder.load(tmp_path).item
    assert np.array_equal(loaded.transform(frame).values, encoded.values)
    assert loaded.transform(frame.assign(v=None)).values.shape == (60, 4)


def test_vectors_stand_among_the_values_and_numbers_in_their_order() -> None:
    frame = pd.DataFrame({"a": [1.0, 3.0], "w": [[1.0, 2.0], [3.0, 6.0]], "b": [5.0, 9.0]})
    kinds = {"a": FeatureKind.numeric, "w": FeatureKind.vector, "b": FeatureKind.numeric}
    encoder, encoded = SideEncoder.fit(frame, kinds, np.ones(2, bool), n_bins=3)
    assert [(field.name, field.column, field.width) for field in encoder.side.fields] == [
        ("a", 0, 1), ("w", 1, 2), ("b", 3, 1),
    ]  # fmt: skip
    assert encoder.side.value_columns == 4 and encoded.values.tolist() == [[-1] * 4, [1] * 4]


def test_a_long_vector_is_no_list_and_other_values_are_no_vectors(tiny_log: Callable, tiny_config: Callable) -> None:
    raw = tiny_log()
    raw.items["v"] = [[float(n), *range(19)] for n in range(len(raw.items))]
    config = tiny_config(SplitKind.user_time, features={"item": KINDS})
    dataset = prepare(raw, config)
    assert not dataset.schema.item.fields[1].wide and dataset.log.items.values.shape[1] == 20
    raw.items["v"] = "a|b"
    with pytest.raises(DataError, match="feature 'v': a vector's cells must be lists of numbers, all of one length"):
        prepare(raw, config)
