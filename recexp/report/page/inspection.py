"""The page of `recexp inspect --html`: pictures of a log, and the text that the terminal prints."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from recexp.dataset.inspect.facts import Label, LogFacts, Time
from recexp.dataset.inspect.look import Inspection
from recexp.dataset.inspect.order import TOP, Order
from recexp.dataset.inspect.text import moment, report
from recexp.report.page.document import document, scrolled
from recexp.report.page.element import Html, element, join
from recexp.report.page.plot import Scale, frame, share_bar

WIDTH, HEIGHT = 310, 215
N_BARS = 40  # label values up to which each has a bar of its own
N_LETTERS = 42  # of all labels of the horizontal axis, which would otherwise run into each other


@dataclass(frozen=True)
class Bar:
    label: str
    count: int


def page(inspection: Inspection) -> str:
    """The whole HTML text."""
    panels = [*_panels(inspection)]
    tables = [*_tables(inspection)]
    pictures = join(element("div", *panels, class_="panels") if panels else None, *tables)
    text = scrolled("what the terminal prints", element("pre", "\n".join(report(inspection))))
    return document(inspection.path, None, [("pictures", "Pictures", pictures or None), ("text", "In words", text)])


def label_bars(label: Label) -> list[Bar]:
    """The values and how many rows have each, or N_BARS spans of them."""
    values, counts = np.array([*label.counts]), np.array([*label.counts.values()])
    if len(values) <= N_BARS:
        return [Bar(f"{value:g}", int(count)) for value, count in zip(values, counts, strict=True)]
    spans, edges = np.histogram(values, N_BARS, weights=counts)
    return [Bar(f"from {edge:.3g}", int(count)) for edge, count in zip(edges[:-1], spans, strict=True)]


def time_bars(time: Time) -> list[Bar]:
    """The spans of time, each by its beginning."""
    starts = np.linspace(time.first, time.last, len(time.counts) + 1)[:-1].tolist()
    days = time.unit != "numbers" and time.last - time.first > 40 * 86400
    named = [moment(time, start) for start in starts]
    return [Bar(name[:10] if days else name, count) for name, count in zip(named, time.counts, strict=True)]


def doubling_bars(counts: list[int]) -> list[Bar]:
    """How many have 1, 2 to 3, 4 to 7 events and so on."""
    names = [f"{2**n:,}" if n == 0 else f"{2**n:,} to {2 ** (n + 1) - 1:,}" for n in range(len(counts))]
    return [Bar(name, count) for name, count in zip(names, counts, strict=True)]


def _panels(inspection: Inspection) -> Iterator[Html]:
    if inspection.label is not None and inspection.label.counts:
        yield _panel("rows by label", label_bars(inspection.label), "label")
    facts = inspection.facts
    if facts is None:
        return
    if facts.time is not None and inspection.form.reader != "sequence":  # a sequence has positions in place of times
        yield _panel("events over time", time_bars(facts.time), "time")
    yield _panel("users by how many events they have", doubling_bars(facts.users_by_events), "events of a user")
    yield _panel("items by how many events they have", doubling_bars(facts.items_by_events), "events of an item")


def _panel(title: str, bars: list[Bar], axis: str) -> Html:
    x = Scale(0, len(bars), 48, WIDTH - 8)
    y = Scale(0, max(5, 1.05 * max(bar.count for bar in bars)), HEIGHT - 38, 8)
    total, width = sum(bar.count for bar in bars), max(1.0, (x(1) - x(0)) * 0.85)
    drawn = [
        element("rect", element("title", f"{bar.label}: {bar.count:,} ({bar.count / max(1, total):.1%})"),
                x=f"{x(n + 0.5) - width / 2:.1f}", y=f"{y(bar.count):.1f}", width=f"{width:.1f}",
                height=f"{y(0) - y(bar.count):.1f}")
        for n, bar in enumerate(bars)
    ]  # fmt: skip
    step = -(-sum(len(bar.label) + 2 for bar in bars) // N_LETTERS)
    ticks = [(n + 0.5, bar.label) for n, bar in enumerate(bars) if n % step == step // 2]
    svg = element("svg", frame(x, y, axis, ticks=ticks), element("g", *drawn, class_="bar"),
                  viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=f"{title}, as bars")  # fmt: skip
    return element("figure", element("figcaption", title), svg, class_="panel")


def _tables(inspection: Inspection) -> Iterator[Html | None]:
    if inspection.facts is not None:
        yield _unseen(inspection.facts)
        if inspection.facts.order is not None:
            yield _order(inspection.facts.order)
    missing = {column.name: sum(column.missing.values()) for column in inspection.columns}
    if any(missing.values()):
        rows = [[name, _share(count / inspection.n_head)] for name, count in missing.items() if count]
        yield _table("missing values", ["column", f"of the first {inspection.n_head:,} rows"], rows)


def _unseen(facts: LogFacts) -> Html | None:
    rows = [[kind, f"{unseen.rows:,}", _share(unseen.user), _share(unseen.item)]
            for kind, unseen in facts.unseen.items()]  # fmt: skip
    head = ["split.kind", "test rows", "of users that training has not seen", "of such items"]
    return _table("who is unseen under each split", head, rows)


def _order(order: Order) -> Html | None:
    rows = [["as it is", _share(order.hit_rate)], ["each user's order shuffled", _share(order.shuffled)]]
    return _table("whether the order carries anything", ["order", f"last items among the {TOP} likeliest"], rows)


def _share(share: float) -> Html:
    return share_bar(share, f"{share:.1%}")


def _table(label: str, head: list[str], rows: list[list[str]]) -> Html | None:
    heads = element("tr", *(element("th", name, scope="col") for name in head))
    body = [element("tr", *(element("td", cell) for cell in row)) for row in rows]
    table = element("table", element("thead", heads), element("tbody", *body))
    return element("figure", element("figcaption", label), scrolled(label, table), class_="captioned")
