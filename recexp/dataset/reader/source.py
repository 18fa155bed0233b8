"""Files as streams, whatever they are compressed by; one that expands beyond all reason is refused."""

import bz2
import gzip
import io
import lzma
import os
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any, cast

from recexp.error import DataError

START = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"PAR1": "parquet",
    b"\x28\xb5\x2f\xfd": "zstd",
    b'{"': "JSON",
}
READ = ("gzip", "zip", "bzip2", "xz")
ALLOWED, RATIO = 2**28, 200  # bytes that any file may expand to, and for larger ones how many times its own size
FAULTS = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, RuntimeError)


def format_of(path: Path) -> str:
    """What a file's first bytes say it is: a key of READ, parquet, zstd, or text. Raises OSError."""
    with path.open("rb") as file:
        start = file.read(8)
    return next((name for mark, name in START.items() if start.startswith(mark)), "text")


def open_bytes(path: Path) -> IO[bytes]:
    """The file's content, decompressed. Raises DataError for what is neither text nor compressed text, or OSError."""
    kind = format_of(path)
    if kind == "text":
        return path.open("rb")
    if kind not in READ:
        advice = {"parquet": "use dataset=parquet", "JSON": "write it as CSV or Parquet"}
        raise DataError(f"{path}: is a {kind} file; {advice.get(kind, 'unpack it, or use ' + ', '.join(READ))}.")
    opener: Any = {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open, "zip": _only_member}[kind]
    return cast(IO[bytes], io.BufferedReader(_Bounded(path, opener(path)), 2**20))


def check_expansion(path: Path, size: int) -> None:
    """Raises DataError if a file of this many bytes, once expanded, is no table but a trap or a mistake."""
    if size > max(ALLOWED, RATIO * os.path.getsize(path)):
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


def _only_member(path: Path) -> IO[bytes]:
    archive = zipfile.ZipFile(path)
    names = [item.filename for item in archive.infolist() if not item.is_dir()]
    if len(names) != 1:
        raise DataError(f"{path}: holds {len(names)} files, where one is needed; unpack it.")
    return archive.open(names[0])
