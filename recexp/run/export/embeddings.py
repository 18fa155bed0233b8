"""The vectors of users and items by raw id, for a search of nearest neighbours elsewhere."""

from pathlib import Path

import pandas as pd
from torch import nn

from recexp.dataset.encoder import Encoder
from recexp.dataset.field import Categorical
from recexp.dataset.schema import FIRST
from recexp.error import ConfigError
from recexp.layer.lookup import Table
from recexp.run.table import table_writer


def write_embeddings(model: nn.Module, encoder: Encoder, folder: Path) -> None:
    """Writes user.parquet and item.parquet, as far as the model has vectors; raises ConfigError if it has none."""
    frames = {side: embeddings(model, encoder, side) for side in ("user", "item")}
    if all(frame is None for frame in frames.values()):
        raise ConfigError("--embeddings: the model has no embeddings of users or items.")
    for side, frame in frames.items():
        if frame is not None:
            with table_writer(folder / f"{side}.parquet") as put:
                put(frame)


def embeddings(model: nn.Module, encoder: Encoder, side: str) -> pd.DataFrame | None:
    """The raw ids of users or items that training has seen and, in columns 0 to D - 1, their vectors.

    Where a model has several tables, as for first-order weights too, the widest one counts. None if it has none.
    """
    fields = getattr(encoder, side).fields
    tables = [table for table in model.modules() if isinstance(table, Table) and _is_of(table, side)]
    known = fields.get(side)
    if not tables or not isinstance(known, Categorical):
        return None
    weight = max(tables, key=lambda table: table.embedding_dim).weight  # the id comes first among the side's fields
    frame = pd.DataFrame(weight.detach().cpu().numpy()[FIRST : FIRST + known.size])
    return frame.set_axis(list(map(str, frame.columns)), axis=1).assign(id=known.vocabulary)[["id", *map(str, frame)]]


def _is_of(table: Table, side: str) -> bool:
    """True if it holds the ids of a side, not only other fields of that side."""
    return table.origin is not None and table.origin.side == side and FIRST in table.origin.ids
