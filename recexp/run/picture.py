"""curves.png: every named loss and the validation metrics by epoch, with the best epoch marked."""

from itertools import cycle
from pathlib import Path
from typing import Any

from recexp.metric.table import MAIN, among, headline, of_label
from recexp.run.read import read_epochs, read_json
from recexp.storage import replacing

INK, MUTED, PAPER = "#1f2430", "#8a8f9c", "#ffffff"
COLOURS = ("#2f6db5", "#d9822b", "#3a9b6e", "#a34ea1", "#c0483f")


def draw(path: Path) -> None:
    """Draws the curves of a run directory into it; nothing if there are no epochs."""
    from matplotlib.figure import Figure

    epochs, _ = read_epochs(path)
    if not epochs:
        return
    metrics = read_json(path / "metrics.json") or {}
    losses = list(dict.fromkeys(name for line in epochs for name in line["losses"]))
    measured = dict.fromkeys(name for line in epochs for name, value in line["valid"].items() if value is not None)
    valid = headline(measured)
    panels = [("loss", name) for name in losses] + [("valid", name) for name in valid]
    if not panels:
        return
    n_columns = min(3, len(panels))
    n_rows = -(-len(panels) // n_columns)
    figure = Figure(figsize=(4.2 * n_columns, 2.9 * n_rows + 0.5), facecolor=PAPER, layout="constrained")
    axes = figure.subplots(n_rows, n_columns, squeeze=False).flat
    for axis, (kind, name), colour in zip(axes, panels, cycle(COLOURS), strict=False):
        _panel(axis, kind, name, colour, epochs, _best(epochs, metrics), metrics)
    for axis in list(figure.axes)[len(panels) :]:
        axis.set_visible(False)
    figure.suptitle(_title(metrics, path), x=0.01, ha="left", color=INK, fontsize=11)
    with replacing(path / "curves.png") as file:
        figure.savefig(file, format="png", dpi=130)


def _panel(
    axis: Any,
    kind: str,
    name: str,
    colour: str,
    epochs: list[dict[str, Any]],
    best: int | None,
    metrics: dict[str, Any],
) -> None:
    key = "losses" if kind == "loss" else "valid"
    points = [(index + 1, line[key][name]) for index, line in enumerate(epochs) if line[key].get(name) is not None]
    x, y = zip(*points, strict=True)
    axis.plot(x, y, color=colour, linewidth=1.8, marker="o", markersize=4)
    if best is not None and best in x:
        _mark(axis, best, y[x.index(best)], colour)
    if kind == "valid" and (oracle := (metrics.get("oracle") or {}).get(name)) is not None:
        _draw_oracle(axis, oracle)
    axis.set_title(f"{'training loss' if kind == 'loss' else 'valid'}: {name}", loc="left", color=INK, fontsize=10)
    axis.set_xlabel("epoch", color=MUTED, fontsize=9)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.margins(x=0.08, y=0.18)
    axis.tick_params(colors=MUTED, labelsize=8)
    axis.grid(axis="y", color="#eceef2", linewidth=0.8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color("#c9ccd4")


def _mark(axis: Any, epoch: int, value: float, colour: str) -> None:
    """Marks the best epoch, and writes its value."""
    axis.axvline(epoch, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    axis.plot(
        [epoch], [value], marker="o", markersize=8, markerfacecolor=PAPER, markeredgecolor=colour, markeredgewidth=2
    )
    box = {"facecolor": PAPER, "edgecolor": "none", "pad": 1, "alpha": 0.8}
    axis.annotate(f"{value:.4f}", (epoch, value), textcoords="offset points", xytext=(7, 7), color=INK, fontsize=9,
                  bbox=box)  # fmt: skip


def _draw_oracle(axis: Any, value: float) -> None:
    axis.axhline(value, color=MUTED, linewidth=1)
    axis.annotate("oracle (test)", (1, value), xycoords=("axes fraction", "data"), xytext=(-2, 3),
                  textcoords="offset points", ha="right", color=MUTED, fontsize=8)  # fmt: skip


def _best(epochs: list[dict[str, Any]], metrics: dict[str, Any]) -> int | None:
    """The best epoch, counted over all lines: epochs of earlier stages come first."""
    last = epochs[-1]["stage"]
    earlier = sum(line["stage"] != last for line in epochs)
    return earlier + metrics["best_epoch"] if metrics.get("best_epoch") else None


def _title(metrics: dict[str, Any], path: Path) -> str:
    if not metrics:
        return path.name
    values = {name: metrics["test"][name] for name in among(metrics["test"], [MAIN])}
    auc = "".join(f", test {_upper(name)} {value:.4f}" for name, value in values.items() if value is not None)
    return (
        f"{metrics['model']} on {metrics['dataset']}, seed {metrics['seed']}: best epoch {metrics['best_epoch']}{auc}"
    )


def _upper(name: str) -> str:
    """AUC, or as AUC/like of one of several labels."""
    metric, _, label = name.partition("/")
    return of_label(metric.upper(), label)
