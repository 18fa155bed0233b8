"""Opens files as streams, decompressed; refuses files that expand beyond reason.

A path may continue into a zip archive, as in ml-latest-small.zip/ratings.csv.
"""

import bz2
import codecs
import gzip
import io
import lzma
import os
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any, cast

from recexp.error import DataError, choices

START = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"PAR1": "parquet",
    b"\x28\xb5\x2f\xfd": "zstd",
    b'{"': "JSON",
    b"{'": "JSON",  # as Python writes a dictionary
    b"{u'": "JSON",
}
READ = ("gzip", "zip", "bzip2", "xz", "zstd")
UNIT = "\x1f"  # ASCII's unit separator; replaces a separator that is longer than one byte
ALLOWED, RATIO = 2**28, 200  # a file may expand to so many bytes, or to so many times its size
FAULTS = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, RuntimeError)


def format_of(path: Path) -> str:
    """What a file's first bytes say it is: a key of READ, parquet, JSON, or text. Raises OSError or DataError."""
    with stored(path) as file:
        start = file.read(8)
    return next((name for mark, name in START.items() if start.startswith(mark)), "text")


def open_bytes(path: Path, allowed: tuple[str, ...] = ("text",)) -> IO[bytes]:
    """The file's content, decompressed. Raises DataError for what is neither compressed nor allowed, or OSError."""
    kind = format_of(path)
    if kind in allowed:
        return cast(IO[bytes], stored(path))
    if kind not in READ:
        advice = {"parquet": "use dataset=parquet", "JSON": "use dataset=json"}.get(kind, "use dataset=csv")
        raise DataError(f"{path}: is a {kind} file; {advice}.")
    opener: Any = {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open, "zip": _only_member, "zstd": _zstd}[kind]
    return cast(IO[bytes], io.BufferedReader(_Bounded(path, opener(stored(path))), 2**20))


def open_utf8(path: Path, encoding: str, separator: str) -> IO[bytes]:
    """The decompressed text in UTF-8, each separator that is longer than one byte replaced by UNIT."""
    stream = open_bytes(path)
    if len(separator.encode()) == 1 and codecs.lookup(encoding).name == "utf-8":
        return stream
    return cast(IO[bytes], io.BufferedReader(_Translated(path, stream, encoding, separator), 2**20))


def stored(path: Path) -> io.BufferedIOBase:
    """The bytes of a file, or of a member of a zip archive. Raises OSError or DataError."""
    if (archive := archive_of(path)) is None:
        return path.open("rb")
    member = _member(archive, path.relative_to(archive).as_posix())
    return cast(io.BufferedIOBase, zipfile.ZipFile(archive).open(member))


def archive_of(path: Path) -> Path | None:
    """The zip archive that a path continues into; None if there is none."""
    return next((folder for folder in path.parents if folder.is_file() and zipfile.is_zipfile(folder)), None)


def check_expansion(path: Path, size: int) -> None:
    """Raises DataError if `size` bytes are more than a file of data plausibly expands to."""
    if size > max(ALLOWED, RATIO * os.path.getsize(archive_of(path) or path)):
        raise DataError(
            f"{path}: expands to more than {RATIO} times its size ({size:,} bytes or more); unpack it first."
        )


class _Bounded(io.RawIOBase):
    """Raises DataError while reading once too much has come out of the file."""

    def __init__(self, path: Path, stream: IO[bytes]) -> None:
        self.path, self.stream, self.size = path, stream, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self.stream.read(len(buffer))
        buffer[: len(piece)] = piece
        self.size += len(piece)
        check_expansion(self.path, self.size)
        return len(piece)

    def close(self) -> None:
        self.stream.close()
        super().close()


class _Translated(io.RawIOBase):
    """Text of any encoding as UTF-8, a long separator as UNIT. Raises UnicodeDecodeError or DataError while reading."""

    def __init__(self, path: Path, stream: IO[bytes], encoding: str, separator: str) -> None:
        self.path, self.stream = path, stream
        self.decoder = codecs.getincrementaldecoder(encoding)()
        self.separator = separator if len(separator.encode()) > 1 else None
        self.rest, self.ready, self.ended = "", b"", False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.ready and not self.ended:
            piece = self.stream.read(2**20)
            self.ended = not piece
            self.ready = self._translate(self.decoder.decode(piece, final=self.ended)).encode()
        piece, self.ready = self.ready[: len(buffer)], self.ready[len(buffer) :]
        buffer[: len(piece)] = piece
        return len(piece)

    def _translate(self, text: str) -> str:
        if self.separator is None:
            return text
        if UNIT in text:
            raise DataError(f"{self.path}: holds the character 0x1f, so its separator must be one ASCII character.")
        *cells, last = (self.rest + text).split(self.separator)
        end = len(last) if self.ended else len(last) - self._begun(last)
        self.rest = last[end:]
        return UNIT.join([*cells, last[:end]])

    def _begun(self, text: str) -> int:
        """How many of a separator's first characters the text ends with."""
        assert self.separator is not None
        return next(n for n in range(len(self.separator) - 1, -1, -1) if text.endswith(self.separator[:n]))

    def close(self) -> None:
        self.stream.close()
        super().close()


def _only_member(file: IO[bytes]) -> IO[bytes]:
    archive = zipfile.ZipFile(file)
    names = _names(archive)
    if len(names) != 1:
        example = f", as {file.name}/{names[0]}" if names else ""
        raise DataError(f"{file.name}: holds {len(names)} files, where one is needed; name it{example}.")
    return archive.open(names[0])


def _member(archive: Path, name: str) -> str:
    """The full name of an archive's member, which may be named without its folders. Raises DataError."""
    with zipfile.ZipFile(archive) as file:
        names = _names(file)
    matches = [full for full in names if full == name] or [full for full in names if full.endswith(f"/{name}")]
    if len(matches) != 1:
        raise DataError(f"{archive}: holds {len(matches) or 'no'} file {name}. {choices(name, names)}")
    return matches[0]


def _names(archive: zipfile.ZipFile) -> list[str]:
    return [item.filename for item in archive.infolist() if not item.is_dir()]


def _zstd(file: IO[bytes]) -> Any:
    import pyarrow as pa

    return pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd")
