"""How a file is to be read, guessed."""

import gzip
import io
from pathlib import Path

import pandas as pd
import pytest

from recexp.dataset.inspect import form
from recexp.error import DataError

HEADER = ["user", "item", "rating", "time"]
ROWS = [[f"u{n % 3}", f"caf\u00e9 {n}", str(n % 5), str(1_000_000_000 + n)] for n in range(20)]


def text(separator: str, header: bool = True) -> str:
    return "".join(separator.join(row) + "\n" for row in ([HEADER] if header else []) + ROWS)


def guess(folder: Path, content: str | bytes, encoding: str = "utf-8") -> form.Form:
    path = folder / "log"
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return form.guess(path)


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("separator", [",", "\t", ";", "::", "|", "^"])
def test_separator_and_header_are_found(separator: str, header: bool, tmp_path: Path) -> None:
    found = guess(tmp_path, text(separator, header))
    assert (found.reader, found.headed) == ("csv", header)
    assert found.options.get("separator", ",") == separator
    assert found.columns == (tuple(HEADER) if header else ("column1", "column2", "column3", "column4"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_the_encoding_is_found(encoding: str, tmp_path: Path) -> None:
    found = guess(tmp_path, text(","), encoding)
    assert found.options == ({} if encoding.startswith("utf-8") else {"encoding": encoding})
    assert found.columns == tuple(HEADER)


def test_a_header_is_told_from_values() -> None:
    assert form.is_header(["a", "101"], [["x", "1"], ["y", "2"]]) is False
    assert form.is_header(["user", "101", "n"], [["x", "y", "2"], ["y", "z", "3"]]) is True
    assert form.is_header(["user", "item"], [["x", "y"], ["y", "z"]]) is True
    assert form.is_header(["x", "item"], [["x", "y"], ["y", "z"]]) is False


def test_a_quote_that_is_text_is_no_quote(tmp_path: Path) -> None:
    quoted = text(",").replace("caf\u00e9 3", '"caf\u00e9, 3"')
    assert guess(tmp_path, quoted).options == {}
    assert guess(tmp_path, text(",").replace("caf\u00e9 3", '"7 inch').replace("caf\u00e9 9", '12"')).options == {
        "quoting": False
    }


def test_other_formats_are_told_by_their_content(tmp_path: Path) -> None:
    frame = pd.DataFrame({"user": [1, 2], "item": [3, 4]})
    buffer = io.BytesIO()
    frame.to_parquet(buffer)
    assert guess(tmp_path, buffer.getvalue()).reader == "parquet"
    assert guess(tmp_path, gzip.compress(b'{"user": 1}\n')).reader == "json"
    assert guess(tmp_path, "1 2 3 4\n2 5 6\n3 4\n").reader == "sequence"
    assert guess(tmp_path, "1,2,3,4\n2,5,6\n3,4\n").options == {"separator": ","}


@pytest.mark.parametrize(
    "content",
    [b"", b" \n\n", b"\x89PNG\r\n\x1a\n\0\0", gzip.compress(b"1 2 3\n" * 999)[:-9]],
    ids=["empty", "blank", "png", "cut"],
)
def test_what_is_no_log_is_one_line(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        guess(tmp_path, content)
    assert "\n" not in str(caught.value)
