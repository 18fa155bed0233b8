"""The user's own log or table in Parquet files."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from recexp.dataset import frame
from recexp.dataset.reader import source
from recexp.dataset.reader.arrow import first_rows, to_frame
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
        return to_frame(self.path, table, self.multi_separator)

    def head(self, names: list[str], n_rows: int) -> "pd.DataFrame":
        """The first rows, as many as asked for or somewhat more."""
        batches = self._open().iter_batches(batch_size=n_rows, columns=names)
        return to_frame(self.path, first_rows(batches, n_rows), self.multi_separator)

    def location(self, row: int) -> str:
        return f"{self.path}, row {row + 1}"

    def _open(self) -> Any:
        import pyarrow as pa
        from pyarrow import parquet

        if (kind := source.format_of(self.path)) != "parquet":
            advice = "; dataset=csv reads text and compressed text" if kind in ("text", *source.READ) else ""
            raise DataError(f"{self.path}: is no Parquet file but {kind}{advice}.")
        try:
            return parquet.ParquetFile(source.stored(self.path) if source.archive_of(self.path) else self.path)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path}: is no Parquet file: {str(error).splitlines()[0]}.") from error

    def _check_size(self, metadata: Any) -> None:
        """Raises DataError if the file stands for more than can be of use."""
        groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
        source.check_expansion(self.path, max(metadata.num_rows, sum(group.total_byte_size for group in groups)))
