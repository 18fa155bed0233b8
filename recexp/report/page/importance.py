"""Which configuration keys the metric depends on: the share of its variance that each key explains by itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recexp.metric.table import format_value
from recexp.report.leaderboard import Leaderboard
from recexp.report.page.element import Html, element, join
from recexp.report.page.plot import share_bar
from recexp.report.row import by_seed
from recexp.report.setting import FULL, text

MIN_RUNS, MIN_GROUP = 10, 3  # runs needed per key and per group; fewer say nothing
N_VALUES, N_BINS = 6, 4  # keys with more numbers than N_VALUES are binned
EXPLAINED = (
    "Of each key alone: the share of the variance of {metric} over runs that lies between the runs' groups by its "
    "value, less what as many groups by chance would show (epsilon squared, 0 where nothing is left). Numbers of more "
    f"than {N_VALUES} values are put into {N_BINS} bins of equally many runs. Runs without the key are left out of its "
    f"line, and so are keys of fewer than {MIN_RUNS} runs or {MIN_GROUP} runs a group. Shares of keys that were "
    "varied together overlap, and what two keys do only jointly is in neither. Keys that split the runs alike cannot "
    "be told apart and share a line."
)


@dataclass(frozen=True)
class Group:
    """Runs with one value, or with values in one bin."""

    label: str
    mean: float
    n: int


@dataclass(frozen=True)
class Influence:
    """The share explained by one key, or by several that group the runs in the same way."""

    keys: list[str]
    share: float
    n: int
    groups: list[Group]


def importance(board: Leaderboard) -> Html | None:
    """One line per key, the most important first. None if fewer than two keys vary over enough runs."""
    explaining = influences(board)
    if len(explaining) < 2:
        return None
    head = element(
        "tr", *(element("th", name, scope="col") for name in ("key", "share explained", "n", "mean by value"))
    )
    table = element(
        "table",
        element("thead", head),
        element("tbody", *(_line(board.metric, influence) for influence in explaining)),
        class_="importance",
    )
    return join(element("p", EXPLAINED.format(metric=board.metric), class_="note"), table)


def influences(board: Leaderboard) -> list[Influence]:
    """The influence of each key that enough runs have, the greatest share first."""
    runs = [(row.records[0].config, value) for row in board.rows
            for value in by_seed(row.records, board.metric).values()]  # fmt: skip
    by_grouping: dict[tuple[tuple[int, int], ...], Influence] = {}
    for key in board.keys:
        full = FULL.get(key, key)
        with_key = [i for i, (config, _) in enumerate(runs) if full in config]
        labels, index = grouped([runs[i][0][full] for i in with_key])
        values = np.array([runs[i][1] for i in with_key])
        if len(labels) < 2 or len(with_key) < max(MIN_RUNS, MIN_GROUP * len(labels)):
            continue
        grouping = tuple(zip(with_key, _numbered(index), strict=True))
        if grouping in by_grouping:
            by_grouping[grouping].keys.append(key)
            continue
        groups = [
            Group(label, float(values[index == g].mean()), int((index == g).sum())) for g, label in enumerate(labels)
        ]
        by_grouping[grouping] = Influence([key], explained(values, index), len(with_key), groups)
    return sorted(by_grouping.values(), key=lambda influence: -influence.share)


def explained(values: np.ndarray, index: np.ndarray) -> float:
    """Epsilon squared of Kelley (1935): 1 - (within / (n - k)) / (total / (n - 1)), at least 0.

    values (n,); index (n,): the group of each value, 0 to k - 1, no group empty; n > k.
    """
    n, k = len(values), int(index.max()) + 1
    means = np.bincount(index, values) / np.bincount(index)
    within = np.sum((values - means[index]) ** 2) / (n - k)
    total = np.sum((values - values.mean()) ** 2) / (n - 1)
    return max(0.0, float(1 - within / total)) if total > 0 else 0.0


def grouped(values: Sequence[Any]) -> tuple[list[str], np.ndarray]:
    """The groups' labels in ascending order, and the group of each value, (n,). Many different numbers are binned."""
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    unique = sorted(set(values)) if numeric else sorted({text(value) for value in values})
    if not numeric or len(unique) <= N_VALUES:
        group = {value: i for i, value in enumerate(unique)}
        return [text(value) for value in unique], np.array([group[v if numeric else text(v)] for v in values], int)
    array = np.array(values, float)
    edges = np.unique(np.quantile(array, np.arange(1, N_BINS) / N_BINS))
    _, index = np.unique(np.searchsorted(edges, array, side="right"), return_inverse=True)  # no bin is empty
    bins = [array[index == g] for g in range(index.max() + 1)]
    return [f"{bin.min():.3g} to {bin.max():.3g}" for bin in bins], index


def _numbered(index: np.ndarray) -> list[int]:
    """Groups numbered by first appearance, so that equal groupings compare equal."""
    numbers: dict[int, int] = {}
    return [numbers.setdefault(int(group), len(numbers)) for group in index]


def _line(metric: str, influence: Influence) -> Html:
    groups = [element("span", element("span", f"{group.label} ", class_="key"), format_value(metric, group.mean),
                      element("small", f" ({group.n})"), class_="group") for group in influence.groups]  # fmt: skip
    keys = [element("div", key) for key in influence.keys]
    return element(
        "tr",
        element("th", *keys, scope="row"),
        element("td", share_bar(influence.share, f"{influence.share:.0%}")),
        element("td", influence.n, class_="number"),
        element("td", *groups, class_="groups"),
    )
