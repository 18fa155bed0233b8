"""Training speed as bars relative to the bare loop of the same rounds, one panel per model."""

import math
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import report
from matplotlib.axes import Axes

COLOURS = {report.OWN: "#1f5fa8", report.BARE: "#8a8f98"}
PEER = "#e0a458"
TITLES = {"deepfm": "DeepFM", "din": "DIN", "dien": "DIEN", "bst": "BST"}


def draw(results: dict[str, Any], path: Path) -> None:
    models = report.models(results)
    panels = [[line for line in report.summary(results, model) if line.to_bare] for model in models]
    ratios = [line.to_bare for lines in panels for line in lines if line.to_bare]
    if not ratios:
        return
    most = 1.25 * max(*ratios, 1.0)  # room for the labels beside the bars
    n_columns = min(2, len(models))
    n_rows = math.ceil(len(models) / n_columns)
    tall = [max(map(len, panels[row * n_columns : (row + 1) * n_columns])) for row in range(n_rows)]
    figure, axes = plt.subplots(
        n_rows, n_columns, figsize=(6.2 * n_columns, 0.36 * sum(tall) + 0.95 * n_rows), squeeze=False,
        gridspec_kw={"height_ratios": tall}, sharex=True, layout="constrained",
    )  # fmt: skip
    for number, (axis, model, lines) in enumerate(zip(axes.flat, models, panels, strict=False)):
        panel(axis, TITLES[model], lines)
        axis.set_xlim(0, most)
        axis.set_ylim(tall[number // n_columns] - 0.4, -0.6)  # bars of equal height, the fastest on top
    for axis in list(axes.flat)[len(models) :]:
        axis.remove()
    for axis in axes[-1]:
        axis.set_xlabel("training speed, times that of a bare PyTorch loop", fontsize=9)
    figure.savefig(path, dpi=160)
    plt.close(figure)


def panel(axis: Axes, title: str, lines: list[report.Line]) -> None:
    """One model: the fastest on top, with samples per second beside each bar."""
    for place, line in enumerate(lines):
        assert line.to_bare
        own = line.name.startswith(report.OWN)
        colour = COLOURS.get(report.OWN if own else line.name, PEER)
        axis.barh(place, line.to_bare, height=0.68, color=colour, zorder=2)
        weight = "bold" if own else "normal"
        axis.annotate(f"{line.speed:,.0f}/s", (line.to_bare, place), (5, 0), textcoords="offset points", va="center",
                      fontsize=9, fontweight=weight, color="#22262b", zorder=4,
                      bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.2})  # fmt: skip
    axis.axvline(1, color="#22262b", linewidth=0.9, linestyle=(0, (4, 3)), zorder=3)
    axis.set_yticks(range(len(lines)), [line.name for line in lines], fontsize=9.5)
    for label, line in zip(axis.get_yticklabels(), lines, strict=True):
        label.set_fontweight("bold" if line.name.startswith(report.OWN) else "normal")
    axis.set_title(title, loc="left", fontsize=11.5, fontweight="bold")
    axis.grid(axis="x", color="#d9dce1", linewidth=0.7, zorder=0)
    axis.tick_params(length=0, labelbottom=True)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
