"""The reader of files with one user a line."""

import gzip
import logging
import zipfile
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from recexp.dataset.log import SPLITS
from recexp.dataset.prepare import prepare
from recexp.dataset.raw import Raw
from recexp.dataset.reader.sequence import Sequence
from recexp.error import ConfigError, DataError

ROOT = Path(__file__).parents[3]
REAL = ROOT.parent / "shared/data/s3rec/LastFM.txt"
EVENTS = [("007", "x", 1), ("007", "9", 2), ("007", "x", 3), ("ann", "7", 1)]


def config(path: Path | None, **options: Any) -> Sequence.Config:
    preset = OmegaConf.load(ROOT / "conf/dataset/sequence.yaml")
    schema = OmegaConf.structured(Sequence.Config)
    found = OmegaConf.to_object(OmegaConf.merge(schema, preset, {"path": path and str(path)}, options))
    assert isinstance(found, Sequence.Config)
    return found


def read(folder: Path, content: str | bytes, **options: Any) -> Raw:
    path = folder / "log.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return Sequence(config(path, **options)).read()


def events(raw: Raw) -> list[tuple]:
    assert raw.user is not None and raw.item is not None and raw.timestamp is not None
    return list(zip(raw.user.tolist(), raw.item.tolist(), raw.timestamp.tolist(), strict=True))


@pytest.mark.parametrize(
    ("content", "separator"),
    [
        ("007 x 9 x\nann 7\n", None),
        ("\ufeff007\tx  9 x \r\n\r\nann 7", None),
        (gzip.compress(b"007 x 9 x\nann 7\n", mtime=0), None),
        ("007::x::9::x\nann::7\n", "::"),
        ("007\tx\t9\tx\nann\t7\n", "\\t"),
    ],
)
def test_a_line_is_a_user_and_items_in_their_order(content: str | bytes, separator: str | None, tmp_path: Path) -> None:
    raw = read(tmp_path, content, separator=separator)
    assert events(raw) == EVENTS
    assert raw.label.tolist() == [1, 1, 1, 1]


def test_users_without_items_are_counted_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert events(read(tmp_path, "bob\n007 x 9 x\nann 7\neve\n")) == EVENTS
    assert "2 lines hold a user without items" in caplog.text


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\n \n", ": is empty."),
        (b"1\n2\n", ": holds no items; a line is a user and then items"),
        (b"\n1 2\n\n2 3\n1 4\n", ":5: user '1' has an earlier line too"),
        (b"1 caf\xe9\n", ": byte 5 is no UTF-8 text"),
        (gzip.compress(b"1 2 3\n" * 999, mtime=0)[:-9], ": cannot be read"),
    ],
)
def test_a_damaged_file_is_one_line(content: bytes, expected: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, content)
    assert f"log.txt{expected}" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"label": "explicit"}, "dataset.label = explicit: must be implicit"),
        ({"label_threshold": 4}, "dataset.label_threshold = 4.0: with label=implicit"),
        ({"split": {"kind": "time"}}, "dataset.split.kind = time: must be leave_last_out, user_time"),
        ({"features": {"derived": {"time": ["hour"]}}}, r"time = \['hour'\]: must be empty; these files hold no"),
        ({"features": {"item": {"genre": "multi"}}}, "dataset.features.item.genre: these files hold ids alone."),
        ({"separator": ""}, "dataset.separator = ''"),
    ],
)
def test_an_option_that_such_files_cannot_serve_is_refused(options: dict, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        config(Path("log.txt"), **options)


def test_the_last_item_of_each_line_is_tested(tmp_path: Path) -> None:
    raw = read(tmp_path, "b 5 6 7 8\na 6 5 8\n")
    log = prepare(raw, config(tmp_path / "log.txt")).log
    test = log.row[log.rows("test")]
    assert {events(raw)[row] for row in test} == {("b", "8", 4), ("a", "8", 3)}
    assert [len(log.rows(split)) for split in SPLITS] == [3, 2, 2]


@pytest.mark.skipif(not REAL.exists(), reason="the data of S3-Rec are not beside the repository")
def test_last_fm_has_its_published_sizes() -> None:
    raw = Sequence(config(REAL)).read()
    assert raw.user is not None and raw.item is not None
    assert (len(set(raw.user)), len(set(raw.item)), len(raw.label)) == (1090, 3646, 52551)


def test_a_member_of_an_archive_is_read_as_the_file_it_was(tmp_path: Path) -> None:
    text = "1 5 6 7\n2 6 5 7\n"
    (tmp_path / "log.txt").write_text(text)
    with zipfile.ZipFile(tmp_path / "logs.zip", "w") as archive:
        archive.writestr("log.txt", text)
    readers = [Sequence(config(path)) for path in (tmp_path / "log.txt", tmp_path / "logs.zip" / "log.txt")]
    assert len({reader.fingerprint() for reader in readers}) == 1
    assert events(readers[0].read()) == events(readers[1].read())
