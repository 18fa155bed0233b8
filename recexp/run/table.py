"""What the terminal shows: a few lines on the data before, a small table after."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from recexp.metric.table import HEADLINE, SUMMARY

if TYPE_CHECKING:
    import torch

    from recexp.config import Config
    from recexp.dataset.log import Dataset


def data_line(name: str, dataset: "Dataset") -> str:
    """Sizes, label rate and unknown ids of a dataset, in one line."""
    facts = dataset.facts
    sizes = [f"{facts[key]:,} {key}" for key in ("users", "items") if key in facts]
    rows = ", ".join(f"{part} {count:,}" for part, count in facts["rows"].items())
    rate = facts["label_rate"]["train"]
    unknown = {name: share for name, share in facts["unknown_rate"].get("test", {}).items() if share}
    told = (
        "; unknown in test: " + ", ".join(f"{name} {share:.1%}" for name, share in unknown.items()) if unknown else ""
    )
    return f"data   {name}: {', '.join([*sizes, f'rows {rows}'])}; label rate {rate:.3f}{told}"


def model_line(config: "Config", model: "torch.nn.Module", device: "torch.device") -> str:
    """The model's size, and on what it is trained."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    threads = f", {config.trainer.threads} threads" if device.type == "cpu" else ""
    chosen = " (chosen by device=auto)" if config.device == "auto" else ""
    placed = f"{device}{chosen}{threads}, {config.trainer.precision.name}"
    return f"model  {config.model.name}: {parameters:,} parameters on {placed}"


def epoch_line(line: dict[str, Any], monitor: str) -> str:
    """An epoch in one line: losses, valid metrics, speed."""
    losses = "  ".join(f"{name} {value:.4f}" for name, value in line["losses"].items())
    names = dict.fromkeys([monitor, *HEADLINE])
    valid = "  ".join(f"{name} {number(line['valid'].get(name))}" for name in names if name in line["valid"])
    speed = f"{line['samples_per_second']:,.0f} samples/s"
    return f"{line['stage']} {line['epoch']:>3}  {losses}{'  |  ' if losses else ''}valid {valid}  |  {speed}"


def result_lines(metrics: dict[str, Any], path: Path) -> list[str]:
    """The closing table and where everything lies."""
    columns = [part for part in ("valid", "test", "oracle") if metrics.get(part)]
    lines = ["", f"{'':14}" + "".join(f"{name:>10}" for name in columns)]
    for name in SUMMARY:
        lines.append(f"{name:14}" + "".join(f"{number(metrics[part].get(name)):>10}" for part in columns))
    if (share := metrics.get("share_of_oracle")) is not None:
        lines.append(f"{share:.1%} of the way from 0.5 to the oracle's AUC")
    if metrics["status"] == "pruned":
        lines.append("pruned: a file named stop lay in the directory between two epochs; test is not scored")
    lines += [
        f"best epoch {metrics['best_epoch']} of {metrics['epochs']}, {metrics['seconds']:.1f} s, "
        f"{metrics['samples_per_second']:,.0f} samples/s, {metrics['peak_memory_mb']:,.0f} MB",
        str(path),
    ]
    return lines


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def columns(rows: list[list[str]]) -> list[str]:
    """Rows of cells as lines, each column as wide as its widest cell."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))] if rows else []
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
