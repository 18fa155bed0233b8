"""The one way in which files are written: whole or not at all, and what is read again carries a checksum.

A file is written under a random name beside its own, synced, renamed and its directory synced, so neither a kill nor a
power loss leaves half of it. Names that somebody else has prepared, such as links, are never followed.
"""

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from recexp.error import DamagedFile, first_line
from recexp.safe_yaml import parse_yaml

SEAL = "# checksum: "
SEALED = re.compile(rb"checksum|[0-9a-f]{32}\W*\Z")  # one of the two survives damage in one place
LEFTOVER = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")


# Writing


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file, open for writing, that takes the place of `path` when the block ends; an error leaves `path` alone.

    Raises OSError.
    """
    temporary = _temporary(path)
    named = not LEFTOVER.fullmatch(path.parent.name)  # `new_folder` syncs all that it holds before it has a name
    with _naming(path):
        try:
            with _create(temporary) as file:
                yield file
                file.flush()
                if named:
                    os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
    if named:
        sync_folder(path.parent)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which gets its name when the block ends; a reader sees all of it or nothing.

    Raises OSError if it cannot be written or another process was faster.
    """
    temporary = _temporary(path)
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        try:
            yield temporary
            for file in temporary.rglob("*"):
                _sync(file)
            _sync(temporary)
            os.rename(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: dict[str, Any], checksum: bool = True) -> None:
    """JSON with its checksum as the last member, for `read_json`; without one if another file holds it."""
    write_text(path, _json(value | {"checksum": digest(_json(value).encode())} if checksum else value))


def write_yaml(path: Path, value: Any) -> None:
    """YAML, keys in their order, with its checksum in a comment on the last line, for `read_yaml`."""
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    write_text(path, f"{text}{SEAL}{digest(text.encode())}\n")


def append_line(path: Path, value: dict[str, Any]) -> None:
    """Appends a line of JSON with its own check, for `read_lines`; what was torn before gets a line of its own."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
    with _naming(path), open(path, "r+b", opener=lambda name, _: open_own(name, flags)) as file:
        size = file.seek(0, os.SEEK_END)
        torn = size > 0 and os.pread(file.fileno(), 1, size - 1) != b"\n"
        file.write((b"\n" if torn else b"") + _line(value).encode())
        file.flush()
        os.fsync(file.fileno())
    if not size:
        sync_folder(path.parent)


def write_lines(path: Path, values: list[dict[str, Any]]) -> None:
    """Replaces a file of `append_line`."""
    write_text(path, "".join(map(_line, values)))


def open_own(path: str | Path, flags: int) -> int:
    """A descriptor of a file that is no link. Raises OSError."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def sync_folder(path: Path) -> None:
    """Makes what was renamed in a folder survive a power loss; a file system that cannot is left as it is."""
    with contextlib.suppress(OSError):
        _sync(path)


def leftovers(folder: Path) -> list[Path]:
    """What killed processes left in a folder under temporary names, and what living ones are writing."""
    return [path for path in folder.glob(".*.tmp") if LEFTOVER.fullmatch(path.name)]


def remove_leftovers(folder: Path) -> None:
    """Removes the leftovers of killed processes. The caller must hold the folder's lock."""
    for path in leftovers(folder):
        remove(path)


def remove(path: Path) -> None:
    """Removes a file, a link or a folder, as far as it can be."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def discard(folder: Path) -> None:
    """Removes a folder, which loses its name at once, so that nobody finds a part of it. Raises OSError."""
    temporary = _temporary(folder)
    with _naming(folder):
        os.rename(folder, temporary)
    remove(temporary)


# Reading


def read_json(path: Path) -> dict[str, Any]:
    """The content without its checksum; of a file without one, as earlier versions wrote it, what is there.

    Raises FileNotFoundError, or DamagedFile if it cannot be read or the content is not what was written.
    """
    content = _content(path)
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{path}: damaged ({error}).") from error
    if not isinstance(value, dict):
        raise DamagedFile(f"{path}: damaged (holds no keys).")
    if SEALED.search(content) and value.pop("checksum", None) != digest(_json(value).encode()):
        raise DamagedFile(f"{path}: damaged (its content is not that of its checksum).")
    return value


def read_yaml(path: Path) -> Any:
    """The content; of a file without a checksum, as a user or an earlier version wrote it, what is there.

    Raises FileNotFoundError, or DamagedFile if it cannot be read or the content is not what was written.
    """
    content = _content(path)
    try:
        body, _, last = content.rpartition(SEAL.encode())
        if SEALED.search(content) and last != f"{digest(body)}\n".encode():
            raise DamagedFile(
                f"{path}: damaged or edited (its content is not that of the checksum on its last line); "
                "if you have edited it, remove that line."
            )
        return parse_yaml(content.decode())
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise DamagedFile(f"{path}: damaged ({first_line(error)}).") from error


def read_lines(path: Path) -> dict[int, dict[str, Any] | None]:
    """The lines by number, from 1, None for those that are not whole; none for empty ones, nor if there is no file."""
    try:
        lines = _content(path).split(b"\n")
    except FileNotFoundError:
        return {}
    return {number: _value(line) for number, line in enumerate(lines, 1) if line}


def read_bytes(path: Path) -> bytes:
    """The content of a file. Raises OSError, also for a pipe or a device."""
    with open(path, "rb", opener=_regular) as file:
        return file.read()


def _content(path: Path) -> bytes:
    """Raises FileNotFoundError, or DamagedFile for any other reason not to read it."""
    try:
        return read_bytes(path)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{path}: no such file") from None
    except OSError as error:
        raise DamagedFile(f"{path}: cannot be read ({error.strerror or error}).") from error


def digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def file_digest(path: Path) -> str:
    """The digest of a file's content, read in pieces; for large ones SHA-256, for which processors have instructions.

    Raises OSError, as `read_bytes`.
    """
    total = hashlib.sha256()
    with open(path, "rb", opener=_regular) as file:
        while piece := file.read(2**20):
            total.update(piece)
    return total.hexdigest()[:32]


def _regular(path: str, flags: int) -> int:
    """A descriptor of a file, for `open`. Raises OSError for a pipe or a device, which may never end."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is no file")
    return descriptor


def _create(path: Path) -> BinaryIO:
    return open(path, "wb", opener=lambda name, _: open_own(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL))


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Makes system errors in writing a file name that file, not a temporary one or none."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            error.filename, error.filename2 = str(path), None
        raise


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _line(value: dict[str, Any]) -> str:
    return json.dumps(value | {"check": _check(value)}) + "\n"


def _value(line: bytes) -> dict[str, Any] | None:
    """What a line holds, without its check; None if it is torn. Lines of earlier versions have no check."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    return value if value.pop("check", None) in (None, _check(value)) else None


def _check(value: dict[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(value).encode()):08x}"
