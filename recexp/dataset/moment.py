"""Date-times, and the units of the numbers that stand for them."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

MICROS = 1_000_000  # of a second


def are_moments(values: "pd.Series") -> bool:
    """Whether all are date-times or dates, of numpy or as Python objects."""
    from pandas.api import types

    objects = types.is_object_dtype(values) and types.infer_dtype(values) in ("datetime", "date")
    return objects or types.is_datetime64_any_dtype(values)


def since_1970(moments: "pd.Series", like: np.ndarray | None = None) -> np.ndarray:
    """Date-times in UTC as seconds or, if any has a fraction, as microseconds. like: times of the unit to use."""
    micros = micros_since_1970(moments)
    per_second = units_of_a_second(like) if like is not None else MICROS if (micros % MICROS).any() else 1
    if per_second >= MICROS:
        return micros * (per_second // MICROS)
    unit = MICROS // per_second
    return micros / unit if (micros % unit).any() else micros // unit


def micros_since_1970(moments: "pd.Series") -> np.ndarray:
    """Date-times in UTC as microseconds."""
    return moments.dt.tz_localize(None).astype("datetime64[us]").astype(np.int64).to_numpy()


def units_of_a_second(times: np.ndarray) -> int:
    """1, 1e3, 1e6 or 1e9: guesses the unit of times since 1970 from their size."""
    return 1000 ** int(np.searchsorted([1e11, 1e14, 1e17], np.abs(times).max(initial=0)))
