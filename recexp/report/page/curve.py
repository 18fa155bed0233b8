"""Learning curves: the validation metric and every named loss by epoch, one look per row, its seeds as a band."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from recexp.metric.table import HEADLINE, PREDICTION_METRICS, among
from recexp.report.leaderboard import Leaderboard
from recexp.report.page.element import Html, element, join, void
from recexp.report.page.plot import Scale, frame, look, spread, swatch
from recexp.report.page.ranking import row_name

N_SHOWN = 12  # rows drawn until a reader chooses others
WIDTH, HEIGHT = 310, 215
Lines = list[dict[str, Any]]  # of metrics.jsonl


@dataclass(frozen=True)
class Point:
    """A metric or loss in an epoch, over the seeds that have it."""

    epoch: int
    mean: float
    low: float
    high: float
    complete: bool  # all seeds have it


def curves(board: Leaderboard) -> Html | None:
    """The panels, and the legend that shows and hides rows. None if no run has epochs."""
    epochs = [[record.epochs() for record in row.records] for row in board.rows]
    drawn = [_panel(index, *panel, epochs) for index, panel in enumerate(_panels(board, epochs))]
    panels = [panel for panel in drawn if panel is not None]
    if not panels:
        return None
    names = [row.name for row in board.rows]
    return join(element("div", *panels, class_="panels"), _legend(names))


def over_seeds(series: Sequence[Sequence[float | None]]) -> list[Point]:
    """Mean, least and greatest value of each epoch, counted from 1; epochs that no seed has are left out.

    series: the values of each seed by epoch, None if missing.
    """
    points = []
    for index in range(max(map(len, series), default=0)):
        values = [seed[index] for seed in series if index < len(seed)]
        finite = [value for value in values if value is not None and math.isfinite(value)]
        if finite:
            mean = sum(finite) / len(finite)
            points.append(Point(index + 1, mean, min(finite), max(finite), len(finite) == len(series)))
    return points


def rules(n: int) -> str:
    """The CSS with which a checkbox of the legend hides its row's curves, even without scripts."""
    return "".join(f"body:has(#show{index}:not(:checked)) .row{index}{{display:none}}" for index in range(n))


def _panels(board: Leaderboard, epochs: list[list[Lines]]) -> list[tuple[str, str]]:
    """(kind, name) of each panel: the leaderboard's metric on valid or else those monitored, logloss, all losses."""
    lines = [line for row in epochs for run in row for line in run]
    valid = dict.fromkeys(name for line in lines for name in line["valid"])
    metric = board.metric.partition(".")[2]
    monitored = dict.fromkeys(record.config.get("trainer.monitor") for row in board.rows for record in row.records)
    chosen = [metric] if metric in valid else list(monitored)
    losses = dict.fromkeys(name for line in lines for name in line["losses"])
    errors = among(valid, [name for name in HEADLINE if not PREDICTION_METRICS[name].higher_is_better])
    shown = dict.fromkeys([name for name in [*chosen, *errors] if name in valid])
    return [("valid", name) for name in shown] + [("losses", name) for name in losses]


def _panel(index: int, kind: str, name: str, epochs: list[list[Lines]]) -> Html | None:
    rows = [over_seeds([[line[kind].get(name) for line in run] for run in row]) for row in epochs]
    shown = [point for points in rows[:N_SHOWN] for point in points] or [point for points in rows for point in points]
    if not shown:
        return None
    last = max(point.epoch for points in rows for point in points)
    x = Scale(1 - 0.02 * last, max(last, 2) + 0.02 * last, 48, WIDTH - 8)
    y = Scale(*spread(_inliers([end for point in shown for end in (point.low, point.high)])), HEIGHT - 38, 8)
    clip = f"clip{index}"
    window = element("rect", x=x.start, y=y.stop, width=x.stop - x.start, height=y.start - y.stop)
    drawn = [_curve(row, points, x, y) for row, points in enumerate(rows) if points]
    title = f"valid {name}" if kind == "valid" else f"training loss, {name}"
    svg = element(
        "svg",
        element("clipPath", window, id=clip),
        frame(x, y, "epoch", whole=True),
        # The best row is drawn last, above the others.
        element("g", *reversed(drawn), clip_path=f"url(#{clip})"),
        element("path", class_="cross", d=f"M0 {y.stop}V{y.start}", visibility="hidden"),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        tabindex="0",
        aria_label=f"{title} by epoch, a curve a row",
        data_first=f"{x(1):.2f}",
        data_step=f"{x(2) - x(1):.4f}",
    )
    return element("figure", element("figcaption", title), svg, class_="panel curves")


def _inliers(values: list[float]) -> list[float]:
    """The values except those so far off that nothing else would be visible, as when a run diverges."""
    ordered = sorted(values)
    lower, upper = ordered[len(ordered) // 4], ordered[3 * len(ordered) // 4]
    room = 8 * (upper - lower) or math.inf
    return [value for value in ordered if lower - room <= value <= upper + room]


def _curve(row: int, points: list[Point], x: Scale, y: Scale) -> Html:
    solid, faint = _lines(points, x, y)
    means = {point.epoch: point.mean for point in points}
    values = ",".join(f"{means[epoch]:.4f}" if epoch in means else "" for epoch in range(1, points[-1].epoch + 1))
    return element(
        "g",
        element("path", d=band, class_="band") if (band := _band(points, x, y)) else None,
        element("path", d=solid, class_="line") if solid else None,
        element("path", d=faint, class_="line faint") if faint else None,
        *(
            element("circle", cx=f"{x(p.epoch):.1f}", cy=f"{y(p.mean):.1f}", r="2.5", class_="dot")
            for p in _alone(points)
        ),
        class_=f"row{row} {look(row)}",
        data_row=row,
        data_values=values,
    )


def _lines(points: list[Point], x: Scale, y: Scale) -> tuple[str, str]:
    """Paths of the mean: of the epochs that all seeds have, and of those after some have stopped."""
    paths = {True: "", False: ""}
    end: tuple[bool, Point] | None = None
    for before, after in pairwise(points):
        if after.epoch != before.epoch + 1:
            continue
        complete = before.complete and after.complete
        if end != (complete, before):
            paths[complete] += f"M{x(before.epoch):.1f} {y(before.mean):.1f}"
        paths[complete] += f"L{x(after.epoch):.1f} {y(after.mean):.1f}"
        end = (complete, after)
    return paths[True], paths[False]


def _band(points: list[Point], x: Scale, y: Scale) -> str:
    """Path around the least and greatest values, one piece per gapless stretch of epochs; empty for one seed."""
    if all(point.low == point.high for point in points):
        return ""
    starts = [i for i, point in enumerate(points) if i == 0 or points[i - 1].epoch != point.epoch - 1]
    pieces = [points[start:end] for start, end in pairwise([*starts, len(points)])]
    edges = [[(p.epoch, p.low) for p in piece] + [(p.epoch, p.high) for p in reversed(piece)] for piece in pieces]
    return "".join("M" + "L".join(f"{x(epoch):.1f} {y(value):.1f}" for epoch, value in edge) + "Z" for edge in edges)


def _alone(points: list[Point]) -> list[Point]:
    """The points that no line reaches."""
    epochs = {point.epoch for point in points}
    return [point for point in points if not {point.epoch - 1, point.epoch + 1} & epochs]


def _legend(names: list[str]) -> Html:
    boxes = [
        element(
            "label",
            void("input", type="checkbox", id=f"show{row}", checked=row < N_SHOWN, autocomplete="off"),
            swatch(row),
            element("span", element("span", f"{row + 1} ", class_="place"), row_name(name)),
        )
        for row, name in enumerate(names)
    ]
    buttons = [element("button", text, type="button", data_show=n)
               for text, n in ((f"best {N_SHOWN}", N_SHOWN), ("all", len(names)), ("none", 0))]  # fmt: skip
    choice = element("div", *(buttons if len(names) > N_SHOWN else buttons[1:]), class_="choice")
    return element("fieldset", element("legend", "Curves shown"), choice, element("div", *boxes, class_="boxes"))
