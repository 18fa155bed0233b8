"""Figures of runs by dotted name: which are better, how many digits people want to see."""

import math
from typing import Any, TypeGuard

QUALITY = ("test.auc", "test.gauc", "test.logloss")
PARTS = ("train", "valid", "test", "oracle")
COST = ("parameters", "seconds", "peak_memory_mb")
MORE_IS_BETTER = {**dict.fromkeys(COST, False), "samples_per_second": True, "share_of_oracle": True}
COUNTS = ("parameters", "epochs", "best_epoch", "peak_memory_mb", "samples_per_second")


def more_is_better(name: str) -> bool | None:
    """None where neither more nor less is."""
    from recexp.metric.binary import HIGHER_IS_BETTER  # numpy: not for --help

    part, _, last = name.rpartition(".")
    if part == "train":
        return False  # a loss
    return HIGHER_IS_BETTER.get(last) if part else MORE_IS_BETTER.get(name)


def is_figure(name: str) -> bool:
    """Whether a dotted name is that of something measured, not of the configuration."""
    return name.partition(".")[0] in PARTS or name in MORE_IS_BETTER or name in COUNTS


def is_number(value: Any) -> TypeGuard[float]:
    """Whether it is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def shown(name: str, value: float | None, sign: str = "") -> str:
    """A figure's value as in tables; sign: "+" for differences."""
    if value is None:
        return "-"
    if name in COUNTS:
        return f"{value:{sign}z,.0f}"
    return f"{value:{sign}z,.1f}" if name == "seconds" else f"{value:{sign}z.4f}"
