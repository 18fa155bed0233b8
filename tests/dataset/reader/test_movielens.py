"""The MovieLens reader on made-up archives; the real one is read only where it lies beside the repository."""

import hashlib
import io
import logging
import urllib.error
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf

from recexp.dataset.raw import Raw
from recexp.dataset.reader import movielens
from recexp.dataset.reader.movielens import GENRES, MovieLens
from recexp.error import ConfigError, DataError

ROOT = Path(__file__).parents[3]
REAL = ROOT.parent / "shared/data/ml-100k"

EVENTS = [("1", "10", "5", "881250949"), ("1", "11", "3", "881250949"), ("2", "10", "1", "876042340")]
USERS = [
    ("1", "24", "M", "technician", "85711"),
    ("2", "53", "F", "other", "T8H1N"),
    ("3", "31", "F", "none", "05201"),
]
ITEMS = [  # id, title, year, date of release in the USA, genres
    ("10", 'Le "Café" (Coffee)', "1976", "16-Feb-1996", ["Drama", "Sci-Fi"]),
    ("11", "unknown", "", "", ["unknown"]),
    ("12", "Amélie (2001 again)", "1995", "01-Jan-1995", ["Children's"]),
]


def original() -> dict[str, bytes]:
    items = []
    for item, title, year, date, genres in ITEMS:
        flags = "|".join(str(int(genre in genres)) for genre in GENRES.split())
        titled = f"{title} ({year})" if year else title
        items.append(f"{item}|{titled}|{date}||http://x|{flags}\n")
    return {
        "u.data": "".join("\t".join(row) + "\n" for row in EVENTS).encode(),
        "u.user": "".join("|".join(row) + "\n" for row in USERS).encode(),
        "u.item": "".join(items).encode("latin-1"),
    }


def headed() -> dict[str, bytes]:
    def text(names: str, rows: list[tuple[str, ...]]) -> bytes:
        return "".join("\t".join(row) + "\n" for row in [tuple(names.split()), *rows]).encode()

    items = [(item, title, year or "unkonwn", " ".join(genres)) for item, title, year, _, genres in ITEMS]
    kinds = "user_id:token age:token gender:token occupation:token zip_code:token"
    return {
        "ml-100k.inter": text("user_id:token item_id:token rating:float timestamp:float", EVENTS),
        "ml-100k.user": text(kinds, USERS),
        "ml-100k.item": text("item_id:token movie_title:token_seq release_year:token class:token_seq", items),
    }


def folder(path: Path, files: dict[str, bytes]) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


def archive(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as whole:
        for name, content in files.items():
            whole.writestr(f"ml-100k/{name}", content)
    return stream.getvalue()


def reader(path: Path | None, **options: Any) -> MovieLens:
    preset = OmegaConf.load(ROOT / "conf/dataset/ml-100k.yaml")
    tree = OmegaConf.merge(OmegaConf.structured(MovieLens.Config), preset, {"path": path and str(path)}, options)
    return MovieLens(OmegaConf.to_object(tree))


def assert_equal(left: Raw, right: Raw) -> None:
    for name in ("user", "item", "label", "timestamp"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
    pd.testing.assert_frame_equal(left.users, right.users)
    pd.testing.assert_frame_equal(left.items, right.items)


def fault(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        reader(path).read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_both_layouts_and_the_zip_give_the_same_content(tmp_path: Path) -> None:
    features = {"user": {"zip_code": "categorical", "zip_area": "categorical"}}
    (tmp_path / "ml.zip").write_bytes(archive(original()))
    expected = reader(folder(tmp_path / "original", original()), features=features).read()
    assert_equal(reader(folder(tmp_path / "headed", headed()), features=features).read(), expected)
    assert_equal(reader(tmp_path / "ml.zip", features=features).read(), expected)
    folder(tmp_path / "unpacked/ml-100k", original())
    assert_equal(reader(tmp_path / "unpacked", features=features).read(), expected)


def test_values_are_those_of_the_archive(tmp_path: Path) -> None:
    raw = reader(folder(tmp_path, original()), features={"user": {"zip_area": "categorical"}}).read()
    assert raw.user is not None and raw.item is not None and raw.timestamp is not None
    assert raw.users is not None and raw.items is not None
    assert raw.user.tolist() == ["1", "1", "2"] and raw.item.tolist() == ["10", "11", "10"]
    assert raw.label.tolist() == [5, 3, 1] and raw.timestamp.tolist() == [881250949, 881250949, 876042340]
    assert list(raw.users) == ["age", "gender", "occupation", "zip_area"]
    assert raw.users.loc["2"].tolist() == [53, "F", "other", "T8H"]
    assert raw.items.loc["10"].tolist() == [1976, "Drama|Sci-Fi"]  # the title's year, not that of the date


def test_an_unknown_genre_and_year_are_missing(tmp_path: Path) -> None:
    for layout in (original, headed):
        raw = reader(folder(tmp_path / layout.__name__, layout())).read()
        assert raw.items is not None and raw.items.loc["11"].isna().all()


def test_a_year_that_is_none_gives_way_to_that_of_the_title(tmp_path: Path) -> None:
    files = headed()
    files["ml-100k.item"] = b"item_id\tmovie_title\trelease_year\tclass\n10\tTime of Giving (1995) (V)\tV\tDrama\n"
    raw = reader(folder(tmp_path, files)).read()
    assert raw.items is not None and raw.items.loc["10", "release_year"] == 1995


def test_implicit_feedback_makes_every_rating_a_positive(tmp_path: Path) -> None:
    raw = reader(folder(tmp_path, original()), label="implicit", label_threshold=None).read()
    assert raw.label.tolist() == [1, 1, 1]


def test_the_fingerprint_is_that_of_the_three_files(tmp_path: Path) -> None:
    (tmp_path / "ml.zip").write_bytes(archive(original()))
    first = reader(tmp_path / "ml.zip").fingerprint()
    assert reader(folder(tmp_path / "a", original()), max_history=3).fingerprint() == first
    changed = original() | {"u.user": original()["u.user"].replace(b"24", b"25")}
    assert reader(folder(tmp_path / "b", changed)).fingerprint() != first
    assert reader(folder(tmp_path / "c", headed())).fingerprint() != first


def test_damage_is_named_with_file_and_line(tmp_path: Path) -> None:
    for name, old, new, expected in [
        ("u.data", b"\t3\t", b"\tx\t", "u.data:2: column 'rating' = 'x': must be a number."),
        ("u.data", b"876042340", b"later", "u.data:3: column 'timestamp' = 'later'"),
        ("u.data", b"\t3\t", b"\t", "u.data:2: 3 fields, not 4"),
        ("u.user", b"2|53", b"1|53", "u.user:2: column 'user_id' = '1': is there a second time"),
        ("u.user", b"|53", b"|young", "u.user:2: column 'age' = 'young'"),
        ("u.item", b"11|", b"", "u.item:2: 23 fields, not 24"),
    ]:
        files = original()
        assert expected in fault(folder(tmp_path, files | {name: files[name].replace(old, new)}))


def test_a_header_that_lacks_a_column_is_named(tmp_path: Path) -> None:
    files = headed()
    files["ml-100k.item"] = files["ml-100k.item"].replace(b"class:", b"klass:")
    message = fault(folder(tmp_path, files))
    assert message.endswith("no column for genres; it has item_id, movie_title, release_year, klass.")


def test_a_path_that_is_no_archive_says_what_one_holds(tmp_path: Path) -> None:
    assert "no such folder or zip file" in fault(tmp_path / "absent")
    assert "holds neither u.data, u.user, u.item nor ml-100k.inter, ml-100k.user, ml-100k.item" in fault(tmp_path)
    broken = tmp_path / "broken.zip"
    for content in (b"", b"PK", archive(original())[:300]):
        broken.write_bytes(content)
        assert "give the folder or an intact zip file" in fault(broken)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"features": {"item": {"genera": "multi"}}},
            "dataset.features.item.genera: no such feature of MovieLens 100K. Did you",
        ),
        ({"features": {"context": {"hour": "numeric"}}}, "Choices: none."),
        ({"label_threshold": None}, "dataset.label_threshold = null: must be a number"),
        ({"split": {"kind": "given", "column": "part"}}, "dataset.split.kind = given: must be another kind"),
    ],
)
def test_contradictions_are_found_before_any_file_is_read(options: dict, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        reader(Path("absent"), **options)
    assert expected in str(caught.value)


def offer(monkeypatch: pytest.MonkeyPatch, content: bytes, published: bytes | None = None) -> list[str]:
    """Stands in for the network; returns the addresses that were opened."""
    opened: list[str] = []

    def urlopen(url: str, timeout: float) -> io.BytesIO:
        opened.append(url)
        return io.BytesIO(content)

    monkeypatch.setattr(movielens.urllib.request, "urlopen", urlopen)
    monkeypatch.setattr(movielens, "MD5", hashlib.md5(published or content).hexdigest())
    return opened


def test_without_a_path_the_archive_is_downloaded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    opened = offer(monkeypatch, archive(original()))
    found = reader(None, cache_dir=str(tmp_path))
    assert_equal(found.read(), reader(folder(tmp_path / "a", original())).read())
    found.fingerprint()
    assert opened == [movielens.URL] and "downloading" in caplog.text
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["ml-100k.zip"]


def test_without_a_cache_folder_the_download_has_one_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, archive(original()))
    monkeypatch.setenv("HOME", str(tmp_path))
    reader(None, cache_dir=None).read()
    assert (tmp_path / ".cache/recexp/raw/ml-100k.zip").is_file()


def test_a_download_of_another_checksum_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, archive(original())[:-1], archive(original()))
    with pytest.raises(DataError, match=r"cannot download https://.* \(its md5 is .*give dataset\.path=FOLDER or ZIP"):
        reader(None, cache_dir=str(tmp_path)).read()
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize(
    "error",
    [urllib.error.URLError("no route"), TimeoutError("timed out"), movielens.http.client.IncompleteRead(b"")],
)
def test_a_failed_download_is_one_line_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def urlopen(url: str, timeout: float) -> io.BytesIO:
        raise error

    monkeypatch.setattr(movielens.urllib.request, "urlopen", urlopen)
    with pytest.raises(DataError, match=r"fetch it by hand and give dataset\.path=FOLDER or ZIP\.$"):
        reader(None, cache_dir=str(tmp_path)).fingerprint()


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no MovieLens 100K in {REAL}")
def test_the_real_data_has_its_published_sizes() -> None:
    raw = reader(REAL).read()
    assert raw.user is not None and raw.item is not None and raw.users is not None and raw.items is not None
    assert (len(raw.label), len(raw.users), len(raw.items)) == (100_000, 943, 1682)
    assert (len(set(raw.user)), len(set(raw.item))) == (943, 1682)
    assert raw.items["release_year"].isna().sum() == 1 and raw.items["genres"].isna().sum() == 2
    assert (raw.label >= 4).mean() == pytest.approx(0.55375)
