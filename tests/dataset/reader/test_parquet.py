"""What the parquet reader does beyond recexp.dataset.frame: types, lists, files that are none."""

from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from omegaconf import OmegaConf
from pyarrow import parquet

from recexp.dataset.field import Vector
from recexp.dataset.reader.parquet import Parquet
from recexp.error import DataError

YAML = Path(__file__).parents[3] / "conf/dataset/parquet.yaml"


def reader(path: Path, **options: Any) -> Parquet:
    tree = OmegaConf.merge(OmegaConf.structured(Parquet.Config), OmegaConf.load(YAML), {"path": str(path)}, options)
    return Parquet(OmegaConf.to_object(tree))


def write(folder: Path, **columns: Any) -> Path:
    log = {"user": [7, 7, 8], "item": ["a", "b", "a"], "label": [1, 0, 1], "timestamp": [1, 2, 3]}
    parquet.write_table(pa.table(log | columns), folder / "log.parquet")
    return folder / "log.parquet"


def fault(path: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        reader(path, **options).read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def context(path: Path, kind: str, **options: Any) -> list:
    raw = reader(path, features={"context": {"x": kind}}, **options).read()
    assert raw.context is not None
    return [None if pd.isna(value) else value for value in raw.context["x"]]


def test_integer_ids_stay_integers_and_strings_strings(tmp_path: Path) -> None:
    raw = reader(write(tmp_path)).read()
    assert raw.user is not None and raw.item is not None
    assert raw.user.dtype == np.int64 and raw.user.tolist() == [7, 7, 8]
    assert raw.item.tolist() == ["a", "b", "a"]


def test_whole_floats_are_integer_ids_and_others_none(tmp_path: Path) -> None:
    raw = reader(write(tmp_path, user=[7.0, 7.0, 8.0])).read()
    assert raw.user is not None and raw.user.dtype == np.int64
    assert "row 2: column 'user' = '7.5': an id must be" in fault(write(tmp_path, user=[7.0, 7.5, 8.0]))


def test_large_ids_keep_all_digits(tmp_path: Path) -> None:
    ids = [2**62 + 1, 2**62 + 2, 2**62 + 3]
    raw = reader(write(tmp_path, user=ids)).read()
    assert raw.user is not None and raw.user.tolist() == ids
    assert context(write(tmp_path, x=[2**62 + 1, None, 2**62 + 3]), "categorical") == [
        str(ids[0]),
        None,
        str(ids[2]),
    ]


@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_id_is_named_by_its_row(tmp_path: Path, value: str | None) -> None:
    message = fault(write(tmp_path, item=["a", value, "b"]))
    assert "log.parquet, row 2: column 'item'" in message and "must not be empty" in message


@pytest.mark.parametrize("times", [[1, None, 3], [datetime(2020, 1, 1), None, datetime(2020, 1, 2)]])
def test_a_missing_time_is_named_by_its_row(tmp_path: Path, times: list) -> None:
    assert "row 2: column 'timestamp'" in fault(write(tmp_path, timestamp=times))


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([datetime(1970, 1, 1, 0, 0, second) for second in (1, 2, 3)], [1, 2, 3]),
        (
            [datetime(1970, 1, 1, 0, 0, 1, 500), datetime(1970, 1, 1), datetime(1970, 1, 2)],
            [1000500, 0, 86400000000],
        ),
        ([date(1970, 1, day) for day in (1, 2, 3)], [0, 86400, 172800]),
        (pd.to_datetime(["1970-01-01T01:00:00+01:00"] * 3).tz_convert("Europe/Berlin"), [0, 0, 0]),
        ([1.5, 2.5, 3.5], [1.5, 2.5, 3.5]),
        (np.array([2**62 + 1, 2, 3], np.uint64), [2**62 + 1, 2, 3]),
        (["1970-01-02", "1970-01-01", "1970-01-03"], [86400, 0, 172800]),
    ],
)
def test_times_of_any_type_become_numbers(tmp_path: Path, times: Any, expected: list) -> None:
    raw = reader(write(tmp_path, timestamp=times)).read()
    assert raw.timestamp is not None and raw.timestamp.tolist() == expected


@pytest.mark.parametrize("labels", [[True, False, True], [1.0, 0.0, 1.0], [Decimal(1), Decimal(0), Decimal(1)]])
def test_labels_of_any_numeric_type_are_numbers(tmp_path: Path, labels: list) -> None:
    raw = reader(write(tmp_path, label=labels)).read()
    assert raw.label.dtype.kind in "if" and raw.label.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([5, None, 6], ["5", None, "6"]),
        ([5.0, None, 6.0], ["5", None, "6"]),
        ([5.5, None, 6.0], ["5.5", None, "6"]),
        (["x", None, ""], ["x", None, None]),
        ([1e20, 2.5, 5.0], ["1e+20", "2.5", "5"]),
        ([True, None, False], ["True", None, "False"]),
        (pa.array(["x", None, "y"]).dictionary_encode(), ["x", None, "y"]),
    ],
)
def test_categories_are_text_and_gaps_are_missing(tmp_path: Path, values: Any, expected: list) -> None:
    assert context(write(tmp_path, x=values), "categorical") == expected


@pytest.mark.parametrize("values", [[1, None, 3], [1.0, None, 3.0], ["1", "", "3"], ["1", None, "3"]])
def test_numbers_may_have_gaps(tmp_path: Path, values: list) -> None:
    assert context(write(tmp_path, x=values), "numeric") == [1.0, None, 3.0]


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([1, -1, 3], "numeric", [1.0, None, 3.0]),
        ([1.5, -1.0, None], "numeric", [1.5, None, None]),
        ([2**62 + 1, -1, None], "categorical", [str(2**62 + 1), None, None]),
        ([1.0, -1.0, 2.5], "categorical", ["1", None, "2.5"]),
        ([1.0, -1.0, 2.0], "categorical", ["1", None, "2"]),
        (["1", "-1", "none"], "categorical", ["1", None, None]),
        ([True, False, None], "categorical", ["True", "False", None]),
    ],
)
def test_words_that_mean_missing_are_gaps_also_as_numbers(
    tmp_path: Path, values: list, kind: str, expected: list
) -> None:
    path = write(tmp_path, x=values)
    assert context(path, kind, missing=["none", "-1"]) == expected


def test_lists_are_values_of_a_multi_valued_feature(tmp_path: Path) -> None:
    assert context(write(tmp_path, x=[["a", "b"], [], None]), "multi") == ["a|b", None, None]
    assert context(write(tmp_path, x=[[1, 2], [3], None]), "multi") == ["1|2", "3", None]
    for separator, value, told in (
        ("|", "a|b", "which stands between values: replace it"),
        (";", "a;b", "set another dataset.multi_separator"),
    ):
        file = write(tmp_path, x=[[value], [], None])
        assert told in fault(file, features={"context": {"x": "multi"}}, multi_separator=separator)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (pa.list_(pa.float32()), np.float32),
        (pa.list_(pa.float32(), 2), np.float32),
        (pa.large_list(pa.float64()), np.float64),
    ],
)
def test_vectors_are_the_numbers_of_the_file(kind: pa.DataType, dtype: type, tmp_path: Path) -> None:
    rows = [[0.1, 2.5], None, [3.0, -4.5e-7]]
    path = write(tmp_path, x=pa.array(rows, kind))
    raw = reader(path, features={"context": {"x": "vector"}}, missing=["?"]).read()
    assert raw.context is not None
    first, gap, last = raw.context["x"]
    assert first.dtype == dtype and first.tolist() == [dtype(0.1), 2.5] and gap is None
    assert last.tolist() == [3.0, dtype(-4.5e-7)]
    fields = Vector.read(raw.context["x"], "x")
    assert fields.dtype == dtype and np.isnan(fields[1]).all() and fields[[0, 2]].tolist() == [[*first], [*last]]
    assert context(path, "multi") == ["0.1|2.5", None, "3|-4.5e-7"]


def test_a_wrong_vector_is_one_line(tmp_path: Path) -> None:
    features = {"context": {"x": "vector"}}
    lists = pa.list_(pa.float32())
    with_gap, longer = ([[1.0, 2.0], [3.0, None], [5.0, 6.0]], [[1.0, 2.0], [3.0, 4.0, 5.0], [5.0, 6.0]])
    told = fault(write(tmp_path, x=pa.array(with_gap, lists)), features=features)
    assert "row 2: column 'x' = '3.0 nan': a vector must hold numbers alone" in told
    told = fault(write(tmp_path, x=pa.array(longer, lists)), features=features)
    assert "row 2: column 'x' = '3.0 4.0 5.0': holds 3 numbers, not 2" in told
    wide = pa.array([[0.5] * 99, [0.5] * 99, [1.5] * 99], lists)
    told = fault(write(tmp_path, x=wide), features={"item": {"x": "vector"}})
    assert "row 3: column 'x' = '1.5 1.5" in told and "item 'a' has '0.5 0.5" in told
    same = pa.array([[0.5] * 99, [1.5] * 99, [0.5] * 99], lists)
    raw = reader(write(tmp_path, x=same), features={"item": {"x": "vector"}}).read()
    assert raw.items is not None and [cell[0] for cell in raw.items["x"]] == [0.5, 1.5]


@pytest.mark.parametrize("values", [[{"a": 1}] * 3, [b"a"] * 3, [[{"a": 1}]] * 3])
def test_nested_and_binary_columns_are_refused(tmp_path: Path, values: list) -> None:
    assert "log.parquet: column 'x'" in fault(write(tmp_path, x=values), features={"context": {"x": "multi"}})


def test_an_index_that_pandas_wrote_is_a_column_like_any(tmp_path: Path) -> None:
    log = pd.DataFrame({"user": [5, 9, 4], "item": [1, 2, 3], "label": [0, 1, 1], "timestamp": [1, 2, 3]})
    log.set_index("user").to_parquet(tmp_path / "log.parquet")
    raw = reader(tmp_path / "log.parquet").read()
    assert raw.user is not None and raw.user.tolist() == [5, 9, 4]


def test_ids_of_another_type_in_the_feature_file_are_an_error(tmp_path: Path) -> None:
    users = tmp_path / "users.parquet"
    parquet.write_table(pa.table({"user": ["7", "8"], "age": [1, 2]}), users)
    message = fault(write(tmp_path), user_path=str(users), features={"user": {"age": "numeric"}})
    assert "users.parquet, row 1: column 'user' = '7': none of these ids" in message
    assert "where users look like the number " in message


def test_a_file_that_is_no_parquet_is_one_line(tmp_path: Path) -> None:
    path = write(tmp_path)
    whole = path.read_bytes()
    for content in (b"", b"user,item\n1,2\n", whole[:-20], whole[: len(whole) // 2]):
        path.write_bytes(content)
        assert f"{path}: is no Parquet file" in fault(path)
    path.write_bytes(whole[:4] + bytes(60) + whole[64:])
    assert f"{path}: is damaged" in fault(path)


def test_an_empty_table_and_a_missing_column_are_named(tmp_path: Path) -> None:
    empty = {name: pa.array([], pa.int64()) for name in ("user", "item", "label", "timestamp")}
    assert "holds a header and no rows" in fault(write(tmp_path, **empty))
    assert "no column 'usr' (dataset.columns.user). Did you mean 'user'?" in fault(
        write(tmp_path), columns={"user": "usr"}
    )


def test_an_empty_list_is_a_missing_vector(tmp_path: Path) -> None:
    path = write(tmp_path, x=pa.array([[], [1.0, 2.0], []], pa.list_(pa.float32())))
    cells = reader(path, features={"context": {"x": "vector"}}).read().context["x"]
    assert cells[0] is None and cells[1].tolist() == [1, 2] and cells[2] is None


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()])
def test_infinity_in_a_vector_is_named_by_its_row(tmp_path: Path, kind: Any) -> None:
    vectors = [np.array(row, kind.to_pandas_dtype()) for row in ([1, 2], [1, np.inf], [3, 4])]
    path = write(tmp_path, x=pa.array(vectors, pa.list_(kind)))
    with pytest.raises(DataError, match=r"log.parquet, row 2: column 'x' = '1.0 inf': a vector must hold numbers"):
        reader(path, features={"context": {"x": "vector"}}).read()


def test_a_column_may_be_a_vector_here_and_values_there(tmp_path: Path) -> None:
    path = write(tmp_path, x=[[1.0, 2.0], [1.0, 3.0], [3.0, 4.0]])
    items = pa.table({"item": ["a", "b"], "x": [[0.5, 1.5], [2.5, 3.5]]})
    parquet.write_table(items, tmp_path / "items.parquet")
    features = {"context": {"x": "multi"}, "item": {"x": "vector"}}
    raw = reader(path, features=features, item_path=str(tmp_path / "items.parquet")).read()
    assert raw.context["x"].tolist() == ["1|2", "1|3", "3|4"]
    assert raw.items.loc["b", "x"].tolist() == [2.5, 3.5]
