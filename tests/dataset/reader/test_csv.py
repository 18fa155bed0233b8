"""The csv reader, and with it all that recexp.dataset.frame does for the user's own tables."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from recexp.dataset.config import SplitKind
from recexp.dataset.prepare import prepare
from recexp.dataset.reader.csv import Csv
from recexp.dataset.table_file import load
from recexp.error import ConfigError, DataError

YAML = Path(__file__).parents[3] / "conf/dataset/csv.yaml"
LOG = """user,item,label,timestamp,age,genres,device
007,a,1,10,30,x|y,phone
007,b,0,20,30,z,web
8,a,0,15,,x|y,web
"""
TABLE = {"columns": {"user": None, "item": None, "timestamp": None}, "split": {"kind": "random"}}
BY_ITEM = {"columns": {"user": None, "timestamp": None}, "split": {"kind": "random"}, "item_path": "items.csv"}


def reader(path: Path | list[str] | None, **options: Any) -> Csv:
    given = str(path) if isinstance(path, Path) else path
    tree = OmegaConf.merge(OmegaConf.structured(Csv.Config), OmegaConf.load(YAML), {"path": given}, options)
    return Csv(OmegaConf.to_object(tree))


def write(folder: Path, text: str | bytes, name: str = "log.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def fault(path: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        reader(path, **options).read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def timestamps(folder: Path, *values: str) -> np.ndarray:
    rows = "".join(f"u,i,1,{value}\n" for value in values)
    found = reader(write(folder, "user,item,label,timestamp\n" + rows)).read().timestamp
    assert found is not None
    return found


NUMBERS = ("5", "-5", "+5", "007", " 5", "5 ", "1e3", "-1.25", ".5", "5.", "0.1", "9007199254740993", "1E-3")
NO_NUMBERS = ("0x10", "1_000", "1,5", "--5", "5-", "\uff15", "inf", "nan", "1.2.3", "e5")


@pytest.mark.parametrize("values", [*([each] for each in NUMBERS), [str(n) for n in range(-3, 3)], ["1.5", "2"]])
def test_numbers_are_those_that_python_reads(values: list[str], tmp_path: Path) -> None:
    found = timestamps(tmp_path, *values)
    assert found.tolist() == [int(each) if each.strip().lstrip("+-").isdigit() else float(each) for each in values]


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_what_only_looks_like_a_number_is_named(value: str, tmp_path: Path) -> None:
    path = write(tmp_path, f'user,item,label,timestamp\nu,i,1,5\nu,i,1,"{value}"\n')
    assert fault(path).startswith(f"{path}:3: column 'timestamp' = {value!r}: must be a number")


def test_a_log_keeps_file_order_and_ids_as_they_stand(tmp_path: Path) -> None:
    raw = reader(write(tmp_path, LOG)).read()
    assert raw.user is not None and raw.item is not None and raw.timestamp is not None
    assert raw.user.tolist() == ["007", "007", "8"]
    assert raw.item.tolist() == ["a", "b", "a"]
    assert raw.label.tolist() == [1, 0, 0]
    assert raw.timestamp.tolist() == [10, 20, 15]
    assert raw.timestamp.dtype == np.int64
    assert raw.users is raw.items is raw.context is raw.split is None


def test_words_that_pandas_takes_for_gaps_are_ids_here(tmp_path: Path) -> None:
    raw = reader(write(tmp_path, "user,item,label,timestamp\nNA,null,1,1\nnan,1e3,0,2\n")).read()
    assert raw.user is not None and raw.item is not None
    assert (raw.user.tolist(), raw.item.tolist()) == (["NA", "nan"], ["null", "1e3"])


def test_gzip_bom_tabs_and_crlf_change_nothing(tmp_path: Path) -> None:
    text = LOG.replace(",", "\t").replace("\n", "\r\n")
    path = write(tmp_path, gzip.compress(b"\xef\xbb\xbf" + text.encode()), "log.csv.gz")
    raw = reader(path, separator="\\t").read()
    assert raw.user is not None and raw.user.tolist() == ["007", "007", "8"]


def test_quoted_fields_hold_separators_quotes_and_line_ends(tmp_path: Path) -> None:
    text = 'user,item,label,timestamp\n"a,b","say ""x""\nthere",1,1\nc,d,0,bad\n'
    path = write(tmp_path, text)
    assert f"{path}:4: column 'timestamp' = 'bad'" in fault(path)  # row 3, but line 4 in an editor
    raw = reader(write(tmp_path, text.replace("bad", "2"))).read()
    assert raw.user is not None and raw.item is not None
    assert (raw.user[0], raw.item[0]) == ("a,b", 'say "x"\nthere')


def test_blank_lines_hold_no_row_but_count_as_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "user,item,label,timestamp\n\nu,i,1,1\n\n\nu,i,9,2\n")
    assert f"{path}:6: column 'label' = '9'" in fault(path)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (("1", "-2"), [1, -2]),
        (("1.5", "2"), [1.5, 2.0]),
        (("1700000000123456789", "2"), [1700000000123456789, 2]),
        (("1970-01-02", "1970-01-01T00:00:05"), [86400, 5]),
        (("1970-01-01 00:00:05Z", "1970-01-01T01:00:05+01:00"), [5, 5]),
        (("1970-01-01T00:00:01.5", "1970-01-01T00:00:02"), [1_500_000, 2_000_000]),
    ],
)
def test_times_are_numbers_or_iso_date_times(tmp_path: Path, values: tuple[str, ...], expected: list) -> None:
    assert timestamps(tmp_path, *values).tolist() == expected


@pytest.mark.parametrize(
    "values",
    [
        ("1", "2020-01-01"),
        ("2020-01-01", "1"),
        ("1", "soon"),
        ("2020-01-01", "31/12/2020"),
        ("2020-01-01", "now"),
    ],
)
def test_a_time_unlike_the_first_is_named(tmp_path: Path, values: tuple[str, str]) -> None:
    with pytest.raises(DataError, match=rf"log.csv:3: column 'timestamp' = '{values[1]}': must be a number or an ISO"):
        timestamps(tmp_path, *values)


@pytest.mark.parametrize("column", ["user", "item", "label", "timestamp"])
def test_an_empty_id_label_or_time_is_named(tmp_path: Path, column: str) -> None:
    row = {"user": "u", "item": "i", "label": "1", "timestamp": "1"} | {column: ""}
    path = write(tmp_path, f"user,item,label,timestamp\nu,i,1,1\n{','.join(row.values())}\n")
    assert fault(path) == f"{path}:3: column '{column}' = '': must not be empty."


def test_labels_other_than_0_and_1_need_a_threshold(tmp_path: Path) -> None:
    path = write(tmp_path, "user,item,label,timestamp\nu,i,1,1\nu,j,4.5,2\n")
    assert "log.csv:3: column 'label' = '4.5'" in fault(path)
    assert "dataset.label_threshold" in fault(path)
    assert reader(path, label_threshold=4).read().label.tolist() == [1, 4.5]


@pytest.mark.parametrize("label", ["good", "inf", "nan", "1,5"])
def test_a_label_is_a_finite_number(tmp_path: Path, label: str) -> None:
    path = write(tmp_path, f'user,item,label,timestamp\nu,i,"{label}",1\n')
    assert fault(path, label_threshold=1) == f"{path}:2: column 'label' = '{label}': must be a number."


def test_implicit_feedback_needs_no_label_column(tmp_path: Path) -> None:
    raw = reader(write(tmp_path, "user,item,timestamp\nu,i,1\n"), label="implicit").read()
    assert raw.label.tolist() == [1]


def test_features_in_the_events_are_gathered_by_user_and_item(tmp_path: Path) -> None:
    features = {
        "user": {"age": "numeric"},
        "item": {"genres": "multi"},
        "context": {"device": "categorical"},
    }
    raw = reader(write(tmp_path, LOG.replace("b,0,20,30,z", "b,0,20,30,")), features=features).read()
    assert raw.users is not None and raw.items is not None and raw.context is not None
    assert raw.users.index.tolist() == ["007", "8"]
    assert raw.users["age"].to_numpy() == pytest.approx([30, np.nan], nan_ok=True)
    assert raw.items["genres"].fillna("none").to_dict() == {"a": "x|y", "b": "none"}
    assert raw.context["device"].tolist() == ["phone", "web", "web"]


def test_a_user_feature_that_changes_is_named_with_its_user(tmp_path: Path) -> None:
    message = fault(write(tmp_path, LOG), features={"user": {"device": "categorical"}})
    assert "log.csv:3: column 'device' = 'web': user '007' has 'phone' in an earlier row" in message
    assert "dataset.features.context" in message


def test_features_in_a_file_of_their_own_are_indexed_by_id(tmp_path: Path) -> None:
    users = write(tmp_path, "age,user\n30,007\n40,9\n", "users.csv")
    raw = reader(write(tmp_path, LOG), user_path=str(users), features={"user": {"age": "binned"}}).read()
    assert raw.users is not None
    assert raw.users["age"].to_dict() == {"007": 30.0, "9": 40.0}  # user 8 is absent: unknown


def test_an_id_twice_in_a_feature_file_is_named(tmp_path: Path) -> None:
    users = write(tmp_path, "user,age\n007,30\n8,40\n007,31\n", "users.csv")
    message = fault(write(tmp_path, LOG), user_path=str(users), features={"user": {"age": "binned"}})
    assert message.startswith(f"{users}:4: column 'user' = '007': is there a second time")


def test_a_feature_file_of_other_ids_is_an_error(tmp_path: Path) -> None:
    items = write(tmp_path, "item,price\n1,2.5\n", "items.csv")
    message = fault(write(tmp_path, LOG), item_path=str(items), features={"item": {"price": "numeric"}})
    assert "where items look like 'a'" in message


def test_gaps_of_a_number_are_allowed_and_words_are_not(tmp_path: Path) -> None:
    features = {"context": {"price": "numeric"}}
    text = "user,item,label,timestamp,price\nu,i,1,1,NA\nu,i,1,2,2.5\nu,i,1,3,\n"
    raw = reader(write(tmp_path, text), features=features).read()
    assert raw.context is not None
    assert raw.context["price"].to_numpy() == pytest.approx([np.nan, 2.5, np.nan], nan_ok=True)
    message = fault(write(tmp_path, text.replace("2.5", "cheap")), features=features)
    assert "log.csv:3: column 'price' = 'cheap': a numeric or binned feature must be a number" in message


def test_another_multi_separator_becomes_the_usual_one(tmp_path: Path) -> None:
    options = {"features": {"context": {"genres": "multi"}}, "multi_separator": "; "}
    raw = reader(write(tmp_path, LOG.replace("x|y", "x; y")), **options).read()
    assert raw.context is not None and raw.context["genres"].tolist() == ["x|y", "z", "x|y"]
    assert "column 'genres' = 'x|y': holds '|'" in fault(write(tmp_path, LOG), **options)


def test_whole_numbers_are_one_category_however_they_are_written(tmp_path: Path) -> None:
    text = "label,code\n1,5\n0,5.0\n1,-7.00\n0,5.01\n1,v5.0\n0,\n"
    raw = reader(write(tmp_path, text), features={"context": {"code": "categorical"}}, **TABLE).read()
    assert raw.context is not None and raw.context["code"].astype(object).fillna("gap").tolist() == [
        "5",
        "5",
        "-7",
        "5.01",
        "v5.0",
        "gap",
    ]


def test_a_table_has_labels_and_context_alone(tmp_path: Path) -> None:
    raw = reader(write(tmp_path, LOG), features={"context": {"user": "categorical"}}, **TABLE).read()
    assert raw.user is raw.item is raw.timestamp is None
    assert raw.context is not None and raw.context["user"].tolist() == ["007", "007", "8"]


def test_a_table_may_know_its_users_who_are_a_feature_too(tmp_path: Path) -> None:
    table = TABLE | {"columns": TABLE["columns"] | {"user": "user"}}
    raw = reader(write(tmp_path, LOG), features={"context": {"user": "categorical"}}, **table).read()
    assert raw.timestamp is None and raw.context is not None and raw.user is not None
    assert list(raw.user) == raw.context["user"].tolist() == ["007", "007", "8"]


@pytest.mark.parametrize(
    ("separator", "encoding"),
    [("::", "utf-8"), ("||", "utf-16"), (",", "latin-1"), ("\u00a7", "cp1252"), (":|:", "utf-8")],
)
def test_any_separator_and_encoding_read_the_same(separator: str, encoding: str, tmp_path: Path) -> None:
    text = LOG.replace("a,", "caf\u00e9,").replace(",", separator)
    options = {"separator": separator, "encoding": encoding}
    raw = reader(write(tmp_path, text.encode(encoding)), **options).read()
    assert raw.item is not None and raw.item.tolist() == ["caf\u00e9", "b", "caf\u00e9"]
    path = write(tmp_path, text.replace(f"{separator}0{separator}15", f"{separator}7{separator}15").encode(encoding))
    assert f"{path}:4: column 'label' = '7'" in fault(path, **options)


def test_a_quoted_cell_may_hold_a_long_separator(tmp_path: Path) -> None:
    raw = reader(write(tmp_path, 'user::item::label::timestamp\nu::"a::b"::1::5\n'), separator="::").read()
    assert raw.item is not None and raw.item.tolist() == ["a::b"]


def test_what_does_not_fit_an_encoding_is_one_line(tmp_path: Path) -> None:
    path = write(tmp_path, LOG.replace("007", "\u20ac"))
    assert f"{path}: cannot be read as CSV: 'ascii' codec" in fault(path, encoding="ascii")
    assert "holds the character 0x1f" in fault(write(tmp_path, LOG.replace("a", "\x1f")), separator="::")


@pytest.mark.parametrize("words", [("true", "False"), ("YES", "no"), ("t", "f"), ("y", "N")])
def test_labels_may_be_words(words: tuple[str, str], tmp_path: Path) -> None:
    rows = "".join(f"u,i,{word},{n}\n" for n, word in enumerate(words))
    path = write(tmp_path, "user,item,label,timestamp\n" + rows)
    assert reader(path).read().label.tolist() == [1, 0]
    path = write(tmp_path, "user,item,label,timestamp\n" + rows + "u,i,maybe,3\n")
    assert f"{path}:4: column 'label' = 'maybe': must be one of true, false" in fault(path)


def test_times_of_another_form_need_their_format(tmp_path: Path) -> None:
    path = write(tmp_path, "user,item,label,timestamp\nu,i,1,02/01/1970 00:00\nu,i,1,01/01/1970 00:01\n")
    assert "for other forms set dataset.time_format" in fault(path)
    assert reader(path, time_format="%d/%m/%Y %H:%M").read().timestamp.tolist() == [86400, 60]  # type: ignore[union-attr]
    assert "log.csv:2: column 'timestamp' = '02/01/1970 00:00': must be a time of the form %Y" in fault(
        path, time_format="%Y"
    )


def test_parts_in_a_folder_or_of_a_pattern_are_one_log(tmp_path: Path) -> None:
    for n, row in enumerate(("u,i,1,1", "v,j,0,2", "w,k,1,3")):
        write(tmp_path, f"user,item,label,timestamp\n{row}\n", f"part-{n}.csv")
    for name in ("_SUCCESS", ".part-0.csv.crc"):
        write(tmp_path, "", name)
    for path in (tmp_path, tmp_path / "part-*.csv"):
        raw = reader(path).read()
        assert raw.user is not None and raw.user.tolist() == ["u", "v", "w"] and raw.split is None
    raw = reader(tmp_path / "part-[12].csv").read()
    assert raw.user is not None and raw.user.tolist() == ["v", "w"]
    write(tmp_path, "user,item,label,timestamp\nu,i,9,1\n", "part-1.csv")
    assert "part-1.csv:2: column 'label' = '9'" in fault(tmp_path)
    assert "day-*.csv: matches no file." in fault(tmp_path / "day-*.csv")


def test_a_column_names_the_splits(tmp_path: Path) -> None:
    options = {"split": {"kind": "given", "column": "part"}}
    text = "user,item,label,timestamp,part\nu,i,1,1,train\nu,i,1,2,valid\nu,i,1,3,test\n"
    raw = reader(write(tmp_path, text), **options).read()
    assert raw.split is not None and raw.split.tolist() == ["train", "valid", "test"]
    message = fault(write(tmp_path, text.replace("valid", "vali")), **options)
    assert "log.csv:3: column 'part' = 'vali'" in message
    assert "Did you mean 'valid'? Choices: test, train, valid." in message


def in_three_files(folder: Path, **texts: str) -> Csv:
    for split, text in texts.items():
        write(folder, f"user,item,label,timestamp\n{text}\n", f"{split}.csv")
    found = reader(folder, split={"kind": "random"})
    found.config.split.kind = SplitKind.given
    return found


def test_a_folder_holds_a_file_for_each_split(tmp_path: Path) -> None:
    raw = in_three_files(tmp_path, train="u,i,1,1\nu,j,1,2", valid="u,k,0,3", test="u,i,1,4").read()
    assert raw.split is not None and raw.timestamp is not None
    assert raw.split.tolist() == ["train", "train", "valid", "test"]
    assert raw.timestamp.tolist() == [1, 2, 3, 4]


def test_an_error_in_one_of_three_files_names_that_file(tmp_path: Path) -> None:
    found = in_three_files(tmp_path, train="u,i,1,1\nu,j,1,2", valid="u,k,0,3\nu,k,7,3", test="u,i,1,4")
    with pytest.raises(DataError, match=r"valid\.csv:3: column 'label' = '7'"):
        found.read()
    (tmp_path / "test.csv").unlink()
    with pytest.raises(DataError, match=r"test\.csv: no such file"):
        found.fingerprint()


def test_a_missing_column_is_named_with_its_nearest_spelling(tmp_path: Path) -> None:
    path = write(tmp_path, LOG)
    message = fault(path, columns={"user": "usr"})
    assert message.startswith(f"{path}: no column 'usr' (dataset.columns.user). Did you mean 'user'? Choices: age,")
    assert "(dataset.features.item)" in fault(path, features={"item": {"price": "numeric"}})


def test_a_column_named_twice_matters_only_where_it_is_used(tmp_path: Path) -> None:
    path = write(tmp_path, "user,item,label,timestamp,x,x\nu,i,1,1,2,3\n")
    assert len(reader(path).read().label) == 1
    assert "two columns are named 'x'" in fault(path, features={"context": {"x": "numeric"}})


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", ": is empty."),
        (b"\n\n", ": is empty."),
        (b"user,item,label,timestamp\n", ": holds a header and no rows."),
        (
            b"\x89PNG\r\n\x1a\n\x00\x00",
            ":1: byte 0 (0x89) is no UTF-8 text; set dataset.encoding, as latin-1, or save it as UTF-8.",
        ),
        (
            "user,item\n1,2".encode("utf-16"),
            ":1: byte 0 (0xff) is no UTF-8 text; set dataset.encoding, as latin-1, or save it as UTF-8.",
        ),
        (
            b"user,item,label,timestamp\nu,caf\xe9,1,1\n",
            ":2: byte 31 (0xe9) is no UTF-8 text; set dataset.encoding, as latin-1, or save it as UTF-8.",
        ),
        (b"user,item,label,timestamp\nu,i,1,1\nu,i,1,1,5\n", ":3: 5 fields, the header has 4;"),
        (b"user,item,label,timestamp\nu,i,1,1\nu,i,1\n", ":3: 3 fields, the header has 4;"),
        (b"user\titem\tlabel\ttimestamp\nu\ti\t1\t1\n", r"""set 'dataset.separator="\t"'."""),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path: Path, content: bytes, expected: str) -> None:
    path = write(tmp_path, content)
    message = fault(path)
    assert message.startswith(str(path)) and expected in message


def test_a_damaged_gzip_file_is_one_line(tmp_path: Path) -> None:
    whole = gzip.compress(LOG.encode() * 1000)
    for content in (whole[: len(whole) // 2], whole[:20]):
        path = write(tmp_path, content, "log.csv.gz")
        assert f"{path}: cannot be read as CSV: " in fault(path)


@pytest.mark.parametrize("name", ["User Id", "user:id", "user|id"])
def test_a_file_of_one_column_may_have_a_separator_in_its_name(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, f"{name}\n5\n7\n")
    assert load(reader(path).open(path), {name: "dataset.columns.user"})[name].tolist() == ["5", "7"]


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    assert fault(tmp_path / "no.csv") == f"dataset.path = {tmp_path / 'no.csv'}: no such file."
    assert f"dataset.path = {tmp_path}: is a folder without files" in fault(tmp_path)
    (tmp_path / "day=1").mkdir()
    write(tmp_path / "day=1", LOG, "part.csv").with_name(".part.crc").touch()
    assert fault(tmp_path).endswith(f'is a folder of folders; name the files in these as "{tmp_path}/*/*".')
    assert len(reader([f"{tmp_path}/*/*"]).read().label) == LOG.count("\n") - 1
    path, features = write(tmp_path, LOG), {"user": {"age": "numeric"}}
    with pytest.raises(DataError, match=r"dataset\.user_path = .*no\.csv: no such file"):
        reader(path, user_path=str(tmp_path / "no.csv"), features=features).fingerprint()
    assert "no.csv: no such file" in fault(path, user_path=str(tmp_path / "no.csv"), features=features)


def test_a_fault_in_an_unused_column_is_no_fault(tmp_path: Path) -> None:
    path = write(tmp_path, b"user,item,label,timestamp,title\nu,i,1,1,caf\xe9\n")
    assert reader(path).read().label.tolist() == [1]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"path": None}, "dataset.path = null: no data; give your file with dataset.path=FILE."),
        ({"separator": ""}, "dataset.separator = '': must be one character or more"),
        ({"encoding": "utf8000"}, "dataset.encoding = utf8000: must be an encoding, such as utf-8"),
        ({"encoding": "base64"}, "dataset.encoding = base64: must be an encoding"),
        ({"time_format": "d/m/Y"}, "dataset.time_format = d/m/Y: must be as for strptime"),
        ({"multi_separator": ""}, "dataset.multi_separator = '': must be one character or more"),
        ({"columns": {"user": None}}, "dataset.columns.user = null: a log has user and item"),
        ({"columns": {"item": None}}, "dataset.columns.item = null: a log"),
        ({"columns": {"user": None, "timestamp": None}}, "dataset.columns.user = null: a log"),
        ({"columns": {"user": None, "item": None}}, "dataset.columns.user = null: a log"),
        (
            {"columns": {"label": None}},
            "dataset.columns.label = null: name the column, or set dataset.label=implicit",
        ),
        (
            {"columns": {"timestamp": None}, "duplicates": "same_time"},
            "dataset.duplicates = same_time: there are no times",
        ),
        ({"columns": {"item": "user"}}, "each role has a column of its own, not 'user' twice"),
        (TABLE | {"split": {"kind": "time"}}, "dataset.split.kind = time: a table has no time"),
        (TABLE | {"label": "implicit"}, "dataset.label = implicit: needs users and items"),
        (TABLE | {"features": {"user": {"age": "numeric"}}}, "dataset.features.user: of a log, which may"),
        (BY_ITEM | {"item_path": None}, "dataset.columns.user = null: a log has user and item"),
        (BY_ITEM | {"features": {"user": {"age": "numeric"}}}, "(name columns.user and user_path)"),
        (BY_ITEM | {"features": {"item": {"x": "multi"}, "context": {"x": "multi"}}}, "item.x: the rows of a table"),
        (BY_ITEM | {"features": {"item": {"item": "categorical"}}}, "dataset.features.item.item: is dataset.columns"),
        (
            {"features": {"context": {"label": "numeric"}}},
            "dataset.features.context.label: is dataset.columns.label",
        ),
    ],
)
def test_contradictions_are_found_before_any_file_is_read(options: dict, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        reader(**({"path": Path("absent.csv")} | options))
    assert expected in str(caught.value)


def test_the_fingerprint_is_that_of_content_and_of_options_that_shape_it(tmp_path: Path) -> None:
    path = write(tmp_path, LOG)
    first = reader(path).fingerprint()
    assert reader(write(tmp_path, LOG, "copy.csv"), max_history=5, n_bins=3).fingerprint() == first
    others = [
        reader(path, features={"context": {"device": "categorical"}}).fingerprint(),
        reader(path, columns={"label": "age"}).fingerprint(),
        reader(path, multi_separator=";").fingerprint(),
        reader(write(tmp_path, LOG.replace("15", "16"), "other.csv")).fingerprint(),
        reader(path, user_path=str(path), features={"user": {"age": "numeric"}}).fingerprint(),
        reader(path, features={"user": {"age": "numeric"}}).fingerprint(),
    ]
    assert len({first, *others}) == len(others) + 1


def test_several_files_are_read_one_after_another(tmp_path: Path) -> None:
    paths = [write(tmp_path, LOG, "a.csv"), write(tmp_path, "user,item,label,timestamp\n9,c,1,x\n", "b.csv")]
    with pytest.raises(DataError) as caught:
        reader([*map(str, paths)]).read()
    assert str(caught.value).startswith(f"{paths[1]}:2: column 'timestamp' = 'x'")
    write(tmp_path, "user,item,label,timestamp\n9,c,1,5\n", "b.csv")
    several = reader([*map(str, paths)])
    assert several.read().user.tolist() == ["007", "007", "8", "9"]  # type: ignore[union-attr]
    assert several.fingerprint() != reader(paths[0]).fingerprint()
    with pytest.raises(ConfigError, match=r"^dataset\.path = \['a', ''\]"):
        reader(["a", ""])


def test_a_log_without_times_is_in_the_order_of_its_rows(tmp_path: Path) -> None:
    path = write(tmp_path, "user,item,label\n1,a,1\n2,b,0\n1,c,1\n")
    assert fault(path).endswith("If there are no times, dataset.columns.timestamp=null takes the order of the rows.")
    raw = reader(path, columns={"timestamp": None}).read()
    assert raw.timestamp is not None and raw.timestamp.tolist() == [0, 1, 2]
    with pytest.raises(ConfigError, match=r"^dataset\.columns\.user = null"):
        reader(path, columns={"user": None})


def test_a_file_of_users_joins_a_table_of_users(tmp_path: Path) -> None:
    users = write(tmp_path, "user,age\n1,20\n2,30\n3,40\n", "users.csv")
    path = write(tmp_path, "user,label,part\n2,1,train\n1,0,train\n9,1,valid\n2,0,test\n")
    options = {"columns": {"item": None, "timestamp": None}, "split": {"kind": "given", "column": "part"},
               "features": {"user": {"age": "numeric"}}, "user_path": str(users)}  # fmt: skip
    dataset = prepare(reader(path, **options).read(), reader(path, **options).config)
    assert dataset.log.context.values[:, 0].tolist() == [1, -1, 0, 1] and dataset.log.user is not None
    assert dataset.joined["user"]["age"].to_dict() == {"1": 20, "2": 30, "3": 40}
    assert dataset.facts["notes"] == ["1 of 3 users, in 1 of 4 rows, have no features: their file lacks them"]


def test_words_that_mean_missing_are_gaps_in_every_feature_and_no_ids(tmp_path: Path) -> None:
    path = write(tmp_path, "user,item,label,timestamp,age,genres\n1,a,1,1,?,x|y\n2,b,0,2,3,none\n")
    features = {"context": {"age": "numeric", "genres": "multi"}}
    context = reader(path, missing=["?", "none"], features=features).read().context
    assert context is not None
    assert context.isna().to_numpy().tolist() == [[True, False], [False, True]]
    assert fault(path, missing=["a"]).endswith("column 'item' = 'nan': must not be empty.")


def test_a_pattern_names_all_columns_that_have_no_other_use(tmp_path: Path) -> None:
    text = "user,item,label,timestamp,C1,C2,I1,note\n" + "1,a,1,1,x,y,3,z\n" * 3
    path = write(tmp_path, text)
    found = reader(path, features={"context": {"C*": "categorical", "I?": "numeric", "C2": "multi"}}).config.features
    assert {name: kind.name for name, kind in found.context.items()} == {
        "C1": "categorical", "I1": "numeric", "C2": "multi",
    }  # fmt: skip
    others = reader(path, features={"item": {"note": "categorical"}, "context": {"*": "categorical"}}).config.features
    assert list(others.context) == ["C1", "C2", "I1"]
    star_first = reader(path, features={"context": {"*": "categorical", "I*": "numeric"}}).config.features.context
    assert {name: kind.name for name, kind in star_first.items()} == {
        "C1": "categorical", "C2": "categorical", "note": "categorical", "I1": "numeric",
    }  # fmt: skip
    for sides in (
        {"item": {"C*": "categorical"}, "context": {"*": "categorical"}},
        {"user": {"*": "categorical"}, "item": {"C*": "categorical"}, "context": {"I*": "numeric"}},
    ):
        found = reader(path, features=sides).config.features.sides
        assert list(found["item"]) == ["C1", "C2"]
        assert sorted(name for kinds in found.values() for name in kinds) == ["C1", "C2", "I1", "note"]
    with pytest.raises(DataError, match=r"^dataset\.features\.context\.D\*: matches no column that has no other use"):
        reader(path, features={"context": {"D*": "numeric"}})
