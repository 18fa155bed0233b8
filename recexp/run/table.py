"""Tables that are written piece by piece into a CSV or Parquet file."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recexp.storage import replacing

if TYPE_CHECKING:
    import pandas as pd

PIECE = 100_000  # rows turned into text at once


@contextlib.contextmanager
def table_writer(path: Path) -> "Iterator[Callable[[pd.DataFrame], None]]":
    """Appends frames of the same columns to a new file, which takes the place of `path` when the block ends."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with replacing(path) as file, contextlib.ExitStack() as stack:
        writer: Any = None

        def put(frame: "pd.DataFrame") -> None:
            nonlocal writer
            if path.suffix == ".csv":
                for start in range(0, len(frame), PIECE):
                    piece = frame.iloc[start : start + PIECE]
                    file.write(piece.to_csv(index=False, header=writer is None).encode())
                    writer = file
                return
            table = pa.Table.from_pandas(frame, preserve_index=False)
            if writer is None:
                writer = stack.enter_context(pq.ParquetWriter(file, table.schema))
            writer.write_table(table)

        yield put
