"""The leaderboard: the metrics of each row, with mean and interval drawn on one axis."""

import math

from recexp.metric.table import format_value, higher_is_better
from recexp.report.leaderboard import Leaderboard
from recexp.report.page.element import Html, breakable, element, join
from recexp.report.page.plot import Scale, look, spread, swatch
from recexp.report.row import Row, by_seed
from recexp.report.statistics import Estimate
from recexp.report.table import around, deviation_cell, interval_cell, p_cell


def ranking(board: Leaderboard) -> Html:
    """The table, in the leaderboard's order. Scripts can sort it."""
    axis = _axis(board)
    before, others = around(board)
    widths = {name: _width(board, name) for name in board.columns}
    order = _order(board)
    head = [
        _heading("#", "ascending", numeric=True),
        _heading("row"),
        _heading("n", "descending", numeric=True),
        *(_heading(name, numeric=True, sorted_by=order.get(name)) for name in (*before, board.metric)),
        element("th", "95 % interval", axis and _scale(axis), class_="drawn", scope="col"),
        *([_heading("difference", numeric=True), _heading("p", "ascending", numeric=True)] if board.baseline else []),
        *(_heading(name, numeric=True, sorted_by=order.get(name)) for name in others),
    ]
    body = [_line(board, index, row, axis, widths) for index, row in enumerate(board.rows)]
    return element("table", element("thead", element("tr", *head)), element("tbody", *body), class_="sortable")


def row_name(name: str) -> Html:
    """A row's name, keys paler than values; if too long, it breaks between words, then at the dots of a key."""
    return Html(" ".join(_word(*word.rpartition("=")) for word in name.split(" ")))


def _order(board: Leaderboard) -> dict[str, str]:
    """The order of the column that the rows are sorted by, unless some stand apart."""
    means = [row.metrics[board.ranked_by].mean for row in board.rows if board.ranked_by in row.metrics]
    better = higher_is_better(board.ranked_by)
    if better is None or means != sorted(means, reverse=better):
        return {}
    return {board.ranked_by: "descending" if better else "ascending"}


def _heading(text: str, first: str | None = None, numeric: bool = False, sorted_by: str | None = None) -> Html:
    """A column's heading: a button that sorts by the column. first: the order after one click."""
    first = first or ("descending" if numeric else "ascending")
    button = element("button", text, type="button", data_first=first)
    return element("th", button, class_="number" if numeric else None, scope="col", aria_sort=sorted_by)


def _line(board: Leaderboard, index: int, row: Row, axis: Scale | None, widths: dict[str, int]) -> Html:
    estimate = row.metrics.get(board.metric)
    n = estimate.n if estimate else 0
    before, others = around(board)
    means = {name: _estimate(name, row.metrics.get(name), width) for name, width in widths.items()}
    label = element("span", swatch(index), element("span", row_name(row.name)))
    name = element("th", label, class_="name", scope="row")
    return element(
        "tr",
        _cell(index + 1, index + 1),
        name,
        _cell(n, n),
        *(means[name] for name in (*before, board.metric)),
        element("td", axis and _drawn(board, index, row, axis), class_="drawn"),
        *(_compared(board, row) if board.baseline else []),
        *(means[name] for name in others),
    )


def _word(key: str, sign: str, value: str) -> Html:
    return element("span", element("span", breakable(key + sign), class_="key") if sign else None, value, class_="word")


def _cell(text: object, value: float | None, kind: str = "number") -> Html:
    """value: what the column is sorted by; None comes last."""
    return element("td", text, class_=kind, data_value="" if value is None else repr(value))


def _width(board: Leaderboard, name: str) -> int:
    """The width of the widest deviation in a column, in digits."""
    return max((len(deviation_cell(name, row.metrics[name])) for row in board.rows if name in row.metrics), default=0)


def _estimate(name: str, estimate: Estimate | None, width: int) -> Html:
    """Mean and deviation, padded to the width of the column's widest so that the means are aligned."""
    mean, deviation = (format_value(name, estimate.mean), deviation_cell(name, estimate)) if estimate else ("-", "")
    small = element("small", deviation, class_="deviation", style=f"width:{width}ch") if width else None
    return _cell(join(mean, small), estimate.mean if estimate else None)


def _compared(board: Leaderboard, row: Row) -> list[Html]:
    """The difference from the baseline with its interval, and its corrected p, bold below 0.05."""
    if row is board.baseline:
        return [_cell(element("small", "baseline"), 0.0), _cell("-", None)]
    if (difference := row.difference) is None:
        return [_cell("-", None), _cell("-", None)]
    interval = f" {interval_cell(board.metric, difference, '+')}"
    small = element("small", interval) if difference.p is not None else None
    mean = join(format_value(board.metric, difference.mean, "+"), small)
    p = difference.p_corrected
    bold = element("strong", p_cell(difference)) if p is not None and p < 0.05 else p_cell(difference)
    return [_cell(mean, difference.mean, "number difference"), _cell(bold, p)]


def _axis(board: Leaderboard) -> Scale | None:
    """The axis in percent of the cell's width. Wide intervals of few seeds are cut so as not to squeeze the rest."""
    values = [value for row in board.rows for value in by_seed(row.records, board.metric).values()]
    estimates = [row.metrics[board.metric] for row in board.rows if board.metric in row.metrics]
    values += [estimate.mean for estimate in estimates]
    if not values:
        return None
    room = 0.5 * (max(values) - min(values)) or math.inf
    ends = [end for estimate in estimates for end in (estimate.low, estimate.high) if end is not None]
    cut = [min(max(end, min(values) - room), max(values) + room) for end in ends]
    return Scale(*spread([*values, *cut]), 0, 100)


def _scale(axis: Scale) -> Html:
    """Tick labels for the head of the column."""
    texts = [
        element("text", label, x=_percent(axis(value)), y="11", text_anchor="middle")
        for value, label in axis.ticks(3)
        if 8 < axis(value) < 92  # the others would reach into the columns beside it
    ]
    return element("svg", *texts, class_="scale", aria_hidden="true")


def _drawn(board: Leaderboard, index: int, row: Row, axis: Scale) -> Html | None:
    """Interval, mean and seeds of a row, over the axis's grid and the baseline's mean."""
    estimate = row.metrics.get(board.metric)
    if estimate is None:
        return None
    grid = [_upright(axis(value), "grid") for value, _ in axis.ticks(3)]
    baseline = board.baseline.metrics.get(board.metric) if board.baseline else None
    reference = _upright(axis(baseline.mean), "reference") if baseline else None
    marks = [
        element("circle", cx=_percent(axis(value)), cy="50%", r="2", class_="seed")
        for value in by_seed(row.records, board.metric).values()
    ]
    mean = element("circle", cx=_percent(axis(estimate.mean)), cy="50%", r="4", class_="dot")
    low, high = format_value(board.metric, estimate.low), format_value(board.metric, estimate.high)
    title = element("title", f"95 % interval: {low} to {high}" if estimate.n > 1 else "one seed, no interval")
    parts = [title, *grid, reference, *_interval(estimate, axis), *marks, mean]
    return element("svg", *parts, class_=look(index).split()[0], role="img")


def _interval(estimate: Estimate, axis: Scale) -> list[Html]:
    """A line, with an arrow at each end that the axis cuts."""
    if estimate.low is None or estimate.high is None:
        return []
    low, high = max(estimate.low, axis.low), min(estimate.high, axis.high)
    line = element("line", x1=_percent(axis(low)), x2=_percent(axis(high)), y1="50%", y2="50%", class_="interval")
    arrows = [
        element("svg", element("path", d=shape, class_="arrow"), x=_percent(at), y="50%", overflow="visible")
        for cut, at, shape in ((low > estimate.low, 0, "M0 0L6 -4V4Z"), (high < estimate.high, 100, "M0 0L-6 -4V4Z"))
        if cut
    ]
    return [line, *arrows]


def _upright(x: float, kind: str) -> Html:
    return element("line", x1=_percent(x), x2=_percent(x), y1="0", y2="100%", class_=kind)


def _percent(value: float) -> str:
    return f"{value:.2f}%"
