"""The user's own log or table in Parquet files."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recexp.dataset import frame
from recexp.dataset.reader import source
from recexp.dataset.reader.arrow import first_rows, to_frame
from recexp.dataset.table_config import TableConfig
from recexp.error import DataError, first_line
from recexp.registry import register

if TYPE_CHECKING:
    import pandas as pd

BATCH_ROWS, BATCH_BYTES = 4096, 2**28  # read at once; small batches are also the fastest


@register("parquet", kind="reader")
class Parquet(frame.FileReader):
    Config = TableConfig
    suffixes = (".parquet",)

    def open(self, path: Path) -> "ParquetTable":
        return ParquetTable(path, self.config.multi_separator)


class ParquetTable:
    """Columns keep their types; lists of floats become arrays, others text, their values joined by the separator."""

    def __init__(self, path: Path, multi_separator: str) -> None:
        self.path = path
        self.multi_separator = multi_separator

    def columns(self) -> list[str]:
        return self._open().schema_arrow.names

    def hint(self, columns: list[str]) -> str:
        return ""

    def read(self, names: list[str]) -> "pd.DataFrame":
        import pyarrow as pa

        batches = list(self._batches(names))
        table = pa.Table.from_batches(batches) if batches else self._open().schema_arrow.empty_table().select(names)
        return to_frame(self.path, table, self.multi_separator)

    def head(self, names: list[str], n_rows: int) -> "pd.DataFrame":
        """The first n_rows rows or somewhat more."""
        return to_frame(self.path, first_rows(self._batches(names), n_rows), self.multi_separator)

    def location(self, row: int) -> str:
        return f"{self.path}, row {row + 1}"

    def _open(self, **options: Any) -> Any:
        import pyarrow as pa
        from pyarrow import parquet

        if (kind := source.format_of(self.path)) != "parquet":
            advice = "; dataset=csv reads text and compressed text" if kind in ("text", *source.READ) else ""
            raise DataError(f"{self.path}: is no Parquet file but {kind}{advice}.")
        try:
            file = source.stored(self.path) if source.archive_of(self.path) else self.path
            return parquet.ParquetFile(file, **options)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path}: is no Parquet file: {first_line(error)}.") from error

    def _batches(self, names: list[str]) -> Iterator[Any]:
        """The columns, some rows at a time. Raises DataError once the file has expanded beyond reason.

        A value that a dictionary in the file holds once may be repeated in every row.
        """
        import pyarrow as pa

        try:
            file, size = self._open(), 0
            encoded = self._open(read_dictionary=_texts(file.schema))
            source.check_expansion(self.path, file.metadata.num_rows)
            for group in range(file.num_row_groups):
                n_rows = max(1, min(BATCH_ROWS, BATCH_BYTES // _longest(encoded, group, names)))
                for batch in file.iter_batches(n_rows, [group], names):
                    size += batch.nbytes
                    source.check_expansion(self.path, size)
                    yield batch
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path}: is damaged: {first_line(error)}.") from error


def _texts(schema: Any) -> list[str]:
    """The paths of text columns, also within lists."""
    columns = [schema.column(index) for index in range(len(schema))]
    return [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]


def _longest(encoded: Any, group: int, names: list[str]) -> int:
    """Bytes of the longest value in the dictionaries of a row group; 1 if there is none."""
    import pyarrow as pa
    from pyarrow import compute

    lengths = [1]
    for batch in encoded.iter_batches(1, [group], names):
        for column in batch.columns:
            while isinstance(column, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
                column = column.values
            if isinstance(column, pa.DictionaryArray) and len(column.dictionary):
                lengths.append(compute.max(compute.binary_length(column.dictionary)).as_py())
        break
    return max(lengths)
