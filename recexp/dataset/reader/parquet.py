"""The user's own log or table in Parquet files."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from recexp.dataset import frame
from recexp.dataset.reader import source
from recexp.error import DataError
from recexp.registry import register

if TYPE_CHECKING:
    import pandas as pd


@register("parquet", kind="reader")
class Parquet(frame.FileReader):
    Config = frame.TableConfig
    suffixes = (".parquet",)

    def open(self, path: Path) -> "ParquetTable":
        return ParquetTable(path, self.config.multi_separator)


class ParquetTable:
    """Columns keep their types; lists become text, their values joined by the separator."""

    def __init__(self, path: Path, multi_separator: str) -> None:
        self.path = path
        self.multi_separator = multi_separator

    def columns(self) -> list[str]:
        return self._open().schema_arrow.names

    def hint(self, columns: list[str]) -> str:
        return ""

    def read(self, names: list[str]) -> "pd.DataFrame":
        import pyarrow as pa

        try:
            file = self._open()
            self._check_size(file.metadata)
            table = file.read(columns=names)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path}: is damaged: {str(error).splitlines()[0]}.") from error
        plain = {name: self._plain(name, table[name]) for name in names}
        options = {"ignore_metadata": True, "date_as_object": False}
        # Without integer_object_nulls integers beside gaps become floats, and long ones lose digits.
        return pa.table(plain).to_pandas(integer_object_nulls=True, **options)

    def location(self, row: int) -> str:
        return f"{self.path}, row {row + 1}"

    def _open(self) -> Any:
        import pyarrow as pa
        from pyarrow import parquet

        if (kind := source.format_of(self.path)) != "parquet":
            advice = "; dataset=csv reads text and compressed text" if kind in ("text", *source.READ) else ""
            raise DataError(f"{self.path}: is no Parquet file but {kind}{advice}.")
        try:
            return parquet.ParquetFile(self.path)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path}: is no Parquet file: {str(error).splitlines()[0]}.") from error

    def _check_size(self, metadata: Any) -> None:
        """Raises DataError if the file stands for more than can be of use."""
        groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
        source.check_expansion(self.path, max(metadata.num_rows, sum(group.total_byte_size for group in groups)))

    def _plain(self, name: str, column: Any) -> Any:
        import pyarrow as pa

        kind = column.type
        if pa.types.is_dictionary(kind):
            return column.cast(kind.value_type)
        if pa.types.is_decimal(kind):
            return _exact(column)
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            return self._joined(name, column)
        if pa.types.is_nested(kind) or pa.types.is_binary(kind):
            raise self._wrong(name, f"is {kind}; it must hold strings, numbers, times or lists")
        return column

    def _joined(self, name: str, column: Any) -> Any:
        import pyarrow as pa
        from pyarrow import compute

        try:
            values = column.cast(pa.list_(pa.string()))
        except pa.ArrowException as error:
            raise self._wrong(name, f"is {column.type}; a list must hold strings or numbers") from error
        flat = compute.list_flatten(values)
        if compute.any(compute.match_substring(flat, self.multi_separator)).as_py():
            raise self._wrong(name, f"a value holds '{self.multi_separator}'; set another dataset.multi_separator")
        return compute.binary_join(_without_nulls(values.combine_chunks()), self.multi_separator)

    def _wrong(self, name: str, message: str) -> DataError:
        return DataError(f"{self.path}: column '{name}': {message}.")


def _exact(column: Any) -> Any:
    """Decimals as integers, if they are whole and not too large, or as text; floats only if they have a fraction."""
    import pyarrow as pa

    try:
        whole = column.cast(pa.decimal256(76, 0))
    except pa.ArrowException:
        return column.cast(pa.float64())
    try:
        return whole.cast(pa.int64())
    except pa.ArrowException:
        return whole.cast(pa.string())


def _without_nulls(lists: Any) -> Any:
    """The same lists without their null elements."""
    import numpy as np
    import pyarrow as pa
    from pyarrow import compute

    if not lists.flatten().null_count:
        return lists
    counts = compute.fill_null(compute.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    kept = np.append(0, np.cumsum(lists.flatten().is_valid().to_numpy(zero_copy_only=False)))
    ends = kept[np.append(0, np.cumsum(counts))].astype(np.int32)
    return pa.ListArray.from_arrays(ends, lists.flatten().drop_null(), mask=lists.is_null())
