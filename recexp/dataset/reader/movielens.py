"""MovieLens 100K: the original archive (a folder or the zip), or tab-separated text with `name:type` headers.

Harper & Konstan 2015, https://grouplens.org/datasets/movielens/100k. Both layouts give the same Raw. The
release year comes from the title: the date in u.item is that of the release in the USA (Taxi Driver: 16-Feb-1996).
"""

import hashlib
import http.client
import io
import logging
import urllib.request
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recexp.dataset import frame
from recexp.dataset.config import DatasetConfig, LabelKind, SplitKind
from recexp.dataset.feature import features_by_id
from recexp.dataset.raw import MULTI_SEPARATOR, Raw
from recexp.dataset.sheet import Sheet
from recexp.dataset.table_file import LoadedTable
from recexp.error import ConfigError, DataError, choices
from recexp.option import require
from recexp.registry import register
from recexp.storage import replacing
from recexp.tree import to_dict

if TYPE_CHECKING:
    import pandas as pd

URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
MD5 = "0e33842e24a9c977be4e0107933c0723"  # published beside the archive
FOLDER = "~/.cache/recexp"  # of the download, if cache_dir is null
MAX_BYTES = 2**26  # of a file in the archive; the largest has 2 MB
SECONDS = 60  # without a byte, before the download fails

GENRES = (  # in the order of the flags in u.item
    "unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy Film-Noir Horror "
    "Musical Mystery Romance Sci-Fi Thriller War Western"
)
FEATURES = {
    "user": ("age", "gender", "occupation", "zip_code", "zip_area"),
    "item": ("release_year", "genres", "genre"),
    "context": (),
}
ORIGINAL = {
    "u.data": ["user_id", "item_id", "rating", "timestamp"],
    "u.user": ["user_id", "age", "gender", "occupation", "zip_code"],
    "u.item": ["item_id", "title", "date", "video_date", "url", *GENRES.split()],
}
HEADED = {
    "ml-100k.inter": ORIGINAL["u.data"],
    "ml-100k.user": ORIGINAL["u.user"],
    "ml-100k.item": ["item_id", "title", "release_year", "genres"],
}
RENAMED = {"movie_title": "title", "class": "genres"}

log = logging.getLogger(__name__)


@register("movielens", kind="reader")
class MovieLens:
    @dataclass(kw_only=True)
    class Config(DatasetConfig):
        path: str | None

        def __post_init__(self) -> None:
            super().__post_init__()
            cut = self.label is LabelKind.implicit or self.label_threshold is not None
            require(cut, "dataset.label_threshold", "null", "a number; ratings are 1 to 5")
            given = self.split.kind is SplitKind.given
            require(not given, "dataset.split.kind", "given", "another kind; MovieLens 100K names no splits")
            for side, allowed in FEATURES.items():
                for name in getattr(self.features, side):
                    if name not in allowed:
                        hint = f"no such feature of MovieLens 100K. {choices(name, allowed)}"
                        raise ConfigError(f"dataset.features.{side}.{name}: {hint}")

    def __init__(self, config: Config) -> None:
        self.config = config

    def fingerprint(self) -> str:
        options = [to_dict(self.config)[key] for key in ("reader", "label", "features")]
        contents = _contents(self._path())
        return frame.digest([*options, *contents], map(io.BytesIO, contents.values()))

    def read(self) -> Raw:
        path, features = self._path(), self.config.features
        tables = [_parse(path / name, content) for name, content in _contents(path).items()]
        events = _sheet(tables[0], ORIGINAL["u.data"])
        users = _sheet(_with_area(tables[1]), ["user_id", *FEATURES["user"]])
        items = _sheet(_with_genres_and_year(tables[2]), ["item_id", *FEATURES["item"]])
        label = np.ones(len(events.frame))
        if self.config.label is LabelKind.explicit:
            label = events.labels("rating", self.config.label_threshold)
        return Raw(
            origin=str(path),
            label=label,
            user=events.ids("user_id"),
            item=events.ids("item_id"),
            timestamp=events.times("timestamp"),
            users=features_by_id(users, "user_id", features.user),
            items=features_by_id(items, "item_id", features.item),
        )

    def _path(self) -> Path:
        if self.config.path is not None:
            return Path(self.config.path).expanduser()
        return _download(Path(self.config.cache_dir or FOLDER).expanduser() / "raw")


@dataclass(kw_only=True)
class TextTable(LoadedTable):
    first_line: int

    def location(self, row: int) -> str:
        return f"{self.path}:{row + self.first_line}"


def _sheet(table: TextTable, columns: list[str]) -> Sheet:
    return Sheet([table], dict.fromkeys(columns, "MovieLens 100K"))


def _with_area(table: TextTable) -> TextTable:
    """Adds the first three characters of the zip code, its area, as a column."""
    table.frame["zip_area"] = table.frame["zip_code"].str[:3]
    return table


def _with_genres_and_year(table: TextTable) -> TextTable:
    """Sets a year (a number or empty), a column of all genres and one of the first; `unknown` is no genre."""
    items = table.frame
    if "genres" in items:
        genres = items["genres"].str.replace(" ", MULTI_SEPARATOR, regex=False)
    else:
        flags = [items[genre].map({"1": genre + MULTI_SEPARATOR, "0": ""}) for genre in GENRES.split()]
        genres = sum(flags[1:], start=flags[0]).str.rstrip(MULTI_SEPARATOR)
    items["genres"] = genres.mask(genres == "unknown", "")
    items["genre"] = items["genres"].str.partition(MULTI_SEPARATOR)[0]
    titled = items["title"].str.extract(r".*\((\d{4})\)", expand=False)
    if "release_year" in items:
        titled = items["release_year"].where(items["release_year"].str.fullmatch(r"\d{4}"), titled)
    items["release_year"] = titled.fillna("")
    return table


def _parse(path: Path, content: bytes) -> TextTable:
    """Rows of text, no quoting: titles hold quotation marks."""
    headed = path.name in HEADED
    try:
        text = content.decode("utf-8" if headed else "latin-1")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is no UTF-8 text.") from error
    text = text.rstrip("\r\n")
    separator = "|" if path.name in ("u.user", "u.item") else "\t"
    names = ORIGINAL.get(path.name, [])
    if headed:
        header, _, text = text.partition("\n")
        columns = [cell.partition(":")[0] for cell in header.rstrip("\r").split(separator)]
        names = [RENAMED.get(name, name) for name in columns]
        if lacking := set(HEADED[path.name]) - set(names):
            raise DataError(f"{path}: no column for {', '.join(sorted(lacking))}; it has {', '.join(columns)}.")
    return TextTable(path=path, frame=_frame(path, text, separator, names, 1 + headed), first_line=1 + headed)


def _frame(path: Path, text: str, separator: str, names: list[str], first_line: int) -> "pd.DataFrame":
    """Arrow reads the text; if a line has too many or too few fields, the error names it."""
    import pyarrow as pa
    from pyarrow import csv

    try:
        return csv.read_csv(
            io.BytesIO(text.encode()),
            csv.ReadOptions(column_names=names),
            csv.ParseOptions(delimiter=separator, quote_char=False, ignore_empty_lines=False),
            csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
        ).to_pandas()
    except pa.ArrowInvalid as error:
        for line, row in enumerate(text.split("\n"), start=first_line):
            if (n := len(row.split(separator))) != len(names):
                raise DataError(f"{path}:{line}: {n} fields, not {len(names)}; the file is damaged.") from error
        raise DataError(f"{path}: {error}.") from error


def _contents(path: Path) -> dict[str, bytes]:
    """Name -> bytes of the event, user and item files of whichever layout is complete."""
    try:
        if path.is_dir():
            files = {file.name: file for file in [*path.glob("*"), *path.glob("ml-100k/*")] if file.is_file()}
            return {name: files[name].read_bytes() for name in _layout(path, files)}
        if not path.is_file():
            raise DataError(f"dataset.path = {path}: no such folder or zip file.")
        with zipfile.ZipFile(path) as archive:
            members = {Path(item.filename).name: item for item in archive.infolist()}
            return {name: _member(path, archive, members[name]) for name in _layout(path, members)}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        raise DataError(f"dataset.path = {path}: give the folder or an intact zip file: {error}.") from error


def _member(path: Path, archive: zipfile.ZipFile, item: zipfile.ZipInfo) -> bytes:
    """A member's content, which zipfile holds to the size that it states."""
    if item.file_size > MAX_BYTES:
        raise DataError(f"dataset.path = {path}: {item.filename} states {item.file_size:,} bytes; the file is damaged.")
    return archive.read(item)


def _layout(path: Path, names: dict) -> tuple[str, ...]:
    layouts = (tuple(ORIGINAL), tuple(HEADED))
    for layout in layouts:
        if all(name in names for name in layout):
            return layout
    files = " nor ".join(", ".join(layout) for layout in layouts)
    raise DataError(f"dataset.path = {path}: holds neither {files}.")


def _download(folder: Path) -> Path:
    """The archive in the folder, downloaded and checked unless it is there."""
    target = folder / "ml-100k.zip"
    if target.is_file():
        return target
    log.info("downloading %s to %s", URL, target)
    try:
        with urllib.request.urlopen(URL, timeout=SECONDS) as response:
            content = response.read()
        if (md5 := hashlib.md5(content, usedforsecurity=False).hexdigest()) != MD5:
            raise OSError(f"its md5 is {md5}, not {MD5}")
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(target) as file:
            file.write(content)
    except (OSError, http.client.HTTPException) as error:
        advice = "fetch it by hand and give dataset.path=FOLDER or ZIP"
        raise DataError(f"cannot download {URL} ({error}); {advice}.") from error
    return target
