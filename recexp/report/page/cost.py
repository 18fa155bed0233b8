"""Quality against cost: what a better metric takes in seconds of training and in parameters."""

from dataclasses import dataclass

from recexp.metric.table import format_value
from recexp.report.leaderboard import Leaderboard
from recexp.report.page.element import Html, element, join
from recexp.report.page.plot import Scale, frame, look, spread, spread_log
from recexp.report.row import by_seed

COSTS = ("seconds", "parameters")  # those that depend on the model more than on the machine
WIDTH, HEIGHT = 380, 240
EXPLAINED = (
    "A dot a row, by its number in the leaderboard: means over seeds, the upright line from the least seed to the "
    "greatest. Filled dots are the Pareto front: no other row is both cheaper and better."
)


@dataclass(frozen=True)
class Dot:
    """A row of the leaderboard: its cost, and the mean, least and greatest of its metric."""

    index: int
    name: str
    cost: float
    mean: float
    low: float
    high: float


def costs(board: Leaderboard) -> Html | None:
    """One panel per cost. None if fewer than two rows have one."""
    dots_by_cost = {cost: _dots(board, cost) for cost in COSTS}
    drawn = [_panel(board, cost, dots) for cost, dots in dots_by_cost.items() if len(dots) > 1]
    return join(element("p", EXPLAINED, class_="note"), element("div", *drawn, class_="panels wide")) if drawn else None


def front(points: list[tuple[float, float]], higher_is_better: bool) -> list[int]:
    """Indices of the Pareto-optimal points (cost, quality), by cost; the first among equal points."""
    sign = 1 if higher_is_better else -1
    best, indices = float("-inf"), []
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -sign * points[i][1])):
        if sign * points[index][1] > best:
            best = sign * points[index][1]
            indices.append(index)
    return indices


def _dots(board: Leaderboard, cost: str) -> list[Dot]:
    dots = []
    for index, row in enumerate(board.rows):
        if cost in row.metrics and board.metric in row.metrics:
            values = by_seed(row.records, board.metric).values()
            spent, mean = row.metrics[cost].mean, row.metrics[board.metric].mean
            dots.append(Dot(index, row.name, spent, mean, min(values), max(values)))
    return dots


def _panel(board: Leaderboard, cost: str, dots: list[Dot]) -> Html:
    spent = [dot.cost for dot in dots]
    log = min(spent) > 0 and max(spent) / min(spent) > 10
    x = Scale(*(spread_log(spent) if log else spread(spent)), 52, WIDTH - 24, log)
    y = Scale(*spread([end for dot in dots for end in (dot.low, dot.high)]), HEIGHT - 38, 8)
    best = [dots[index] for index in front([(dot.cost, dot.mean) for dot in dots], board.higher_is_better)]
    numbers = ", ".join(str(dot.index + 1) for dot in best)
    steps = f"M{x(best[0].cost):.1f} {y(best[0].mean):.1f}" + "".join(
        f"H{x(dot.cost):.1f}V{y(dot.mean):.1f}" for dot in best[1:]
    )
    marks = [_mark(dot, dot in best, board.metric, cost, x, y) for dot in reversed(dots)]
    svg = element(
        "svg",
        frame(x, y, f"{cost}, logarithmic" if log else cost),
        element("path", d=steps, class_="front"),
        *marks,
        *_numbers(best, [dot for dot in dots if dot not in best], x, y),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=f"{board.metric} against {cost}; rows on the Pareto front: {numbers}",
    )
    caption = element("figcaption", f"{board.metric} against {cost}", element("small", f" front: {numbers}"))
    return element("figure", caption, svg, class_="panel")


def _mark(dot: Dot, on_front: bool, metric: str, cost: str, x: Scale, y: Scale) -> Html:
    left = f"{x(dot.cost):.1f}"
    title = f"{dot.index + 1} {dot.name}: {format_value(metric, dot.mean)}, {format_value(cost, dot.cost)} {cost}"
    line = element("path", d=f"M{left} {y(dot.low):.1f}V{y(dot.high):.1f}", class_="whisker")
    circle = element("circle", cx=left, cy=f"{y(dot.mean):.1f}", r="4.5", class_="dot" if on_front else "dot hollow")
    return element("g", element("title", title), line, circle, class_=look(dot.index).split()[0])


def _numbers(best: list[Dot], others: list[Dot], x: Scale, y: Scale) -> list[Html]:
    """The rows' numbers beside their dots: all on the front, and the others if they have room."""
    taken = [(x(dot.cost), y(dot.mean)) for dot in best + others]
    texts = []
    for dot in best + others:
        left, base = x(dot.cost) + 8, y(dot.mean) + 4
        middle = left + 8, base - 4
        if dot in best or all(abs(middle[0] - a) > 14 or abs(middle[1] - b) > 9 for a, b in taken):
            taken.append(middle)
            texts.append(element("text", dot.index + 1, x=f"{left:.1f}", y=f"{base:.1f}", class_="mark"))
    return texts
