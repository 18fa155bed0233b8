"""Calibration: how often the label was 1 among test rows of similar predicted probability."""

import numpy as np

from recexp.metric.table import format_value, label_metric, of_label
from recexp.report.leaderboard import Leaderboard
from recexp.report.page.element import Html, element, join
from recexp.report.page.plot import Scale, frame, look
from recexp.report.page.ranking import row_name
from recexp.report.row import Row
from recexp.run.record import Record

N_ROWS, N_BINS = 10, 10
SIZE, ECE = 172, "test.ece"
EXPLAINED = (
    f"Test rows in {N_BINS} bins of equally many by predicted probability, all seeds of a row pooled: the rate of "
    "label 1 against the mean prediction. On the diagonal a prediction means what it says. ECE is the runs' own figure "
    "(test.ece, over bins of equal width), averaged over seeds."
)


def calibration(board: Leaderboard) -> Html | None:
    """A small panel for each of the first N_ROWS rows that saved predictions; None if none of them did."""
    predictions = [(index, row, pooled(row.records, board.metric)) for index, row in enumerate(board.rows[:N_ROWS])]
    binned = [(index, row, bins(*scored)) for index, row, scored in predictions if scored is not None]
    if not binned:
        return None
    top = min(1.0, 1.08 * max(float(points.max()) for _, _, points in binned))
    panels = [_panel(index, row, points, top, board.metric) for index, row, points in binned]
    cut = f" The first {N_ROWS} rows." if len(board.rows) > N_ROWS else ""
    return join(element("p", EXPLAINED + cut, class_="note"), element("div", *panels, class_="panels small"))


def pooled(records: list[Record], metric: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Labels and scores (N,) of all runs, for the label that the metric is of; None if no run has any."""
    by_label = [record.by_label() for record in records]
    frames = [labels.get(_label(metric), next(iter(labels.values()))) for labels in by_label if labels]
    if not sum(map(len, frames)):
        return None
    label, score = (np.concatenate([frame[name].to_numpy(float) for frame in frames]) for name in ("label", "score"))
    finite = np.isfinite(score)
    return (label[finite], score[finite]) if finite.any() else None


def _label(metric: str) -> str:
    """The name of the label that a metric is of; "" if there is one label, or the metric is of rankings."""
    _, _, label = metric.partition("/")
    return label if label_metric(metric.partition(".")[2]) else ""


def bins(label: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Mean score and rate of label 1, (bins, 2), in bins of equally many rows; equal scores share a bin."""
    edges = np.unique(np.quantile(score, np.arange(1, N_BINS) / N_BINS))
    _, index = np.unique(np.searchsorted(edges, score, side="right"), return_inverse=True)  # no bin is empty
    count = np.bincount(index)
    return np.stack([np.bincount(index, score) / count, np.bincount(index, label) / count], axis=1)


def _panel(index: int, row: Row, points: np.ndarray, top: float, metric: str) -> Html:
    x, y = Scale(0, top, 30, SIZE - 6), Scale(0, top, SIZE - 34, 6)
    ece = row.metrics.get(of_label(ECE, _label(metric)))
    error = f"ECE {format_value(ECE, ece.mean if ece else None)}"
    line = "M" + "L".join(f"{x(p):.1f} {y(rate):.1f}" for p, rate in points)
    dots = [
        element("circle", element("title", f"predicted {p:.4f}, observed {rate:.4f}"),
                cx=f"{x(p):.1f}", cy=f"{y(rate):.1f}", r="3", class_="dot")
        for p, rate in points
    ]  # fmt: skip
    svg = element(
        "svg",
        frame(x, y, "predicted"),
        element("path", d=f"M{x(0)} {y(0)}L{x(top)} {y(top)}", class_="reference"),
        element("g", element("path", d=line, class_="line"), *dots, class_=look(index)),
        viewBox=f"0 0 {SIZE} {SIZE}",
        role="img",
        aria_label=f"observed rate against predicted probability, row {index + 1}; {error}",
    )
    caption = element("figcaption", f"{index + 1} ", row_name(row.name), element("small", f" {error}"))
    return element("figure", caption, svg, class_="panel")
