"""The results as a Markdown table, and the summary that the table and the picture share."""

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

OWN, BARE = "recexp", "bare loop"

NOTES = """\
The same for all: rows, labels, splits, histories (the last 20 events strictly before) and ids; batch size, embedding
size, MLP, attention MLP, encoder, Adam and its learning rate; no dropout, no L2; threads. Initial weights are each
library's own.

- Torch-RecHub: its DIN has no mask, so padding is scored like events and counts in batch statistics; the MLP of its
  DIN and DIEN has Dice. Its DIEN always computes the auxiliary loss, here with weight 0. Its BST fixes the size of the
  feed-forward layer at 2,048; its encoder is replaced by one of the common size.
- DeepCTR-Torch: no BST. It is timed with metrics on every training batch, as in its examples, and without; the better
  result counts. Its DIEN scores events by an MLP where the others have a bilinear form.
- FuxiCTR: its DIEN cannot compute the auxiliary loss. Its BST concatenates positions to the item, so its encoder is
  twice as wide. It always clips the gradient. Its loaders have no worker processes, which would make it slower here.
- RecBole: no BST. Its DIN and DIEN have Dice and batch normalisation in the MLP and score events by an MLP; its DIN
  leaves the user out. Its DIEN always computes the auxiliary loss, here with weight 0. It accepts no empty history, so
  a special item stands in it. It is trained on the common rows and histories; where it prepares the data itself,
  histories follow its own order and contain events with the same timestamp.
- recexp trains whole epochs through its command line, deterministically; the bare loop is plain PyTorch with fused Adam
  on prepared tensors. Slow libraries are timed on fewer batches per epoch.

samples/s: training time only, the median over epochs after the first, then over rounds; in parentheses the slowest and
the fastest round. Ratios are taken within a round; the table shows their median. Peak memory is that of the process
itself. Test AUC: at the best epoch on the validation split, one seed. Share of fp32 rate: samples/s times flops per
sample, divided by the machine's best rate for the model's matrix products, measured in the same rounds.
torch.utils.flop_counter counts the flops of the bare loop's model, forward and backward; the same count is used for
all, whatever else a library computes.
"""


PREPARATION = """\
Seconds to read, index and split; imports are not counted, nothing is cached. recexp stores no histories; its batches
gather them. By hand: pandas, LabelEncoder and numpy, because Torch-RecHub and DeepCTR-Torch leave this to their users.
FuxiCTR's files are already split and contain the histories. RecBole builds the histories, event by event.
"""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A library's results for one model."""

    name: str
    speeds: list[float]  # one per round
    to_peer: float | None  # median ratio to the fastest peer of the round
    to_bare: float | None
    memory: float
    share: float  # of the machine's rate
    auc: float | None
    evaluation: float | None  # rows per second

    @property
    def speed(self) -> float:
        return statistics.median(self.speeds)


def models(results: dict[str, Any]) -> list[str]:
    return list(results["rounds"][0])


def summary(results: dict[str, Any], model: str) -> list[Line]:
    """A line for each library that ran in every round, the fastest first."""
    rounds = [{name: best(lines) for name, lines in lap[model].items()} for lap in results["rounds"]]
    names = [name for name in rounds[0] if all(lap.get(name) for lap in rounds)]
    speeds = {name: [lap[name]["samples_per_second"] for lap in rounds] for name in names}
    fastest_peer = [max(lap) for lap in zip(*(speeds[name] for name in names if is_peer(name)), strict=True)]
    flops, rate = rate_of(results, model)
    trained = results.get("accuracy", {}).get(model, {})
    lines = [
        Line(
            name=name,
            speeds=speeds[name],
            to_peer=ratio(speeds[name], fastest_peer),
            to_bare=ratio(speeds[name], speeds.get(BARE, [])),
            memory=max(lap[name]["peak_memory_mb"] for lap in rounds),
            share=statistics.median(speeds[name]) * flops / rate,
            auc=trained.get(name, {}).get("test_auc"),
            evaluation=trained.get(name, {}).get("evaluation_rows_per_second"),
        )
        for name in names
    ]
    return sorted(lines, key=lambda line: -line.speed)


def is_peer(name: str) -> bool:
    return not name.startswith(OWN) and name != BARE


def best(lines: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """The fastest of a library's entries in a round; None if all failed."""
    ran = [line for line in lines if "samples_per_second" in line]
    return max(ran, key=lambda line: line["samples_per_second"], default=None)


def rate_of(results: dict[str, Any], model: str) -> tuple[float, float]:
    """Flops per sample, and the machine's best rate over the rounds."""
    lines = [lap[model] for lap in results["rates"]]
    return lines[0]["flops_per_sample"], max(line["flops_per_second"] for line in lines)


def ratio(ours: list[float], theirs: list[float]) -> float | None:
    """The median of the ratios within rounds."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True)) if theirs else None


def markdown(results: dict[str, Any]) -> str:
    parts = [circumstances(results, len(results["rounds"]))]
    parts += [speed_table(results, model) for model in models(results)]
    if "preparation" in results:
        parts.append(preparation_table(results["preparation"]))
    if failed := errors(results):
        parts.append("Failed:\n\n" + "".join(f"- {error}\n" for error in failed))
    return "\n".join([*parts, NOTES])


def circumstances(results: dict[str, Any], n_rounds: int) -> str:
    """The machine, and what is missing."""
    it = results["machine"]
    host = f"{it['cpu']}, {it['cores']} cores, {it['system']}; Python {it['python']}, torch {it['torch']}"
    counted = [f"{n} {word}{'s' if n > 1 else ''}" for n, word in ((it["threads"], "thread"), (n_rounds, "round"))]
    absent = f"\nNot installed, so left out: {', '.join(results['absent'])}.\n" if results["absent"] else ""
    return f"{host}; {', '.join(counted)}.\n{absent}"


def speed_table(results: dict[str, Any], model: str) -> str:
    flops, rate = rate_of(results, model)
    told = f"{flops / 1e6:.3g} Mflop per sample, forward and backward; products at up to {rate / 1e9:.0f} Gflop/s"
    header = ["", "samples/s", "to the fastest peer", "to the bare loop", "share of fp32 rate", "peak MB", "test AUC",
              "evaluation rows/s"]  # fmt: skip
    rows = [
        [
            f"**{line.name}**" if line.name.startswith(OWN) else line.name,
            f"{line.speed:,.0f} ({min(line.speeds):,.0f} to {max(line.speeds):,.0f})",
            shown(line.to_peer, "{:.2f}".format),
            shown(line.to_bare, "{:.2f}".format),
            f"{line.share:.1%}",
            f"{line.memory:,.0f}",
            shown(line.auc, "{:.4f}".format),
            shown(line.evaluation, "{:,.0f}".format),
        ]
        for line in summary(results, model)
    ]
    return f"### {model}\n\n{told}.\n\n{table(header, rows)}"


def preparation_table(preparation: dict[str, Any]) -> str:
    """Seconds by library; columns are data sets and kinds of model."""
    columns = [(name, kind) for name in preparation for kind in preparation[name]]
    names = list(dict.fromkeys(library for name, kind in columns for library in preparation[name][kind]))
    rows = []
    for library in names:
        cells = []
        for name, kind in columns:
            lines = preparation[name][kind].get(library, [])
            seconds = [line["seconds"]["preparation"] for line in lines if "seconds" in line]
            cells.append(f"{statistics.median(seconds):.2f}" if seconds else "")
        rows.append([f"**{library}**" if library == OWN else library, *cells])
    header = ["", *(f"{name}, {'ids' if kind == 'sequence' else 'eight fields'}" for name, kind in columns)]
    return f"### preparation\n\n{PREPARATION}\n{table(header, rows)}"


def table(header: list[str], rows: list[list[str]]) -> str:
    """Names left-aligned, numbers right-aligned."""
    aligned = ["---", *["---:"] * (len(header) - 1)]
    return "".join("| " + " | ".join(row) + " |\n" for row in (header, aligned, *rows))


def shown(value: float | None, form: Callable[[float], str]) -> str:
    return "" if value is None else form(value)


def errors(results: dict[str, Any]) -> list[str]:
    """All error messages, without duplicates."""

    def errors_in(tree: Any) -> Iterable[str]:
        if isinstance(tree, dict):
            if "error" in tree:
                yield tree["error"]
            for branch in tree.values():
                yield from errors_in(branch)
        elif isinstance(tree, list):
            for branch in tree:
                yield from errors_in(branch)

    return list(dict.fromkeys(errors_in(results)))
