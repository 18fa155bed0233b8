"""A leaderboard: runs grouped by what differs in their configurations, seeds apart."""

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from recexp.error import ConfigError, RunError, choices
from recexp.metric.figure import COST, QUALITY, is_number, more_is_better
from recexp.report import select
from recexp.report.protocol import mixture, protocol
from recexp.report.setting import distinct, name_of, settings, short
from recexp.report.statistics import UNTESTED, Difference, Estimate, difference, estimate, holm
from recexp.run.record import Record


@dataclass(frozen=True)
class Row:
    """Runs that differ in the seed alone."""

    name: str  # what differs, as "model=din trainer.learning_rate=0.001"
    setting: dict[str, Any]  # short key: value, for the keys of the leaderboard that the row has
    records: list[Record]
    figures: dict[str, Estimate]  # over seeds, by dotted name
    difference: Difference | None = None  # to the baseline; None for itself, and where either lacks the metric


@dataclass(frozen=True)
class Leaderboard:
    """Rows, best first unless sorted otherwise, and what their reader must know."""

    metric: str
    higher_is_better: bool
    keys: list[str]  # of the configuration, shown by short name
    columns: list[str]  # figures shown, the metric first
    rows: list[Row]
    baseline: Row | None  # None where there is nothing to compare
    notes: list[str]


@dataclass(frozen=True)
class Choice:
    """What to make of the runs; None is the default."""

    metric: str | None = None  # test.<the metric that the runs monitored>
    sort: str | None = None  # a figure or key; the metric
    columns: list[str] | None = None  # figures and keys; those that differ
    baseline: str | None = None  # a row's name, or words of it; the best row
    mix: bool = False  # whether runs that predict different things may share the table


def leaderboard(records: list[Record], choice: Choice) -> Leaderboard:
    """The leaderboard of the finished runs.

    Raises RunError where there is none or, unless asked to mix, they predict different things; ConfigError for an
    unknown key or baseline.
    """
    finished = [record for record in records if _finished(record)]
    if not finished:
        raise RunError(f"no finished run here ({_states(records)}).")
    mixed = mixture(finished)
    if mixed and not choice.mix:
        raise RunError(f"{mixed} Choose by --filter, or let them share a table by --mix.")
    known = select.known_keys(finished)
    metric = select.resolve("--metric", choice.metric, known) if choice.metric else _monitored(finished)
    sort = select.resolve("--sort", choice.sort, known) if choice.sort else metric
    higher_is_better = _direction(metric, known)
    keys, rows = _grouped(finished)
    keys, columns = _columns(keys, rows, metric, choice.columns, known)
    rows = sorted((_showing(row, keys) for row in rows), key=lambda row: _rank(row, metric))
    baseline = _named(rows, choice.baseline, metric) if choice.baseline else rows[0]
    rows, compared = _compared(rows, baseline, metric, selected=choice.baseline is None)
    return Leaderboard(
        metric=metric,
        higher_is_better=higher_is_better,
        keys=keys,
        columns=columns,
        rows=sorted(rows, key=lambda row: _rank(row, sort)),
        baseline=baseline if any(row.difference for row in rows) else None,
        notes=[*_left_out(records), *([f"Mixed by request: {mixed}"] if mixed else []), *_repeated(rows), *compared],
    )


def by_seed(records: list[Record], name: str) -> dict[int, float]:
    """A figure by seed. Runs that repeat a seed are no further seeds: they count once, by their mean."""
    found: dict[int, list[float]] = defaultdict(list)
    for record in records:
        if is_number(value := record.metrics.get(name)):
            found[record.config["seed"]].append(value)
    return {seed: fmean(values) for seed, values in found.items()}


def _grouped(records: list[Record]) -> tuple[list[str], list[Row]]:
    """Keys that differ, and a row a setting."""
    found = settings(records)
    groups: dict[str, list[Record]] = defaultdict(list)
    for record, setting in zip(records, found, strict=True):
        groups[name_of(setting)].append(record)
    keys = list(dict.fromkeys(key for setting in found for key in setting))
    own = {name_of(setting): setting for setting in found}
    rows = [
        Row(name or f"model={members[0].config['model.name']}", own[name], members, _figures(members))
        for name, members in groups.items()
    ]
    return keys, rows


def _figures(records: list[Record]) -> dict[str, Estimate]:
    names = dict.fromkeys(name for record in records for name in record.metrics)
    found = {name: by_seed(records, name) for name in names}
    return {name: estimate(list(values.values())) for name, values in found.items() if values}


def _columns(
    keys: list[str], rows: list[Row], metric: str, typed: list[str] | None, known: list[str]
) -> tuple[list[str], list[str]]:
    """Keys and figures to show: those typed, else all keys and the usual figures where rows differ in them."""
    if typed is None:
        usual = [name for name in (*QUALITY, *COST) if name != metric and _differs(name, rows)]
        return keys, [metric, *usual]
    full = [select.resolve("--columns", name, known) for name in typed]
    figures = [name for name in full if any(name in row.figures for row in rows)]
    named = [short(key) for key in full if key not in figures]
    return named or keys, list(dict.fromkeys([metric, *figures]))


def _differs(name: str, rows: list[Row]) -> bool:
    means = {row.figures[name].mean if name in row.figures else None for row in rows}
    return len(means) > 1 or (len(rows) == 1 and None not in means)


def _showing(row: Row, keys: list[str]) -> Row:
    """The row with a setting of just these keys; several values of one, such as seeds, as a list."""
    found = {key: [row.setting[key]] if key in row.setting else distinct(row.records, key) for key in keys}
    return replace(row, setting={key: v[0] if len(v) == 1 else v for key, v in found.items() if v})


def _rank(row: Row, key: str) -> tuple[int, float, str]:
    value = row.figures[key].mean if key in row.figures else select.value(row.records[0], key)
    return select.rank(key, value)


def _named(rows: list[Row], typed: str, metric: str) -> Row:
    """The one row of that name, or with these words or values in its name. Raises ConfigError."""
    words = set(typed.split())
    found = [row for row in rows if row.name == typed] or [row for row in rows if words <= _words(row)]
    if len(found) != 1:
        why = f"are words of {len(found)} rows; name one" if found else "is no row"
        raise ConfigError(f"--baseline {typed}: {why}. {choices(typed, [row.name for row in found or rows])}")
    if metric not in found[0].figures:
        raise ConfigError(f"--baseline {typed}: has no {metric}.")
    return found[0]


def _words(row: Row) -> set[str]:
    words = row.name.split()
    return {*words, *(word.partition("=")[2] for word in words)}


def _compared(rows: list[Row], baseline: Row, metric: str, selected: bool) -> tuple[list[Row], list[str]]:
    """The rows with their difference to the baseline, and what to say of it.

    A baseline that was selected by the figures themselves could have been any row: then all pairs were compared.
    """
    values = {row.name: by_seed(row.records, metric) for row in rows}
    base = values[baseline.name]
    asked = protocol(baseline.records[0])  # figures on other data have no difference to speak of
    others = [row.name for row in rows if row is not baseline and protocol(row.records[0]) == asked]
    found = {name: difference(values[name], base) for name in others if values[name] and base}
    p = {name: each.p for name, each in found.items() if each.p is not None}
    n_tests = math.comb(sum(len(own) > 1 for own in values.values()), 2) if selected else len(p)
    for name, corrected in zip(p, holm(list(p.values()), n_tests), strict=True):
        found[name] = replace(found[name], p_corrected=corrected)
    rows = [row if row is baseline else replace(row, difference=found.get(row.name)) for row in rows]
    return rows, _on_differences(baseline.name, list(found.values()), n_tests, selected)


def _on_differences(baseline: str, found: list[Difference], n_tests: int, selected: bool) -> list[str]:
    notes = []
    if any(each.p is not None for each in found):
        many = f"{n_tests:,} comparisons" if n_tests > 1 else "one comparison"
        notes.append(f"p: difference to {baseline} over seeds, corrected by Holm for {many}.")
        if selected and n_tests > 1:
            notes.append(
                "The baseline was chosen by these figures, so all pairs count; --baseline names one beforehand."
            )
    if alone := sum(each.pairing == UNTESTED for each in found):
        notes.append(f"Rows without p: {alone}; one seed, there or in {baseline}, does not tell how seeds vary.")
    return notes


def _monitored(records: list[Record]) -> str:
    """The test figure of the metric by which all runs chose their epoch; auc where they disagree."""
    monitors = {record.config.get("trainer.monitor") for record in records}
    return f"test.{monitors.pop()}" if len(monitors) == 1 else "test.auc"


def _direction(metric: str, known: list[str]) -> bool:
    better = more_is_better(metric)
    if better is None:
        allowed = [name for name in known if more_is_better(name) is not None]
        raise ConfigError(
            f"--metric {metric}: is no figure of which more, or less, is better. {choices(metric, allowed)}"
        )
    return better


def _finished(record: Record) -> bool:
    return record.state == "finished" and bool(record.metrics)


def _left_out(records: list[Record]) -> list[str]:
    left = [record for record in records if not _finished(record)]
    return [f"Left out: {_states(left)}."] if left else []


def _states(records: list[Record]) -> str:
    counts = Counter(record.state for record in records)
    return ", ".join(f"{n} {state}" for state, n in counts.items()) or "no run at all"


def _repeated(rows: list[Row]) -> list[str]:
    repeats = sum(len(row.records) - len({record.config["seed"] for record in row.records}) for row in rows)
    return [f"Runs that repeat a seed of their row: {repeats}; a seed counts once, by its mean."] if repeats else []
