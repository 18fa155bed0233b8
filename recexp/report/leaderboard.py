"""A leaderboard: runs grouped by the settings in which they differ, other than the seed.

Rows are ranked by the validation split, and test is shown: a row chosen by its test metric would be flattered by it.
"""

import math
from collections import Counter
from dataclasses import dataclass, replace

from recexp.error import ConfigError, RunError, choices
from recexp.metric.table import COSTS, MAIN, higher_is_better
from recexp.report import select
from recexp.report.protocol import history_notes, mixture, protocol
from recexp.report.row import Row, by_seed, grouped, headline_of_test, is_finished, on_seeds, ranked
from recexp.report.setting import short, unique_values
from recexp.report.statistics import UNTESTED, Difference, difference, holm
from recexp.run.record import Record


@dataclass(frozen=True)
class Leaderboard:
    """Rows, best on valid first unless sorted otherwise, and notes for their reader."""

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
    finished = [record for record in records if is_finished(record)]
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
    baseline = None if mixed else ranked(rows, chooser)[0]
    if choice.baseline:
        baseline = _named(rows, choice.baseline, metric)
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


def _on_valid(metric: str, rows: list[Row]) -> str:
    """The metric on the validation split, by which rows are chosen; the metric itself if no run has it there."""
    split, _, name = metric.partition(".")
    on_valid = f"valid.{name}"
    return on_valid if split == "test" and any(on_valid in row.metrics for row in rows) else metric


def _columns(
    keys: list[str], rows: list[Row], first: list[str], names: list[str] | None, known: list[str]
) -> tuple[list[str], list[str]]:
    """Keys and metrics to show: `first`, and those named or else all keys and the usual metrics that differ."""
    if names is None:
        usual = [*headline_of_test(rows), *COSTS]
        return keys, [*first, *(name for name in usual if name not in first and _differs(name, rows))]
    full = [select.resolve("--columns", name, known) for name in names]
    metrics = [name for name in full if any(name in row.metrics for row in rows)]
    named_keys = [short(key) for key in full if key not in metrics]
    return named_keys or keys, list(dict.fromkeys([*first, *metrics]))


def _differs(name: str, rows: list[Row]) -> bool:
    means = {row.metrics[name].mean if name in row.metrics else None for row in rows}
    return len(means) > 1 or (len(rows) == 1 and None not in means)


def _showing(row: Row, keys: list[str]) -> Row:
    """The row with a setting of just these keys; several values of one key, such as seeds, become a list."""
    setting = {}
    for key in keys:
        values = [row.setting[key]] if key in row.setting else unique_values(row.records, key)
        if values:
            setting[key] = values[0] if len(values) == 1 else values
    return replace(row, setting=setting)


def _named(rows: list[Row], name: str, metric: str) -> Row:
    """The one row of that name, or with these words or values in its name. Raises ConfigError."""
    words = set(name.split())
    matches = [row for row in rows if row.name == name] or [row for row in rows if words <= _words(row)]
    if len(matches) != 1:
        why = f"are words of {len(matches)} rows; name one" if matches else "is no row"
        raise ConfigError(f"--baseline {name}: {why}. {choices(name, [row.name for row in matches or rows])}")
    if metric not in matches[0].metrics:
        raise ConfigError(f"--baseline {name}: has no {metric}.")
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
    same = protocol(baseline.records[0])  # metrics on different data cannot be compared
    others = [row.name for row in rows if row is not baseline and protocol(row.records[0]) == same]
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


def _left_out(records: list[Record]) -> list[str]:
    left = [record for record in records if not is_finished(record)]
    return [f"Left out: {_states(left)}."] if left else []


def _states(records: list[Record]) -> str:
    counts = Counter(record.state for record in records)
    return ", ".join(f"{n} {state}" for state, n in counts.items()) or "no run at all"


def _warnings(records: list[Record]) -> list[str]:
    return list(dict.fromkeys(f"Data: {warning}" for record in records for warning in record.warnings))
