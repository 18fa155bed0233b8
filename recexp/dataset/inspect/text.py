"""An inspection as a short report for the terminal."""

from collections.abc import Iterator
from datetime import UTC, datetime

from recexp.dataset.inspect.facts import Label, LogFacts, Time
from recexp.dataset.inspect.look import Inspection
from recexp.dataset.inspect.order import TOP, Order
from recexp.dataset.inspect.role import OTHER_LABEL, Column
from recexp.terminal import columns

BAR = 30  # characters of the longest bar
VALUES = 12  # label values up to which each has a bar
WIDE = 40  # characters of a reason or example


def report(inspection: Inspection) -> list[str]:
    """The lines of the report."""
    lines = [f"{inspection.path}: {inspection.form}; {inspection.rows:,} rows", ""]
    if inspection.columns:
        lines += [*_columns(inspection.columns), *_sampled(inspection), ""]
    for side, file in inspection.sides.items():
        lines += [f"{file.path}: {side}s, {len(file.head):,} rows", "", *_columns(file.columns), ""]
    lines += columns([[name, text] for name, text in _facts(inspection)])
    if inspection.facts is not None:
        lines += _unseen(inspection.facts)
    if inspection.warnings:
        lines += ["", *(f"warning: {warning}" for warning in inspection.warnings)]
    return lines


def _facts(inspection: Inspection) -> Iterator[tuple[str, str]]:
    """Pairs of name and text. Further lines of the same fact have an empty name."""
    if inspection.facts is not None:
        yield from _log(inspection.facts)
    if inspection.label is not None:
        yield from _label(inspection.label)
        yield from _other_labels(inspection, inspection.label)
    if inspection.form.reader == "sequence":
        yield "time", "none: the position in the line stands for it"
    elif inspection.facts is not None:
        yield from _time(inspection.facts, "user_path" in inspection.options or "item_path" in inspection.options)
    if inspection.facts is not None and inspection.facts.order is not None:
        yield from _order(inspection.facts.order)


def _columns(described: list[Column]) -> list[str]:
    rows = [["column", "type", "values", "missing", "taken as", "because", "example"]]
    for column in described:
        taken = f"{column.role}, {column.kind}" if column.kind else column.role
        missing = ", ".join(f"{count:,} {word or 'empty'}" for word, count in column.missing.items())
        cells = [column.name, column.type, f"{column.n_unique:,}", missing or "0", taken, column.why, column.example]
        rows.append([cell if len(cell) <= WIDE else cell[: WIDE - 3] + "..." for cell in cells])
    return columns(rows, right=(2,))


def _sampled(inspection: Inspection) -> list[str]:
    if inspection.n_head == inspection.rows:
        return []
    return [
        f"(types, roles, missing values and warnings from the first {inspection.n_head:,} rows; all else from all rows)"
    ]


def _log(facts: LogFacts) -> Iterator[tuple[str, str]]:
    low, tenth, _, median, _, ninth, _, top = facts.lengths.values()
    users, items = (", ".join(f"{name} ({n:,})" for name, n in most) for most in (facts.heavy_users, facts.heavy_items))
    yield "users", f"{facts.users:,}; density {facts.density:.2%}; most events: {users}"
    yield "items", f"{facts.items:,}; most events: {items}"
    yield (
        "events",
        f"{low:,} to {top:,} a user, median {median:,}, a tenth at most {tenth:,}, a tenth at least {ninth:,}",
    )
    yield "repeats", f"{facts.again:,} events ({facts.again / facts.rows:.1%}) with an item that the user had before"
    if facts.copies:
        yield "", f"{facts.copies:,} rows repeat user, item and time of another"
    for role, words in facts.missing.items():
        yield "missing", f"{role}: " + ", ".join(f"{count:,} {word or 'empty'}" for word, count in words.items())


def _label(label: Label) -> Iterator[tuple[str, str]]:
    total, values = sum(label.counts.values()), list(label.counts)
    if not total:
        yield "label", "none of the values is a number, or a word such as true"
        return
    if len(values) == 1:
        text = f"all are {values[0]:g}, so there is nothing to learn from them"
    elif label.binary:
        text = f"0 and 1, {label.share:.1%} are 1"
    else:
        text = f"{values[0]:g} to {values[-1]:g}, mean {label.mean:.3g}"
        text += f"; label_threshold={label.threshold:g} makes {label.share:.1%} of them 1"
    yield "label", text
    if label.wrong:
        yield "", f"{label.wrong:,} are no numbers"
    if 1 < len(values) <= VALUES:
        most = max(label.counts.values())
        bars = [
            [f"{value:g}", f"{count / total:.1%}", "#" * round(BAR * count / most)]
            for value, count in label.counts.items()
        ]
        yield from (("", line) for line in columns(bars, right=(0, 1)))


def _other_labels(inspection: Inspection, label: Label) -> Iterator[tuple[str, str]]:
    others = [column.name for column in inspection.columns if column.why == OTHER_LABEL]
    if not others or not label.share:
        return
    first = next(column.name for column in inspection.columns if column.role == "label")
    labels = ", ".join([first, *others])
    if not label.binary:
        labels = ", ".join([f'{first}: "{first}>={label.threshold:g}"', *(f"{name}: {name}" for name in others)])
    brackets = "[{}]" if label.binary else "{{{}}}"
    yield "labels", f"several, of which one is taken; all with 'dataset.columns.label={brackets.format(labels)}'"
    yield "", "and a model of several, as shared_bottom, mmoe or ple"


def _time(facts: LogFacts, files: bool) -> Iterator[tuple[str, str]]:
    """files: True if features of users or items come from files of their own."""
    time = facts.time
    if time is None and files:
        yield "time", "none, so the order of the rows is taken for that of the events; best by models without histories"
    elif time is None:
        yield "time", "none, so it trains as a table, by models without histories"
    if time is None:
        return
    yield "time", f"{moment(time, time.first)} to {moment(time, time.last)}, {_unit(time)}"
    for unit, count in time.other_units.items():
        yield "", f"{count:,} are in {unit}: their events stand before or after all others"
    for value, count in time.sentinels.items():
        yield "", f"{count:,} are {value}, which is no time: their events stand before all others"
    if time.wrong:
        yield "", f"{time.wrong:,} are neither numbers nor date-times"
    tied = f"{time.tied:,} events ({time.tied / facts.rows:.1%}) share user and time with another; none sees the others"
    yield "ties", tied if time.tied else "none"


def _order(order: Order) -> Iterator[tuple[str, str]]:
    verdict = "carries something" if order.carries else "shows no sign of carrying anything"
    yield "order", f"{verdict}: {order.hit_rate:.1%} of users' last items are among the {TOP} most frequent followers"
    yield "", f"of the item before; {order.shuffled:.1%} if each user's order is shuffled ({order.users:,} users)"


def _unseen(facts: LogFacts) -> list[str]:
    rows = [["split.kind", "test rows", "unseen users", "unseen items"]]
    for kind, unseen in facts.unseen.items():
        rows.append([kind, f"{unseen.rows:,}", f"{unseen.user:.1%}", f"{unseen.item:.1%}"])
    return ["", *columns(rows, right=(1, 2, 3))]


def _unit(time: Time) -> str:
    if time.unit == "date-times":
        return time.unit
    return "numbers that are no time since 1970" if time.unit == "numbers" else f"{time.unit} since 1970"


def moment(time: Time, value: float) -> str:
    """A time as people read it."""
    return f"{value:,.6g}" if time.unit == "numbers" else datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M")
