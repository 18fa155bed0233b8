"""Lines that tell the user how values of the source were read."""

from collections.abc import Iterator, Mapping

import numpy as np

from recexp.dataset.config import DatasetConfig
from recexp.dataset.encoder import Encoder
from recexp.dataset.facts import unknown_rates
from recexp.dataset.field import Hash, Numeric, Vector
from recexp.dataset.index import Indexed
from recexp.dataset.log import Log, Table
from recexp.dataset.raw import Raw


def interpreted(log: Table, encoder: Encoder, config: DatasetConfig) -> Iterator[str]:
    """Lines about times, and about values that training does not tell apart."""
    columns = getattr(config, "columns", None)
    if isinstance(log, Log) and columns is not None and columns.timestamp is None:
        yield "there is no column of times: the order of the rows is the order of the events"
    if config.min_count > 1:
        sides = {side: encoders.side for side, encoders in vars(encoder).items()}
        rates = [f"{name} {rate:.1%}" for name, rate in unknown_rates(log, log.rows("train"), sides) if rate]
        if rates:
            yield f"missing in train, or rarer than dataset.min_count={config.min_count}: {', '.join(rates)}"
    fields = {
        f"{side}.{name}": field for side, encoders in vars(encoder).items() for name, field in encoders.fields.items()
    }
    alike = [
        name for name, field in fields.items() if isinstance(field, Numeric | Vector) and not np.any(field.deviation)
    ]
    if alike:
        yield f"no two different numbers in train, so of no use: {', '.join(alike)}"
    hashed = [f"{name} {field.n_values:,}" for name, field in fields.items() if isinstance(field, Hash)]
    if hashed:
        yield f"values in train, hashed into {config.n_buckets:,} buckets each: {', '.join(hashed)}"


def without_features(raw: Raw, log: Table, joined: Mapping[str, Indexed]) -> Iterator[str]:
    """Lines that tell how many users and items, in how many rows, have no features."""
    import pandas as pd

    for side, (_, features) in raw.by_id.items():
        index, raw_ids = joined.get(side) or (getattr(log, side), getattr(log, f"{side}s").raw)
        absent = np.append(False, ~pd.Index(raw_ids[1:]).isin(features.index))
        if absent.any():
            rows = f"{absent[index].sum():,} of {len(index):,} rows"
            ids = f"{absent.sum():,} of {len(absent) - 1:,} {side}s"
            yield f"{ids}, in {rows}, have no features: their file lacks them"
