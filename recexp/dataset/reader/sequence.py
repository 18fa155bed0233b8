"""One user a line: the user's id, then the ids of the items in their order, as SASRec, S3-Rec and LightGCN store logs.

There are no times and no labels: the position in the line is the timestamp, and every event is a positive.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recexp.dataset import frame
from recexp.dataset.config import DatasetConfig, LabelKind, SplitKind
from recexp.dataset.raw import Raw
from recexp.dataset.reader import source
from recexp.error import ConfigError, DataError, first_line
from recexp.option import require
from recexp.registry import register
from recexp.tree import to_dict

logger = logging.getLogger(__name__)


@register("sequence", kind="reader")
class Sequence:
    @dataclass(kw_only=True)
    class Config(DatasetConfig):
        path: str | None
        separator: str | None

        def __post_init__(self) -> None:
            super().__post_init__()
            if not self.path:
                raise ConfigError("dataset.path = null: no data; give your file with dataset.path=FILE.")
            implicit = self.label is LabelKind.implicit
            require(implicit, "dataset.label", self.label.name, "implicit; these files hold no labels")
            ordered = self.split.kind not in (SplitKind.time, SplitKind.given)
            allowed = "leave_last_out, user_time or random; these files hold no times and no splits"
            require(ordered, "dataset.split.kind", self.split.kind.name, allowed)
            self.separator = self.separator and self.separator.replace("\\t", "\t")  # as shells pass it on
            require(self.separator != "", "dataset.separator", "''", "one character or more, or null for blanks")
            self.features.derived.require_times(False, "empty; these files hold no times")
            for side, kinds in self.features.sides.items():
                if kinds:
                    raise ConfigError(f"dataset.features.{side}.{next(iter(kinds))}: these files hold ids alone.")

    def __init__(self, config: Config) -> None:
        self.config = config

    def fingerprint(self) -> str:
        options = [to_dict(self.config)[key] for key in ("reader", "separator")]
        return frame.digest(options, [source.stored(self._path())])

    def read(self) -> Raw:
        """Raises DataError."""
        path = self._path()
        lines = _lines(path)
        count, ids = self._split(lines)
        first = np.cumsum(count) - count
        user, is_item = ids.take(first), np.ones(len(ids), bool)
        _check_unique(path, lines, user)
        is_item[first] = False
        if single := int((count == 1).sum()):
            logger.warning("%s: %d lines hold a user without items; these users are left out.", path, single)
        if not is_item.any():
            raise DataError(f"{path}: holds no items; a line is a user and then items: 17 3 8 5.")
        line = np.repeat(np.arange(len(count)), count)
        return Raw(
            origin=str(path),
            label=np.ones(int(is_item.sum())),
            user=_strings(user.take(line[is_item])),
            item=_strings(ids.filter(is_item)),
            timestamp=(np.arange(len(ids)) - first[line])[is_item],
        )

    def _path(self) -> Path:
        return frame.require_file(Path(str(self.config.path)).expanduser(), "dataset.path")

    def _split(self, lines: list[str]) -> tuple[np.ndarray, Any]:
        """How many ids each line that is not blank holds, and all ids one after another."""
        import pyarrow as pa
        from pyarrow import compute

        text = pa.array([line.strip() for line in lines if line.strip()], pa.large_string())
        separator = self.config.separator
        cells = compute.utf8_split_whitespace(text) if separator is None else compute.split_pattern(text, separator)
        return compute.list_value_length(cells).to_numpy(), cells.flatten()


def _lines(path: Path) -> list[str]:
    try:
        with source.open_bytes(path) as stream:
            text = stream.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is no UTF-8 text; save the file as UTF-8.") from error
    except source.FAULTS as error:
        raise DataError(f"{path}: cannot be read: {first_line(error)}.") from error
    lines = text.split("\n")
    if not text.strip():
        raise DataError(f"{path}: is empty.")
    return lines


def _check_unique(path: Path, lines: list[str], user: Any) -> None:
    import pandas as pd

    duplicated = pd.Series(_strings(user)).duplicated().to_numpy()
    if duplicated.any():
        n = int(duplicated.argmax())
        number = [index for index, line in enumerate(lines, 1) if line.strip()][n]
        raise DataError(f"{path}:{number}: user {user[n].as_py()!r} has an earlier line too; a user has one line.")


def _strings(ids: Any) -> Any:
    return ids.to_pandas().array
