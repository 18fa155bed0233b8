"""Facts about a log: sizes, labels, times, repetitions, histories, and unseen users and items under each split.

N events; U users and I items, numbered from 1
"""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from recexp.dataset.cell import WORDS
from recexp.dataset.config import SplitConfig, SplitKind
from recexp.dataset.index import by_user_then_time, group_starts
from recexp.dataset.inspect.order import Order, order_of
from recexp.dataset.inspect.role import gaps
from recexp.dataset.log import user_offsets
from recexp.dataset.moment import micros_since_1970
from recexp.dataset.split import by_row, split

if TYPE_CHECKING:
    import pandas as pd

UNITS = {"seconds": 1e0, "milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9}
EARLIEST, LATEST = 3e8, 4e9  # seconds since 1970 that a log may hold: 1979 to 2096
SENTINELS = (0, -1)
PERCENTILES = (0, 10, 25, 50, 75, 90, 99, 100)
RATIOS = [0.8, 0.1, 0.1]
HEAVY = 3
SPANS = 40  # equal spans of time in which events are counted
SPLITS = (SplitKind.user_time, SplitKind.leave_last_out, SplitKind.time, SplitKind.random)


@dataclass(frozen=True, kw_only=True)
class Label:
    counts: dict[float, int]  # of each value, ascending
    wrong: int  # neither numbers nor words such as true
    binary: bool
    threshold: float | None  # the one that halves the events best
    share: float  # of events with label 1

    @property
    def mean(self) -> float:
        return sum(value * count for value, count in self.counts.items()) / max(1, sum(self.counts.values()))


@dataclass(frozen=True, kw_only=True)
class Time:
    unit: str  # of UNITS, `date-times`, or `numbers` that are no time since 1970
    first: float  # in seconds, or as given
    last: float
    wrong: int  # neither numbers nor date-times
    sentinels: dict[int, int] = field(default_factory=dict)  # how often 0 and -1 occur
    other_units: dict[str, int] = field(default_factory=dict)  # events in another unit than most
    tied: int = 0  # events that share user and time with another
    counts: tuple[int, ...] = ()  # events in each of SPANS equal spans from first to last


@dataclass(frozen=True, kw_only=True)
class Unseen:
    """Of the test rows of a split, the shares whose user or item no training row has."""

    rows: int
    user: float
    item: float


@dataclass(frozen=True, kw_only=True)
class LogFacts:
    rows: int
    users: int
    items: int
    missing: dict[str, dict[str, int]]  # by role, how often each word for a missing value occurs
    copies: int  # rows equal to an earlier one in user, item and time
    again: int  # events of a user with an item of an earlier event
    heavy_users: list[tuple[Any, int]]
    heavy_items: list[tuple[Any, int]]
    lengths: dict[int, int]  # events of a user, by percentile
    users_by_events: list[int]  # how many have 1, 2 to 3, 4 to 7 events and so on
    items_by_events: list[int]
    label: Label | None
    time: Time | None
    unseen: dict[str, Unseen]
    order: Order | None

    @property
    def density(self) -> float:
        return self.rows / (self.users * self.items)


def facts_of(columns: "dict[str, pd.Series]", time_format: str | None = None) -> LogFacts:
    """The facts of columns user and item, and of label and timestamp if present. Removes the columns from the dict."""
    rows = len(columns["user"])
    gaps_by_role = {role: gaps(column) for role, column in columns.items()}
    missing = {role: counts for role, counts in gaps_by_role.items() if counts}
    user, users = _codes(columns.pop("user"))
    item, items = _codes(columns.pop("item"))
    label = label_of(columns.pop("label")) if "label" in columns else None
    time, seconds = _time(columns.pop("timestamp"), time_format) if "timestamp" in columns else (None, None)
    order = by_user_then_time(user, np.zeros(rows, np.int8) if seconds is None else seconds)
    user, item = user[order], item[order]
    counts = [np.bincount(codes, minlength=len(names) + 1) for codes, names in ((user, users), (item, items))]
    moment = np.zeros(rows, np.int8) if seconds is None else seconds[order]
    before = group_starts(user, moment)
    if time is not None:
        time = replace(time, tied=_tied(before))
    lengths = np.percentile(counts[0][1:], PERCENTILES, method="lower").astype(int)
    first = _first_meetings(user, item, len(items))
    return LogFacts(
        rows=rows,
        users=len(users),
        items=len(items),
        missing=missing,
        copies=_copies(before, item) if time is not None else 0,
        again=rows - first,
        heavy_users=_heaviest(counts[0], users),
        heavy_items=_heaviest(counts[1], items),
        lengths=dict(zip(PERCENTILES, lengths.tolist(), strict=True)),
        users_by_events=by_doubling(counts[0][1:]),
        items_by_events=by_doubling(counts[1][1:]),
        label=label,
        time=time,
        unseen=_unseen(user, item, before, moment if time is not None else None, len(users), len(items)),
        order=order_of(user, item, len(items)) if time is not None else None,
    )


def by_doubling(counts: np.ndarray) -> list[int]:
    """How many of the counts (n,), all at least 1, are 1, 2 to 3, 4 to 7 and so on."""
    return np.bincount(np.frexp(counts)[1] - 1).tolist()


def label_of(values: "pd.Series") -> Label:
    import pandas as pd

    if pd.api.types.is_string_dtype(values) and set(values.drop_duplicates().str.lower()) <= set(WORDS):
        values = values.str.lower().map(WORDS)
    numbers = pd.Series(pd.to_numeric(values, errors="coerce")).astype(np.float64)
    unique, n_each = np.unique(numbers.dropna(), return_counts=True)
    counts = dict(zip(unique.tolist(), n_each.tolist(), strict=True))
    binary = set(counts) <= {0.0, 1.0}
    total, shares = sum(counts.values()), {}
    above = total
    for value, count in counts.items():
        shares[value] = above / max(1, total)
        above -= count
    threshold = 1.0 if binary else min(shares, key=lambda value: abs(shares[value] - 0.5), default=1.0)
    return Label(
        counts=counts,
        wrong=int(numbers.isna().sum()),
        binary=binary,
        threshold=None if binary else threshold,
        share=shares.get(threshold, 0.0),
    )


def _time(values: "pd.Series", time_format: str | None) -> tuple[Time, np.ndarray]:
    """Facts of the times, and the times themselves, where cells that are no times have the earliest one."""
    import pandas as pd

    numbers = None if time_format or values.dtype.kind == "M" else pd.to_numeric(values, errors="coerce")
    if numbers is None or 2 * int(numbers.isna().sum()) > len(numbers):
        return _date_times(values.astype(str) if time_format else values, time_format or "ISO8601")
    given = numbers.to_numpy()
    wrong = ~np.isfinite(given.astype(np.float64))
    given = given if not wrong.any() else np.where(wrong, np.nanmin(given), given)
    counts = {value: int((given == value).sum()) for value in SENTINELS}
    sentinels = {value: count for value, count in counts.items() if count}
    moments = given[~np.isin(given, SENTINELS)] if sentinels else given
    units = {
        unit: int(((moments >= EARLIEST * factor) & (moments < LATEST * factor)).sum())
        for unit, factor in UNITS.items()
    }
    unit = max(units, key=lambda name: units[name])
    if not len(moments) or units[unit] < len(moments) / 2:
        first, last = float(given.min()), float(given.max())
        time = Time(unit="numbers", first=first, last=last, wrong=int(wrong.sum()), sentinels=sentinels,
                    counts=_over_time(given))  # fmt: skip
        return time, given
    inside = moments[(moments >= EARLIEST * UNITS[unit]) & (moments < LATEST * UNITS[unit])] / UNITS[unit]
    others = {name: count for name, count in units.items() if count and name != unit}
    time = Time(unit=unit, first=float(inside.min()), last=float(inside.max()), wrong=int(wrong.sum()),
                sentinels=sentinels, other_units=others, counts=_over_time(inside))  # fmt: skip
    return time, given


def _date_times(values: "pd.Series", time_format: str) -> tuple[Time, np.ndarray]:
    """As `_time`, in seconds."""
    import pandas as pd

    dates = pd.to_datetime(values, format=time_format, utc=True, errors="coerce")
    wrong, seconds = dates.isna().to_numpy(), micros_since_1970(dates) / 1e6
    seconds[wrong] = seconds[~wrong].min(initial=0)
    time = Time(unit="date-times", first=float(seconds.min()), last=float(seconds.max()), wrong=int(wrong.sum()),
                counts=_over_time(seconds[~wrong]))  # fmt: skip
    return time, seconds


def _over_time(moments: np.ndarray) -> tuple[int, ...]:
    return tuple(np.histogram(moments, SPANS)[0].tolist())


def _codes(values: "pd.Series") -> tuple[np.ndarray, Any]:
    """(N,) int32 numbers of the ids from 1, and the ids; a missing id is one of its own."""
    import pandas as pd

    codes, unique = pd.factorize(values, use_na_sentinel=False)
    return (codes + 1).astype(np.int32), unique


def _tied(before: np.ndarray) -> int:
    """Events in groups of two or more. before: (N,) start of each event's group."""
    sizes = np.bincount(before, minlength=1)
    return int(sizes[sizes > 1].sum())


def _copies(before: np.ndarray, item: np.ndarray) -> int:
    """Events whose item occurs earlier in their group of equal user and time."""
    keys = before.astype(np.int64) * (int(item.max(initial=0)) + 1) + item
    shared = np.bincount(before, minlength=len(before))[before] > 1  # (N,) the group holds another event
    return int(shared.sum()) - len(np.unique(keys[shared]))


def _first_meetings(user: np.ndarray, item: np.ndarray, n_items: int) -> int:
    """How many pairs of user and item there are."""
    import pandas as pd

    return len(pd.unique(user.astype(np.int64) * (n_items + 1) + item))


def _heaviest(counts: np.ndarray, names: Any) -> list[tuple[Any, int]]:
    """The names that occur most, and how often. counts: by number, from 1."""
    top = np.argsort(-counts[1:], kind="stable")[:HEAVY]
    return [(names[n], int(counts[1 + n])) for n in top]


def _unseen(
    user: np.ndarray, item: np.ndarray, before: np.ndarray, time: np.ndarray | None, n_users: int, n_items: int
) -> dict[str, Unseen]:
    """By split kind; only of a random split if there are no times. Events are sorted by user, then time."""
    by_kind = {}
    for kind in SPLITS if time is not None else (SplitKind.random,):
        if kind is SplitKind.random:
            splits = by_row(RATIOS, len(user))
        else:
            assert time is not None
            config = SplitConfig(kind=kind, ratios=RATIOS, column=None)
            splits = split(config, user_offsets(user, n_users + 1), before, time)
        train, test = splits == 0, splits == 2
        shares = [
            float((np.bincount(codes[train], minlength=size + 1)[codes[test]] == 0).mean()) if test.any() else 0.0
            for codes, size in ((user, n_users), (item, n_items))
        ]
        by_kind[kind.name] = Unseen(rows=int(test.sum()), user=shares[0], item=shares[1])
    return by_kind
