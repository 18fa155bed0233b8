"""The rows of a leaderboard: runs grouped by their setting, with metrics over seeds, and the order of rows."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from recexp.metric.table import HEADLINE, MAIN, is_number, of_labels
from recexp.report import select
from recexp.report.protocol import protocol
from recexp.report.setting import name_of, settings
from recexp.report.statistics import Difference, Estimate, estimate
from recexp.run.record import Record


@dataclass(frozen=True)
class Row:
    """Runs that differ only in the seed."""

    name: str  # what differs, as "model=din trainer.learning_rate=0.001"
    setting: dict[str, Any]  # by short key, for the keys of the leaderboard that the row has
    records: list[Record]
    metrics: dict[str, Estimate]  # over the seeds of finished runs, by dotted name
    difference: Difference | None = None  # from the baseline; None for the baseline and if either lacks the metric


def grouped(records: list[Record]) -> tuple[list[str], list[Row]]:
    """The keys that differ, and one row per setting in the order of the records. Only finished runs give metrics."""
    all_settings = settings(records)
    groups: dict[str, list[Record]] = defaultdict(list)
    for record, setting in zip(records, all_settings, strict=True):
        groups[name_of(setting)].append(record)
    keys = list(dict.fromkeys(key for setting in all_settings for key in setting))
    by_name = {name_of(setting): setting for setting in all_settings}
    rows = [
        Row(name or f"model={members[0].config['model.name']}", by_name[name], members, _metrics(members))
        for name, members in groups.items()
    ]
    return keys, rows


def by_seed(records: list[Record], name: str) -> dict[int, float]:
    """A metric by seed. Several runs of one seed count once, by their mean."""
    values: dict[int, list[float]] = defaultdict(list)
    for record in records:
        if is_number(value := record.metrics.get(name)):
            values[record.config["seed"]].append(value)
    return {seed: fmean(repeated) for seed, repeated in values.items()}


def _metrics(records: list[Record]) -> dict[str, Estimate]:
    finished = [record for record in records if is_finished(record)]
    names = dict.fromkeys(name for record in finished for name in record.metrics)
    values = {name: by_seed(finished, name) for name in names}
    return {name: estimate(list(seeds.values())) for name, seeds in values.items() if seeds}


def headline_of_test(rows: Iterable[Row]) -> list[str]:
    """The headline metrics of labels in test, as test.auc, of whichever labels the rows have."""
    measured = dict.fromkeys(name for row in rows for name in row.metrics)
    labels = dict.fromkeys(name.partition("/")[2] for name in measured if name.startswith(f"test.{MAIN}/"))
    return [f"test.{name}" for name in of_labels(HEADLINE, labels)]


def ranked(rows: list[Row], key: str) -> list[Row]:
    """Rows by a metric's mean or a key's value, the best first; those that predict other things are kept apart.

    A mean over fewer seeds than the other rows have is not preferred to theirs: such rows come last.
    """
    kinds = [*dict.fromkeys(kind for row in rows if (kind := _kind(row))), None]
    few = _with_few_seeds(rows, key)
    return sorted(rows, key=lambda row: (kinds.index(_kind(row)), row.name in few, _rank(row, key)))


def _rank(row: Row, key: str) -> tuple[int, float, str]:
    value = row.metrics[key].mean if key in row.metrics else select.value(row.records[0], key)
    return select.rank(key, value)


def _kind(row: Row) -> Hashable:
    """What the row's runs predict; None if none of them has read its data."""
    return next((protocol(record) for record in row.records if record.events), None)


def on_seeds(rows: list[Row], key: str) -> list[str]:
    """Notes on rows that repeat a seed or have fewer than the others."""
    seeds = [[record.config["seed"] for record in row.records if is_finished(record)] for row in rows]
    repeats = sum(len(of_row) - len(set(of_row)) for of_row in seeds)
    few = [f"{row.name} ({row.metrics[key].n})" for row in rows if row.name in _with_few_seeds(rows, key)]
    return [
        *([f"Runs that repeat a seed of their row: {repeats}; a seed counts once, by its mean."] if repeats else []),
        *([f"Fewer seeds than the others, so ranked after them: {', '.join(few)}."] if few else []),
    ]


def _with_few_seeds(rows: list[Row], key: str) -> set[str]:
    """The names of the rows whose mean is over fewer seeds than most rows have, in a sweep those without a value too.

    If no row has as many, the most that one has is what counts.
    """
    seeds = {row.name: row.metrics[key].n for row in rows if key in row.metrics}
    counts = Counter(len({record.config["seed"] for record in row.records}) for row in rows)
    usual = max(counts, key=lambda n: (counts[n], n), default=0)
    most = max(seeds.values(), default=0)
    return {name for name, n in seeds.items() if n < min(usual, most)}


def is_finished(record: Record) -> bool:
    """True if a run has ended normally and has metrics."""
    return record.state == "finished" and bool(record.metrics)
