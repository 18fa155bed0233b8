"""A leaderboard: runs grouped by the settings in which they differ, other than the seed.

The validation split ranks, and test stands beside it: a row chosen by its test metric would be flattered by it.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from recexp.error import ConfigError, RunError, choices
from recexp.metric.table import COSTS, HEADLINE, MAIN, higher_is_better, is_number, of_labels
from recexp.report import select
from recexp.report.protocol import history_notes, mixture, protocol
from recexp.report.setting import name_of, settings, short, unique_values
from recexp.report.statistics import UNTESTED, Difference, Estimate, difference, estimate, holm
from recexp.run.record import Record


@dataclass(frozen=True)
class Row:
    """Runs that differ only in the seed."""

    name: str  # what differs, as "model=din trainer.learning_rate=0.001"
    setting: dict[str, Any]  # by short key, for the keys of the leaderboard that the row has
    records: list[Record]
    metrics: dict[str, Estimate]  # over the seeds of finished runs, by dotted name
    difference: Difference | None = None  # from the baseline; None for the baseline and if either lacks the metric


@dataclass(frozen=True)
class Leaderboard:
    """Rows, best on valid first unless sorted otherwise, and what their reader must know."""

    metric: str  # by which rows are compared
    higher_is_better: bool
    ranked_by: str  # the metric or key that orders the rows
    keys: list[str]  # of the configuration, by short name
    columns: list[str]  # metrics shown: of valid, if there is one, then the metric, then others
    rows: list[Row]
    baseline: Row | None  # None if there is nothing to compare
    notes: list[str]

    @property
    def order(self) -> str:
        """How the rows are ordered, in a sentence."""
        if higher_is_better(self.ranked_by) is None:
            return f"Sorted by {self.ranked_by}."
        if self.ranked_by.startswith("test."):
            return f"Ranked by test: {self.ranked_by} chose the order, and flatters the rows on top."
        return f"Ranked by {self.ranked_by}, the mean over seeds."


@dataclass(frozen=True)
class Choice:
    """What the user chose; None means the default."""

    metric: str | None = None  # default: test.<the metric that the runs monitored>
    sort: str | None = None  # a metric or key; default: the metric on valid
    columns: list[str] | None = None  # metrics and keys; default: those that differ
    baseline: str | None = None  # a row's name, or words of it; default: the row that is best on valid
    mix: bool = False  # whether runs that predict different things may share the table


def leaderboard(records: list[Record], choice: Choice) -> Leaderboard:
    """The leaderboard of the finished runs.

    Raises RunError if there is none or, unless asked to mix, if they predict different things; ConfigError for an
    unknown key or baseline.
    """
    finished = [record for record in records if _finished(record)]
    if not finished:
        raise RunError(f"no finished run here ({_states(records)}).")
    mixed = mixture(finished)
    if mixed and not choice.mix:
        raise RunError(f"{mixed} Choose by --filter, or let them share a table by --mix.")
    known = select.known_keys(finished)
    metric = select.resolve("--metric", choice.metric, known) if choice.metric else _monitored(finished, known)
    direction = _direction(metric, known)
    keys, rows = grouped(finished)
    chooser = _on_valid(metric, rows)
    ranked_by = select.resolve("--sort", choice.sort, known, "valid") if choice.sort else chooser
    keys, columns = _columns(keys, rows, list(dict.fromkeys([chooser, metric])), choice.columns, known)
    rows = [_showing(row, keys) for row in rows]
    baseline = _named(rows, choice.baseline, metric) if choice.baseline else None if mixed else ranked(rows, chooser)[0]
    compared: list[str] = []
    if baseline:
        rows, compared = _compared(rows, baseline, metric, selected=choice.baseline is None)
    rows = ranked(rows, ranked_by)
    return Leaderboard(
        metric=metric,
        higher_is_better=direction,
        ranked_by=ranked_by,
        keys=keys,
        columns=columns,
        rows=rows,
        baseline=baseline if any(row.difference for row in rows) else None,
        notes=[
            *_left_out(records),
            *([f"Mixed by request: {mixed} They share no best."] if mixed else []),
            *history_notes(finished),
            *_warnings(finished),
            *on_seeds(rows, ranked_by),
            *compared,
        ],
    )


def ranked(rows: list[Row], key: str) -> list[Row]:
    """Rows by a metric's mean or a key's value, the best first; those that predict other things are kept apart.

    A mean over fewer seeds than the other rows have is not preferred to theirs: such rows come last.
    """
    kinds = [*dict.fromkeys(kind for row in rows if (kind := _kind(row))), None]
    few = _with_few_seeds(rows, key)
    return sorted(rows, key=lambda row: (kinds.index(_kind(row)), row.name in few, _rank(row, key)))


def _kind(row: Row) -> Hashable:
    """What the row's runs predict; None if none of them has read its data."""
    return next((protocol(record) for record in row.records if record.events), None)


def on_seeds(rows: list[Row], key: str) -> list[str]:
    """Notes on rows that repeat a seed or have fewer than the others."""
    seeds = [[record.config["seed"] for record in row.records if _finished(record)] for row in rows]
    repeats = sum(len(of_row) - len(set(of_row)) for of_row in seeds)
    few = [f"{row.name} ({row.metrics[key].n})" for row in rows if row.name in _with_few_seeds(rows, key)]
    return [
        *([f"Runs that repeat a seed of their row: {repeats}; a seed counts once, by its mean."] if repeats else []),
        *([f"Fewer seeds than the others, so ranked after them: {', '.join(few)}."] if few else []),
    ]


def _with_few_seeds(rows: list[Row], key: str) -> set[str]:
    """The names of the rows whose mean is over fewer seeds than that of most rows."""
    seeds = {row.name: row.metrics[key].n for row in rows if key in row.metrics}
    counts = Counter(seeds.values())
    usual = max(counts, key=lambda n: (counts[n], n), default=0)
    return {name for name, n in seeds.items() if n < usual}


def _on_valid(metric: str, rows: list[Row]) -> str:
    """The metric on the validation split, by which rows are chosen; the metric itself if no run has it there."""
    split, _, name = metric.partition(".")
    on_valid = f"valid.{name}"
    return on_valid if split == "test" and any(on_valid in row.metrics for row in rows) else metric


def grouped(records: list[Record]) -> tuple[list[str], list[Row]]:
    """The keys that differ, and one row per setting in the order of the records. Only finished runs give metrics."""
    own = settings(records)
    groups: dict[str, list[Record]] = defaultdict(list)
    for record, setting in zip(records, own, strict=True):
        groups[name_of(setting)].append(record)
    keys = list(dict.fromkeys(key for setting in own for key in setting))
    by_name = {name_of(setting): setting for setting in own}
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
    finished = [record for record in records if _finished(record)]
    names = dict.fromkeys(name for record in finished for name in record.metrics)
    values = {name: by_seed(finished, name) for name in names}
    return {name: estimate(list(seeds.values())) for name, seeds in values.items() if seeds}


def _columns(
    keys: list[str], rows: list[Row], first: list[str], typed: list[str] | None, known: list[str]
) -> tuple[list[str], list[str]]:
    """Keys and metrics to show: `first`, and those typed or else all keys and the usual metrics that differ."""
    if typed is None:
        usual = [*headline_of_test(rows), *COSTS]
        return keys, [*first, *(name for name in usual if name not in first and _differs(name, rows))]
    full = [select.resolve("--columns", name, known) for name in typed]
    metrics = [name for name in full if any(name in row.metrics for row in rows)]
    typed_keys = [short(key) for key in full if key not in metrics]
    return typed_keys or keys, list(dict.fromkeys([*first, *metrics]))


def headline_of_test(rows: Iterable[Row]) -> list[str]:
    """The headline metrics of labels in test, as test.auc, of whichever labels the rows have."""
    measured = dict.fromkeys(name for row in rows for name in row.metrics)
    labels = dict.fromkeys(name.partition("/")[2] for name in measured if name.startswith(f"test.{MAIN}/"))
    return [f"test.{name}" for name in of_labels(HEADLINE, labels)]


def _differs(name: str, rows: list[Row]) -> bool:
    means = {row.metrics[name].mean if name in row.metrics else None for row in rows}
    return len(means) > 1 or (len(rows) == 1 and None not in means)


def _showing(row: Row, keys: list[str]) -> Row:
    """The row with a setting of just these keys; several values of one key, such as seeds, become a list."""
    values = {key: [row.setting[key]] if key in row.setting else unique_values(row.records, key) for key in keys}
    return replace(row, setting={key: own[0] if len(own) == 1 else own for key, own in values.items() if own})


def _rank(row: Row, key: str) -> tuple[int, float, str]:
    value = row.metrics[key].mean if key in row.metrics else select.value(row.records[0], key)
    return select.rank(key, value)


def _named(rows: list[Row], typed: str, metric: str) -> Row:
    """The one row of that name, or with these words or values in its name. Raises ConfigError."""
    words = set(typed.split())
    matches = [row for row in rows if row.name == typed] or [row for row in rows if words <= _words(row)]
    if len(matches) != 1:
        why = f"are words of {len(matches)} rows; name one" if matches else "is no row"
        raise ConfigError(f"--baseline {typed}: {why}. {choices(typed, [row.name for row in matches or rows])}")
    if metric not in matches[0].metrics:
        raise ConfigError(f"--baseline {typed}: has no {metric}.")
    return matches[0]


def _words(row: Row) -> set[str]:
    words = row.name.split()
    return {*words, *(word.partition("=")[2] for word in words)}


def _compared(rows: list[Row], baseline: Row, metric: str, selected: bool) -> tuple[list[Row], list[str]]:
    """The rows with their difference from the baseline, and notes on it.

    A baseline selected by the metric itself could have been any row, so all pairs count as compared.
    """
    values = {row.name: by_seed(row.records, metric) for row in rows}
    base = values[baseline.name]
    asked = protocol(baseline.records[0])  # metrics on different data cannot be compared
    others = [row.name for row in rows if row is not baseline and protocol(row.records[0]) == asked]
    differences = {name: difference(values[name], base) for name in others if values[name] and base}
    p = {name: change.p for name, change in differences.items() if change.p is not None}
    n_tests = math.comb(sum(len(seeds) > 1 for seeds in values.values()), 2) if selected else len(p)
    for name, corrected in zip(p, holm(list(p.values()), n_tests), strict=True):
        differences[name] = replace(differences[name], p_corrected=corrected)
    rows = [row if row is baseline else replace(row, difference=differences.get(row.name)) for row in rows]
    return rows, _on_differences(baseline.name, list(differences.values()), n_tests, selected)


def _on_differences(baseline: str, differences: list[Difference], n_tests: int, selected: bool) -> list[str]:
    notes = []
    if any(change.p is not None for change in differences):
        many = f"{n_tests:,} comparisons" if n_tests > 1 else "one comparison"
        notes.append(f"p: difference to {baseline} over seeds, corrected by Holm for {many}.")
        if selected and n_tests > 1:
            notes.append(
                "The baseline was chosen by the same runs, so all pairs count; --baseline names one beforehand."
            )
    if alone := sum(change.pairing == UNTESTED for change in differences):
        notes.append(f"Rows without p: {alone}; one seed, there or in {baseline}, does not tell how seeds vary.")
    return notes


def _monitored(records: list[Record], known: list[str]) -> str:
    """The test metric that all runs monitored, or the main one if they monitored different metrics.

    Raises ConfigError if there is no main one, as of rankings.
    """
    monitors = list(dict.fromkeys(str(record.config.get("trainer.monitor")) for record in records))
    if len(monitors) == 1:
        return f"test.{monitors[0]}"
    try:
        return select.resolve("--metric", MAIN, known)
    except ConfigError:
        raise ConfigError(
            f"--metric: the runs monitored {', '.join(monitors)}; name one, as in --metric {monitors[0]}."
        ) from None


def _direction(metric: str, known: list[str]) -> bool:
    direction = higher_is_better(metric)
    if direction is None:
        allowed = [name for name in known if higher_is_better(name) is not None]
        raise ConfigError(
            f"--metric {metric}: is no metric of which higher, or lower, is better. {choices(metric, allowed)}"
        )
    return direction


def _finished(record: Record) -> bool:
    return record.state == "finished" and bool(record.metrics)


def _left_out(records: list[Record]) -> list[str]:
    left = [record for record in records if not _finished(record)]
    return [f"Left out: {_states(left)}."] if left else []


def _states(records: list[Record]) -> str:
    counts = Counter(record.state for record in records)
    return ", ".join(f"{n} {state}" for state, n in counts.items()) or "no run at all"


def _warnings(records: list[Record]) -> list[str]:
    return list(dict.fromkeys(f"Data: {warning}" for record in records for warning in record.warnings))
