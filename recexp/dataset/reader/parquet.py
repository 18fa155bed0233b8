"""The user's own log or table in Parquet files."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from recexp.dataset import frame
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

    def read(self, names: list[str]) -> "pd.DataFrame":
        import pyarrow as pa

        try:
            table = self._open().read(columns=names)
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

        try:
            return parquet.ParquetFile(self.path)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path}: is no Parquet file: {str(error).splitlines()[0]}.") from error

    def _plain(self, name: str, column: Any) -> Any:
        import pyarrow as pa

        kind = column.type
        if pa.types.is_dictionary(kind):
            return column.cast(kind.value_type)
        if pa.types.is_decimal(kind):
            return column.cast(pa.float64())
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
        return compute.binary_join(values, self.multi_separator)

    def _wrong(self, name: str, message: str) -> DataError:
        return DataError(f"{self.path}: column '{name}': {message}.")
