"""Reads and checks columns of files: each value fits its role, or an error names file, row and column."""

import logging
from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from recexp.dataset import vector
from recexp.dataset.cell import GAPS, WORDS, are_words, is_gap, is_missing, mask_words, parsed_numbers, written_lists
from recexp.dataset.config import FeatureKind
from recexp.dataset.label import Rule
from recexp.dataset.log import SPLITS
from recexp.dataset.moment import are_moments, since_1970
from recexp.dataset.raw import MULTI_SEPARATOR, Ids
from recexp.dataset.table_file import TableFile, joined, load
from recexp.dataset.value import WHOLE
from recexp.error import DataError, choices

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)
Kinds = dict[str, FeatureKind]
LARGEST = 1e30  # of features: squares of larger numbers are infinite in 32 bits
STORE = "store integers or strings"
ID = "an id must be an integer or a string, in all rows the same of the two"
TIME = (
    "must be a number or an ISO date-time (2024-01-31T23:59:59Z), in all rows the same of the two; "
    "for other forms set dataset.time_format, as %d/%m/%Y"
)
LABEL = "must be 0 or 1; cut ratings with dataset.label_threshold=NUMBER"


class Sheet:
    """Columns of one or several files; converts a column, or raises DataError for its first wrong row."""

    def __init__(
        self,
        tables: list[TableFile],
        wanted: dict[str, str],
        multi_separator: str = MULTI_SEPARATOR,
        missing: Collection[str] = (),
        vectors: Collection[str] = (),
    ) -> None:
        """wanted: column -> the config key that asks for it. missing: words that stand for a missing value.

        vectors: columns whose cells may stay arrays; those of all others become text.
        """
        import pandas as pd

        self.tables = tables
        self.multi_separator = multi_separator
        frames = [load(table, wanted) for table in tables]
        self.sizes = [len(frame) for frame in frames]
        self.frame = vector.without_arrays(joined(frames), multi_separator, vectors)
        if missing:
            columns = {name: mask_words(self.frame[name], list(missing)) for name in self.frame}
            self.frame = pd.DataFrame(columns, index=self.frame.index)

    def error(self, row: int, column: str, message: str) -> DataError:
        starts = np.cumsum([0, *self.sizes])
        index = bisect_right(starts, row) - 1
        location = self.tables[index].location(int(row - starts[index]))
        value = str(vector.as_text(self.frame[column].iloc[row]))
        shown = repr(value if len(value) < 60 else value[:60] + "...")
        return DataError(f"{location}: column '{column}' = {shown}: {message}.")

    def ids(self, column: str) -> Ids:
        """Strings exactly as they stand in the file, or integers."""
        from pandas.api import types

        values = self._required(column)
        if types.is_float_dtype(values):  # integers from a column that had gaps
            self.refuse(values % 1 != 0, column, ID)
            exact = 2 ** (np.finfo(values.to_numpy().dtype).nmant + 1)
            self.refuse(values.abs() >= exact, column, f"{values.dtype} holds ids exactly only below {exact}; {STORE}")
            values = values.astype(np.int64)
        if types.is_integer_dtype(values):
            return values.to_numpy()
        self._warn_of_gaps(column, f"are {column}s of their own")
        if not types.is_string_dtype(values):
            self.refuse(values.map(lambda value: not isinstance(value, str)), column, ID)
        return values.array

    def labels(self, column: str, threshold: float | None) -> np.ndarray:
        """Labels as numbers; words such as true and false, in upper or lower case, become 1 and 0."""
        given = self._required(column)
        if are_words(given):
            return self._words(column, np.zeros(len(given), bool)).astype(np.int64)
        values = self._numbers(column)
        if threshold is None:
            self.refuse(~np.isin(values, (0, 1)), column, LABEL)
        return values

    def known_labels(self, column: str) -> np.ndarray:
        """As `labels` in float64, NaN where they are missing."""
        given = self.frame[column]
        missing = is_missing(given) | given.isin(GAPS)
        if are_words(given[~missing]):
            return self._words(column, missing.to_numpy(bool))
        return self._numbers(column, "must be a number, or empty if it is unknown", gaps=GAPS).astype(np.float64)

    def ruled(self, rule: Rule) -> np.ndarray:
        """Labels 0 and 1 by a rule in float64, NaN where they are missing."""
        values = self.known_labels(rule.column)
        if rule.sign is None:
            cut = "must be 0 or 1, or empty if it is unknown; cut numbers as in {like: 'rating>=4'}"
            self.refuse(~np.isin(values, (0, 1)) & ~np.isnan(values), rule.column, cut)
        return rule.apply(values)

    def _words(self, column: str, missing: np.ndarray) -> np.ndarray:
        words = self.frame[column].str.lower().map(WORDS).mask(missing)
        self.refuse(words.isna() & ~missing, column, f"must be one of {', '.join(WORDS)}, as other rows are")
        return words.to_numpy(np.float64, na_value=np.nan)

    def times(self, column: str, time_format: str | None = None, like: np.ndarray | None = None) -> np.ndarray:
        """Numbers as given; date-times as seconds or, if any row has a fraction, as microseconds.

        time_format: of date-times in another form than ISO's, as for strptime. like: times of the unit to use.
        """
        import pandas as pd

        values = self._required(column)
        if pd.api.types.is_bool_dtype(values):
            raise self.error(0, column, TIME)
        if time_format is not None:
            values = values.astype(str)
        elif not are_moments(values):
            if pd.notna(pd.to_numeric(values.iloc[0], errors="coerce")):
                return self._numbers(column, TIME)
            if not pd.api.types.is_string_dtype(values):
                raise self.error(0, column, TIME)
            values = values.mask(values.isin(("now", "today")))  # for these pandas would read the clock
        moments = pd.to_datetime(values, format=time_format or "ISO8601", utc=True, errors="coerce")
        self.refuse(moments.isna(), column, f"must be a time of the form {time_format}" if time_format else TIME)
        return since_1970(moments, like)

    def splits(self, column: str) -> np.ndarray:
        values = self.frame[column].astype(object)
        wrong = ~values.isin(SPLITS)
        if wrong.any():
            allowed = choices(str(values[wrong].iloc[0]), SPLITS)
            self.refuse(wrong, column, f"not a split. {allowed.rstrip('.')}")
        return values.to_numpy()

    def features(self, kinds: Kinds, widths: Mapping[str, int] = MappingProxyType({})) -> "pd.DataFrame":
        """Numbers as float64, vectors as arrays, multi-valued cells as text, and single values as pandas categories.

        Gaps are missing values. widths: of vectors, where known; other vectors have the width of most of their cells.
        """
        import pandas as pd

        convert: dict[FeatureKind, Callable[[str], Any]] = {
            FeatureKind.categorical: self._category,
            FeatureKind.hash: self._category,
            FeatureKind.multi: self._multi,
            FeatureKind.vector: partial(self._vectors, widths=widths),
        }
        columns = {name: convert.get(kind, self._numeric)(name) for name, kind in kinds.items()}
        return pd.DataFrame(columns, index=self.frame.index)

    def _numeric(self, column: str) -> np.ndarray:
        message = "a numeric or binned feature must be a number, or empty if it is unknown"
        numbers = self._numbers(column, message, gaps=GAPS).astype(np.float64)
        self.refuse(
            np.abs(numbers) > LARGEST, column, f"a numeric or binned feature must be at most {LARGEST:g} in size"
        )
        return numbers

    def _vectors(self, column: str, widths: Mapping[str, int]) -> "pd.Series":
        import pandas as pd

        values = self.frame[column]
        missing = (values.isna() | values.map(is_gap)).to_numpy(bool)
        vectors, rows = vector.arrays_of(values[~missing], self.multi_separator), np.flatnonzero(~missing)
        counts = np.array([len(cell) for cell in vectors], np.int64)
        if not counts.any() and column not in widths:
            raise DataError(f"{self.tables[0].path}: column '{column}' holds no vector: all cells are empty.")
        width = widths.get(column) or int(np.bincount(counts).argmax())
        if len(odd := np.flatnonzero(counts != width)):
            message = f"holds {counts[odd[0]]} numbers, not {width}; all vectors have one length"
            raise self.error(rows[odd[0]], column, message)
        cells, wrong = np.full(len(missing), None, object), np.zeros(len(missing), bool)
        for row, cell in zip(rows, vectors, strict=True):  # at once, numpy would make a matrix
            cells[row], wrong[row] = cell, not (np.abs(cell).max(initial=0) <= LARGEST)
        self.refuse(wrong, column, f"a vector must hold numbers alone, of at most {LARGEST:g} in size")
        return pd.Series(cells, values.index)

    def _category(self, column: str) -> "pd.Series":
        """Single values as categories, written as `category_of` writes them. Work is per unique value, not per row."""
        import pandas as pd
        from pandas.api import types

        self._warn_of_values(column)
        values = self.frame[column]
        mixed = types.is_object_dtype(values)  # pandas takes True and 1 for one value
        index, unique = pd.factorize(as_text(values) if mixed else values)
        text = as_text(pd.Series(unique))
        if text.str.contains(".0", regex=False).eq(True).any():  # a sixth of the time of replacing
            text = text.str.replace(WHOLE.pattern, r"\1", regex=True)
        codes, categories = pd.factorize(text)
        return pd.Series(pd.Categorical.from_codes(np.append(codes, -1)[index], categories), values.index)

    def _multi(self, column: str) -> "pd.Series":
        self._warn_of_values(column)
        text = as_text(self.frame[column])
        if (lists := written_lists(text)) is not None:
            return lists
        if self.multi_separator == MULTI_SEPARATOR:
            return text
        message = f"holds '{MULTI_SEPARATOR}', which is kept for dataset.multi_separator itself"
        self.refuse(text.str.contains(MULTI_SEPARATOR, regex=False).eq(True), column, message)
        return text.str.replace(self.multi_separator, MULTI_SEPARATOR, regex=False)

    def _numbers(self, column: str, message: str = "must be a number", gaps: tuple[str, ...] = ()) -> np.ndarray:
        import pandas as pd

        values = self.frame[column]
        if pd.api.types.is_datetime64_any_dtype(values):
            raise self.error(0, column, message)
        missing = is_missing(values) | values.isin(gaps) if gaps else np.zeros(len(values), bool)
        if (parsed := None if missing.any() else parsed_numbers(values)) is not None:
            self.refuse(~np.isfinite(parsed), column, message)
            return parsed
        numbers = pd.to_numeric(values.mask(missing), errors="coerce").to_numpy()
        whole = numbers.dtype.kind in "iub" and int(numbers.max()) < 2**63
        numbers = numbers.astype(np.int64 if whole else np.float64, copy=False)
        self.refuse(~np.isfinite(numbers) & ~missing, column, message)
        return numbers

    def _warn_of_values(self, column: str) -> None:
        self._warn_of_gaps(column, "are values of their own; empty cells are missing ones")

    def _warn_of_gaps(self, column: str, what: str) -> None:
        """Warns of words such as NA, which often mean a missing value, in a column where they are ordinary values."""
        from pandas.api import types

        if not types.is_string_dtype(self.frame[column]):
            return
        values = self.frame[column]
        counts = values[values.isin(GAPS[1:])].value_counts()  # not of the empty cell, which is a gap
        if len(counts):
            listed = ", ".join(f"{word} {counts[word]:,} times" for word in GAPS if word in counts)
            logger.warning("%s: column %r holds %s: these %s.", self.tables[0].path, column, listed, what)

    def _required(self, column: str) -> "pd.Series":
        self.refuse(is_missing(self.frame[column]), column, "must not be empty")
        return self.frame[column]

    def refuse(self, wrong: "np.ndarray | pd.Series", column: str, message: str) -> None:
        wrong = np.asarray(wrong, dtype=bool)
        if wrong.any():
            raise self.error(int(wrong.argmax()), column, message)


def as_text(values: "pd.Series") -> "pd.Series":
    """Cells as text, with missing ones kept. Whole numbers are "5", not "5.0", whatever other rows hold."""
    from pandas.api import types

    text = values.astype(str)
    if types.is_float_dtype(values):
        whole = (values % 1 == 0) & (values.abs() < 2**53)
        text = text.mask(whole, values.where(whole).astype("Int64").astype(str))
    return text.mask(is_missing(values))
