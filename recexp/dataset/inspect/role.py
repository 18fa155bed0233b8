"""Guesses the role of each column, from its name first and then from its values; each guess says why."""

import re
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from recexp.dataset.cell import GAPS, WORDS
from recexp.dataset.config import is_feature_name
from recexp.dataset.raw import MULTI_SEPARATOR
from recexp.dataset.vector import parsed, without_arrays

if TYPE_CHECKING:
    import pandas as pd

NAMES = {  # usual names of a role's column, lower case, only letters and digits
    "user": "user userid uid usr userno reviewerid customerid customer visitorid memberid accountid sessionid client",
    "item": "item itemid iid movieid productid product asin parentasin sku goodsid articleid article businessid appid "
    "songid trackid artistid bookid isbn videoid newsid gameid recipeid",
    "label": "label rating ratings score stars overall click clicked isclick target islike like liked ctr "
    "recommended y buy bought purchase purchased conversion converted finish finished",
    "timestamp": "timestamp time ts datetime date unixreviewtime unixtime eventtime createdat reviewtime ratedat hour "
    "timems timesec",
    "split": "split part fold",
}
OTHER_LABEL = "a label by its name, so no feature"  # of a column beside the label that was chosen
ROLES = ("user", "item", "label", "timestamp", "split")
FORMATS = (  # of times, besides numbers and ISO 8601
    "%d/%m/%Y %H:%M:%S", "%d/%m/%Y %H:%M", "%d/%m/%Y", "%m/%d/%Y %H:%M:%S", "%m/%d/%Y %H:%M", "%m/%d/%Y",
    "%d.%m.%Y %H:%M:%S", "%d.%m.%Y", "%m %d, %Y", "%b %d, %Y", "%B %d, %Y", "%Y/%m/%d %H:%M:%S", "%Y/%m/%d",
    "%Y-%m-%d %H:%M:%S UTC", "%a %b %d %H:%M:%S %z %Y", "%d %b %Y", "%Y%m%d", "%y%m%d%H",
)  # fmt: skip
FEW_COLUMNS = 8  # up to which users and items are guessed from values: among more, most columns look like ids
WRITTEN = "[,]"  # the separator of cells such as ['a', 'b'], lists of Python or JSON
TRIED = 1000  # values that a time format is tried on
FEW_LABELS, MANY = 11, 20  # values of a rating; values from which integers are numbers
MAX_VOCABULARY = 50_000  # unique values up to which a column is categorical, not hashed
MAX_VALUES = 1000  # unique values of multi-valued cells, unless they are separated by |
MAX_CATEGORIES = 0.5  # unique values per row up to which text is a category
EPOCH = (10**8, 4 * 10**18)  # seconds of 1973 to nanoseconds of 2096


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column as the first rows show it."""

    name: str
    type: str  # integer, number, words (true and false), time, list, vector, text or empty
    n_unique: int
    missing: dict[str, int]  # how often, by the word that stands for it; '' for empty cells
    role: str = ""  # of ROLES, or `user feature`, `item feature`, `context feature`, or unused
    kind: str = ""  # of a feature: categorical, hash, multi, numeric, vector
    why: str = ""
    time_format: str | None = None
    separator: str | None = None  # of a multi-valued cell; WRITTEN if it is a list as Python and JSON write it
    example: str = ""


def guess(frame: "pd.DataFrame", headed: bool = True) -> list[Column]:
    """The columns of a log with their roles; without a header, names are not used."""
    frame = without_arrays(frame, MULTI_SEPARATOR)
    columns = {name: describe(frame[name]) for name in frame.columns}
    chosen = dict(_by_name(columns)) if headed else {}
    taken = {name for name, _ in chosen.values()}
    named = {"user", "item"} <= chosen.keys()
    for role in ("timestamp", "label", "user", "item"):
        if role in chosen or (named and role == "label"):
            continue
        timed = "timestamp" in chosen and _is_time(columns[chosen["timestamp"][0]])
        if role in ("user", "item") and (len(columns) > FEW_COLUMNS or (headed and not timed)):
            continue
        free = {name: column for name, column in columns.items() if name not in taken}
        if (guessed := _by_values(role, free, len(frame))) is not None:
            chosen[role] = guessed
            taken.add(guessed[0])
    if "user" not in chosen or "item" not in chosen:
        chosen.pop("timestamp", None)
    by_name = {name: (role, why) for role, (name, why) in chosen.items()}
    ids: dict[str, np.ndarray] = {role: _codes(frame[chosen[role][0]]) for role in ("user", "item") if role in chosen}
    result = []
    for name, column in columns.items():
        if name in by_name:
            role, why = by_name[name]
            result.append(replace(column, role=role, why=why))
        elif "label" in chosen and _is_outcome(column):
            result.append(replace(column, role="unused", why=OTHER_LABEL))
        else:
            result.append(_feature(column, frame[name], ids))
    return result


def features(frame: "pd.DataFrame", ids: str, side: str) -> list[Column]:
    """The columns of a file of a side's features, one row per id, without the ids."""
    frame = without_arrays(frame, MULTI_SEPARATOR)
    columns = [_feature(describe(frame[name]), frame[name], {}) for name in frame.columns if name != ids]
    return [replace(column, role=f"{side} feature") if column.kind else column for column in columns]


def describe(values: "pd.Series") -> Column:
    """A column without its role."""
    present = values[values.notna() & ~values.isin(GAPS)]
    unique = present.drop_duplicates()
    example = str(present.iloc[0]) if len(present) else ""
    kind, form = _type(values, unique, len(present))
    return Column(name=str(values.name), type=kind, n_unique=len(unique), missing=gaps(values), example=example,
                  time_format=None if kind == "list" else form, separator=form if kind == "list" else None)  # fmt: skip


def _type(values: "pd.Series", unique: "pd.Series", n_rows: int) -> tuple[str, str | None]:
    """A column's type and, of times in a form of their own, that format; of lists their separator.

    unique: the values that stand in n_rows.
    """
    import pandas as pd

    if not n_rows:
        return "empty", None
    if pd.api.types.is_datetime64_any_dtype(values):
        return "time", None
    text = unique.astype(str)
    if pd.api.types.is_bool_dtype(unique) or set(text.str.lower()) <= set(WORDS):
        return "words", None
    numbers = pd.to_numeric(unique, errors="coerce").astype(float)
    if np.isfinite(numbers).all():
        is_date = str(values.name).lower().endswith("date") and _parses(unique, "%Y%m%d")
        return "integer" if (numbers % 1 == 0).all() else "number", "%Y%m%d" if is_date else None
    if (time_format := _time_format(text)) is not None:
        return "time", time_format or None
    if _is_vector(text):
        return "vector", None
    separator = _multi(text, n_rows)
    return "text" if separator is None else "list", separator


def gaps(values: "pd.Series") -> dict[str, int]:
    """How often each word for a missing value occurs; '' stands for cells that are empty or null."""
    words = values[values.isna() | values.isin(GAPS)].fillna("").astype(str).value_counts()
    return {str(word): int(count) for word, count in words.items()}


def _by_name(columns: dict[str, Column]) -> list[tuple[str, tuple[str, str]]]:
    """(role, (column, reason)) of the roles whose usual names occur."""
    guesses = []
    names = {name: _plain(name) for name in columns}
    for role in ROLES:
        words = NAMES[role].split()
        fitting = [name for name in names if names[name] in words and _fits(role, columns[name])]
        if fitting:
            best = min(fitting, key=lambda name: words.index(names[name]))
            guesses.append((role, (best, "by its name")))
    return guesses


def _plain(name: str) -> str:
    """A column's name as NAMES has it."""
    return re.sub(r"[^a-z0-9]", "", name.split(":")[0].lower())


def _is_outcome(column: Column) -> bool:
    """True if a column is named as labels are and has two values: a label too, which nobody knows before the event."""
    return _plain(column.name) in NAMES["label"].split() and column.n_unique == 2 and _fits("label", column)


def _fits(role: str, column: Column) -> bool:
    if role == "timestamp":
        return column.type in ("integer", "number", "time")
    if role == "label":
        return column.type in ("integer", "number", "words")
    if role == "split":
        return column.n_unique <= 3 and column.example in ("train", "valid", "test")
    return column.type in ("integer", "text", "number", "time")


def _by_values(role: str, columns: dict[str, Column], n_rows: int) -> tuple[str, str] | None:
    """The first column whose values look like a role's."""
    for name, column in columns.items():
        if role == "timestamp" and column.type == "time":
            return name, "holds times"
        if role == "timestamp" and _is_epoch(column):
            return name, "numbers as of seconds since 1970"
        if role == "label" and (column.type == "words" or _rating(column)):
            return name, "few small numbers" if column.type != "words" else "true and false"
        repeated = column.type in ("integer", "text") and 1 < column.n_unique < n_rows
        if role in ("user", "item") and repeated:
            return name, "ids that repeat, the first such column" if role == "user" else "ids that repeat, the next"
    return None


def _is_time(column: Column) -> bool:
    return column.type == "time" or column.time_format is not None or _is_epoch(column)


def _is_epoch(column: Column) -> bool:
    whole = column.type == "integer" and column.example.isdigit() and column.n_unique > 1
    return whole and EPOCH[0] < int(column.example) < EPOCH[1]


def _rating(column: Column) -> bool:
    return column.type in ("integer", "number") and 2 <= column.n_unique <= FEW_LABELS and len(column.example) <= 4


def _feature(column: Column, values: "pd.Series", ids: dict[str, np.ndarray]) -> Column:
    """The side that a feature belongs to: of the user or item if each has one value, else of the event."""
    n_rows = len(values)
    if column.n_unique <= 1:
        return replace(column, role="unused", why="one value alone" if column.n_unique else "empty")
    if not is_feature_name(column.name):
        return replace(column, role="unused", why="its name is empty or no text")
    kind, why = _kind(column)
    if column.type == "text" and column.n_unique > MAX_CATEGORIES * n_rows:
        return replace(column, role="unused", why="an id a row" if column.n_unique == n_rows else "free text")
    codes = _codes(values)
    for side, owner in ids.items():
        if _constant(owner, codes):
            return replace(column, role=f"{side} feature", kind=kind, why=f"one value for each {side}; {why}")
    if column.n_unique == n_rows and column.type == "integer":
        return replace(column, role="unused", why="an id a row")
    return replace(column, role="context feature", kind=kind, why=f"changes from event to event; {why}" if ids else why)


def _kind(column: Column) -> tuple[str, str]:
    if column.type == "vector":
        return "vector", "as many numbers in each cell"
    if column.type == "list":
        between = "written as lists" if column.separator == WRITTEN else f"between them {column.separator!r}"
        return "multi", f"several values, {between}"
    if column.type == "number" or (column.type == "integer" and column.n_unique > MANY):
        codes = "" if column.type == "number" else ", categorical if they are codes"
        return "numeric", f"{column.n_unique:,} numbers{codes}"
    kind = "hash" if column.n_unique > MAX_VOCABULARY else "categorical"
    return kind, f"{column.n_unique:,} values"


def _constant(owner: np.ndarray, codes: np.ndarray) -> bool:
    """True if each owner has one value, and enough owners have several rows to show it."""
    first = np.zeros(owner.max(initial=0) + 1, np.int64)
    first[owner[::-1]] = codes[::-1]
    return len(owner) >= 1.5 * len(np.unique(owner)) and bool((first[owner] == codes).all())


def _codes(values: "pd.Series") -> np.ndarray:
    import pandas as pd

    return pd.factorize(values)[0] + 1  # 0 is missing


def _time_format(unique: "pd.Series") -> str | None:
    """'' for ISO date-times, else their format; None if they are no times."""
    import pandas as pd

    some = unique.iloc[:TRIED]
    if not some.str.contains(r"\d\D+\d", regex=True).all():
        return None
    if pd.to_datetime(some, format="ISO8601", utc=True, errors="coerce").notna().all():
        return ""
    return next((name for name in FORMATS if _parses(some, name)), None)


def _parses(unique: "pd.Series", time_format: str) -> bool:
    import pandas as pd

    some = unique.iloc[:TRIED].astype(str)
    return bool(pd.to_datetime(some, format=time_format, utc=True, errors="coerce").notna().all())


def _is_vector(unique: "pd.Series") -> bool:
    """True if all cells hold equally many numbers, two or more, some with a fraction: whole numbers may be codes."""
    numbers, counts = parsed(unique.iloc[:TRIED], MULTI_SEPARATOR)
    return bool(counts[0] > 1 and (counts == counts[0]).all() and np.isfinite(numbers).all() and (numbers % 1).any())


def _multi(unique: "pd.Series", n_rows: int) -> str | None:
    """The separator of cells that hold several values; None if they hold one."""
    some = unique.iloc[: 5 * TRIED]
    if (some.str.startswith("[") & some.str.endswith("]")).all():
        return WRITTEN
    repeated = len(unique) < n_rows / 2  # cells of free text are not
    for separator in ("|", ";", ", ", ",", " ") if repeated else ("|",):
        lists = [str(cell).split(separator) for cell in some]
        values = list(chain(*lists))
        shared = separator == "|" or len(set(values)) < min(len(values) / 2, MAX_VALUES)
        if len(values) > 1.1 * len(lists) and shared:
            return separator
    return None
