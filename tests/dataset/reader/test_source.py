"""Files as streams: compressed, in archives, of any encoding and separator."""

import bz2
import gzip
import io
import lzma
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest

from recexp.dataset.reader import source
from recexp.error import DataError

TEXT = b"user,item\n1,2\n"


def archive(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, TEXT + name.encode())
    return path


@pytest.mark.parametrize(
    "compress",
    [bytes, gzip.compress, bz2.compress, lzma.compress, lambda text: pa.compress(text, "zstd", asbytes=True)],
)
def test_a_file_is_read_whatever_it_is_compressed_by(compress, tmp_path):
    (tmp_path / "log").write_bytes(compress(TEXT))
    with source.open_bytes(tmp_path / "log") as stream:
        assert stream.read() == TEXT
    with zipfile.ZipFile(tmp_path / "logs.zip", "w") as file:
        file.write(tmp_path / "log", "log")
    with source.open_bytes(tmp_path / "logs.zip/log") as stream:
        assert stream.read() == TEXT


@pytest.mark.parametrize("name", ["ml/ratings.csv", "ratings.csv"])
def test_a_path_goes_on_into_an_archive_with_or_without_its_folders(name, tmp_path):
    path = archive(tmp_path / "ml.zip", "ml/ratings.csv", "ml/movies.csv")
    with source.open_bytes(path / name) as stream:
        assert stream.read() == TEXT + b"ml/ratings.csv"


def test_what_an_archive_does_not_hold_once_is_named(tmp_path):
    path = archive(tmp_path / "ml.zip", "a/ratings.csv", "b/ratings.csv", "movies.csv")
    with pytest.raises(DataError, match=r"holds no file movie\.csv\. Did you mean 'movies\.csv'"):
        source.open_bytes(path / "movie.csv")
    with pytest.raises(DataError, match=r"holds 2 file ratings\.csv"):
        source.open_bytes(path / "ratings.csv")
    with pytest.raises(
        DataError, match=r"ml\.zip: holds 3 files, where one is needed; name it, as .*ml\.zip/a/ratings"
    ):
        source.open_bytes(path)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_a_separator_cut_by_the_end_of_a_piece_is_found(size):
    text = "a::b:::c::::d:\n:e::"
    pieces = Pieces(text.encode(), size)
    translated = source._Translated(Path("log"), pieces, "utf-8", "::")
    assert io.BufferedReader(translated).read().decode() == text.replace("::", source.UNIT)


class Pieces(io.BytesIO):
    """Gives a few bytes at a time."""

    def __init__(self, content: bytes, size: int) -> None:
        super().__init__(content)
        self.size = size

    def read(self, size: int | None = -1) -> bytes:
        return super().read(self.size)
