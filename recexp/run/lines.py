"""Lines that a run shows on the terminal: data and model before, one per epoch, a small table after."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from recexp.metric.table import HEADLINE, SUMMARY, among, rank_metric
from recexp.terminal import columns

if TYPE_CHECKING:
    import torch

    from recexp.config import Config
    from recexp.dataset.log import Dataset

SHOWN = 6  # columns with unknown values, by name


def data_line(name: str, dataset: "Dataset") -> str:
    """Sizes, label rate and unknown ids of a dataset, in one line."""
    facts = dataset.facts
    sizes = [f"{facts[key]:,} {key}" for key in ("users", "items") if key in facts]
    rows = ", ".join(f"{split} {count:,}" for split, count in facts["rows"].items())
    rates = f"label rate {facts['label_rate']['train']:.3f}"
    if tasks := facts.get("tasks"):
        rates = "label rates " + ", ".join(f"{task} {_label_rate(**label)}" for task, label in tasks.items())
    line = f"data   {name}: {', '.join([*sizes, f'rows {rows}'])}; {rates}"
    unknown = _unknown(facts["unknown_rate"].get("test", {}))
    return f"{line}; unknown in test: {', '.join(unknown)}" if unknown else line


def _unknown(rates: dict[str, float]) -> list[str]:
    """The shares of unknown values above 0; of many columns only the largest shares."""
    rates = {name: share for name, share in rates.items() if share}
    largest = sorted(rates, key=lambda name: -rates[name])
    named = largest[:SHOWN] if len(largest) > SHOWN + 1 else largest
    shown = [f"{name} {share:.1%}" for name, share in rates.items() if name in named]
    if others := largest[len(named) :]:
        shown.append(f"{len(others)} more columns at most {rates[others[0]]:.1%}")
    return shown


def _label_rate(rate: float | None, known: float) -> str:
    return ("-" if rate is None else f"{rate:.3f}") + ("" if known > 0.9995 else f" (of {known:.1%} of rows)")


def model_line(config: "Config", model: "torch.nn.Module", device: "torch.device") -> str:
    """The size of the model, and where it is trained."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    threads = f", {config.trainer.threads} threads" if device.type == "cpu" else ""
    chosen = " (chosen by device=auto)" if config.device == "auto" else ""
    where = f"{device}{chosen}{threads}, {config.trainer.precision.name}"
    return f"model  {config.model.name}: {parameters:,} parameters on {where}"


def epoch_line(line: dict[str, Any], monitor: str) -> str:
    """An epoch in one line: losses, valid metrics, speed."""
    losses = "  ".join(f"{name} {value:.4f}" for name, value in line["losses"].items())
    names = dict.fromkeys([monitor, *among(line["valid"], HEADLINE)])
    valid = "  ".join(f"{name} {number(line['valid'].get(name))}" for name in names if name in line["valid"])
    speed = f"{line['samples_per_second']:,.0f} samples/s"
    return f"{line['stage']} {line['epoch']:>3}  {losses}{'  |  ' if losses else ''}valid {valid}  |  {speed}"


def result_lines(metrics: dict[str, Any], path: Path) -> list[str]:
    """The closing table, and the run directory."""
    splits = [split for split in ("valid", "test", "oracle") if metrics.get(split)]
    measured = dict.fromkeys(name for split in splits for name in metrics[split])
    names = [*among(measured, SUMMARY), *(name for name in measured if rank_metric(name))]
    width = max([14, *(len(name) + 2 for name in names)])
    lines = ["", " " * width + "".join(f"{split:>10}" for split in splits)]
    for name in names:
        lines.append(f"{name:{width}}" + "".join(f"{number(metrics[split].get(name)):>10}" for split in splits))
    lines += group_lines(metrics.get("groups", {}))
    if (share := metrics.get("share_of_oracle")) is not None:
        lines.append(f"{share:.1%} of the way from 0.5 to the oracle's AUC")
    if metrics["status"] == "pruned":
        lines.append("pruned: a file named stop lay in the directory between two epochs; test is not scored")
    if reason := metrics.get("reasons", {}).get("best_epoch"):
        lines.append(reason)
    lines += [
        f"best epoch {metrics['best_epoch']} of {metrics['epochs']}, {metrics['seconds']:.1f} s, "
        f"{metrics['samples_per_second']:,.0f} samples/s, {metrics['peak_memory_mb']:,.0f} MB",
        str(path),
    ]
    return lines


def group_lines(kinds: dict[str, Any]) -> list[str]:
    """The ndcg of test by groups of users and items, with the number of users."""
    lines = []
    for kind, groups in kinds.items():
        names = [name for name in next(iter(groups.values()), {}) if name.startswith("ndcg")]
        rows = [[kind, "users", *names]]
        for group, metrics in groups.items():
            rows.append([group, f"{metrics['users']:,}", *(number(metrics.get(name)) for name in names)])
        lines += ["", *columns(rows, right=range(1, len(names) + 2))]
    return [*lines, ""] if lines else []


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
