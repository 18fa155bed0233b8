"""The leaderboard: figures of each row, and its mean and interval drawn on one axis."""

import math

from recexp.metric.figure import shown
from recexp.report.leaderboard import Leaderboard, Row, by_seed
from recexp.report.page.element import Html, breakable, element, join
from recexp.report.page.plot import Scale, look, spread, swatch
from recexp.report.statistics import EXACT, Difference, Estimate


def ranking(board: Leaderboard) -> Html:
    """The table. It sorts where scripts run, and stands in the board's order where they don't."""
    axis = _axis(board)
    widths = {name: _width(board, name) for name in dict.fromkeys([board.metric, *board.columns])}
    others = [name for name in widths if name != board.metric]
    head = [
        _heading("#", "ascending", numeric=True),
        _heading("row"),
        _heading("n", "descending", numeric=True),
        _heading(board.metric, numeric=True, sorted_by=_order(board)),
        element("th", "95 % interval", axis and _scale(axis), class_="drawn", scope="col"),
        *([_heading("difference", numeric=True), _heading("p", "ascending", numeric=True)] if board.baseline else []),
        *(_heading(name, numeric=True) for name in others),
    ]
    body = [_line(board, place, row, axis, widths) for place, row in enumerate(board.rows)]
    return element("table", element("thead", element("tr", *head)), element("tbody", *body), class_="sortable")


def row_name(name: str) -> Html:
    """A row's name, keys paler than values; where it is too long it breaks between words, then at a key's dots."""
    return Html(" ".join(_word(*word.rpartition("=")) for word in name.split(" ")))


def _order(board: Leaderboard) -> str | None:
    """The order in which the rows stand by the metric, where they do."""
    means = [row.figures[board.metric].mean for row in board.rows if board.metric in row.figures]
    if means != sorted(means, reverse=board.higher_is_better):
        return None
    return "descending" if board.higher_is_better else "ascending"


def _heading(text: str, first: str | None = None, numeric: bool = False, sorted_by: str | None = None) -> Html:
    """A column's name, a button that sorts by it; first: the order of its first click."""
    first = first or ("descending" if numeric else "ascending")
    button = element("button", text, type="button", data_first=first)
    return element("th", button, class_="number" if numeric else None, scope="col", aria_sort=sorted_by)


def _line(board: Leaderboard, place: int, row: Row, axis: Scale | None, widths: dict[str, int]) -> Html:
    figure = row.figures.get(board.metric)
    n = figure.n if figure else 0
    label = element("span", swatch(place), element("span", row_name(row.name)))
    name = element("th", label, class_="name", scope="row")
    return element(
        "tr",
        _cell(place + 1, place + 1),
        name,
        _cell(n, n),
        _estimate(board.metric, figure, widths[board.metric]),
        element("td", axis and _drawn(board, place, row, axis), class_="drawn"),
        *(_compared(board, row) if board.baseline else []),
        *(_estimate(name, row.figures.get(name), width) for name, width in widths.items() if name != board.metric),
    )


def _word(key: str, sign: str, value: str) -> Html:
    return element("span", element("span", breakable(key + sign), class_="key") if sign else None, value, class_="word")


def _cell(text: object, value: float | None, kind: str = "number") -> Html:
    """value: what it is sorted by; None comes last."""
    return element("td", text, class_=kind, data_value="" if value is None else repr(value))


def _width(board: Leaderboard, name: str) -> int:
    """Of the widest deviation in a column, in digits."""
    return max((len(_deviation(name, row.figures[name])) for row in board.rows if name in row.figures), default=0)


def _deviation(name: str, estimate: Estimate) -> str:
    """Nothing where it rounds to 0."""
    spread = shown(name, estimate.deviation)
    return f" ± {spread}" if spread.strip("-0.,") else ""


def _estimate(name: str, estimate: Estimate | None, width: int) -> Html:
    """Mean and deviation, which is as wide as the column's widest, so that the means stand below each other."""
    mean, spread = (shown(name, estimate.mean), _deviation(name, estimate)) if estimate else ("-", "")
    told = element("small", spread, class_="deviation", style=f"width:{width}ch") if width else None
    return _cell(join(mean, told), estimate.mean if estimate else None)


def _compared(board: Leaderboard, row: Row) -> list[Html]:
    """The difference to the baseline with its interval, and its corrected p."""
    if row is board.baseline:
        return [_cell(element("small", "baseline"), 0.0), _cell("-", None)]
    if (found := row.difference) is None:
        return [_cell("-", None), _cell("-", None)]
    low, high = shown(board.metric, found.low, "+"), shown(board.metric, found.high, "+")
    interval = element("small", f" [{low}, {high}]") if found.p is not None else None
    mean = join(shown(board.metric, found.mean, "+"), interval)
    return [_cell(mean, found.mean, "number difference"), _cell(_p(found), found.p_corrected)]


def _p(found: Difference) -> Html:
    """Bold where it is below 0.05."""
    p = found.p_corrected
    if p is None:
        return join("exact" if found.pairing == EXACT else "-")
    told = "<0.001" if p < 0.001 else f"{p:.3f}"
    return element("strong", told) if p < 0.05 else join(told)


def _axis(board: Leaderboard) -> Scale | None:
    """In percent of the cell's width. Wide intervals of few seeds are cut, so that they don't squeeze all else."""
    values = [value for row in board.rows for value in by_seed(row.records, board.metric).values()]
    estimates = [row.figures[board.metric] for row in board.rows if board.metric in row.figures]
    values += [estimate.mean for estimate in estimates]
    if not values:
        return None
    room = 0.5 * (max(values) - min(values)) or math.inf
    ends = [end for each in estimates for end in (each.low, each.high) if end is not None]
    shown = [min(max(end, min(values) - room), max(values) + room) for end in ends]
    return Scale(*spread([*values, *shown]), 0, 100)


def _scale(axis: Scale) -> Html:
    """Tick labels for the head of the column."""
    texts = [
        element("text", label, x=_percent(axis(value)), y="11", text_anchor="middle")
        for value, label in axis.ticks(3)
        if 8 < axis(value) < 92  # the others would reach into the columns beside it
    ]
    return element("svg", *texts, class_="scale", aria_hidden="true")


def _drawn(board: Leaderboard, place: int, row: Row, axis: Scale) -> Html | None:
    """Interval, mean and seeds of a row, over the axis's grid and the baseline's mean."""
    estimate = row.figures.get(board.metric)
    if estimate is None:
        return None
    grid = [_upright(axis(value), "grid") for value, _ in axis.ticks(3)]
    baseline = board.baseline.figures.get(board.metric) if board.baseline else None
    reference = _upright(axis(baseline.mean), "reference") if baseline else None
    marks = [
        element("circle", cx=_percent(axis(value)), cy="50%", r="2", class_="seed")
        for value in by_seed(row.records, board.metric).values()
    ]
    mean = element("circle", cx=_percent(axis(estimate.mean)), cy="50%", r="4", class_="dot")
    low, high = shown(board.metric, estimate.low), shown(board.metric, estimate.high)
    title = element("title", f"95 % interval: {low} to {high}" if estimate.n > 1 else "one seed, no interval")
    parts = [title, *grid, reference, *_interval(estimate, axis), *marks, mean]
    return element("svg", *parts, class_=look(place).split()[0], role="img")


def _interval(estimate: Estimate, axis: Scale) -> list[Html]:
    """A line, with an arrow where the axis cuts it."""
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


def _upright(at: float, kind: str) -> Html:
    return element("line", x1=_percent(at), x2=_percent(at), y1="0", y2="100%", class_=kind)


def _percent(value: float) -> str:
    return f"{value:.2f}%"
