"""The cost per event, from 100,000 to 20 million events: time, memory and bytes. Each size runs in its own process.

usage: python benchmarks/scale.py [--events N ...] [--batches N] [-o FOLDER]

At every size the synthetic data have 50 events per user and 200 per item. `gather` times batches only; `deepfm` and
`din` time optimizer steps only, on batches gathered beforehand. Both are medians over batches of 1,024 rows from the
whole log, with histories of 20 events. Only the batch's embedding rows are updated (trainer.sparse): a dense optimizer
would visit the whole table in each step, and its cost would grow with the number of users and items.
Writes scale.json, scale.md and scale.png.
"""

import argparse
import json
import operator
import platform
import statistics
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

import recexp
from recexp import registry
from recexp.config import Config
from recexp.dataset.batch import Batches
from recexp.dataset.log import Dataset
from recexp.dataset.prepare import prepare
from recexp.model import Train
from recexp.process import own_process
from recexp.run.result import peak_memory_mb
from recexp.trainer.default import Trainer
from recexp.trainer.state import Progress
from recexp.trainer.step import Step

SIZES = (1e5, 1e6, 1e7, 2e7)
BATCH_SIZE, WARM_UP = 1024, 5
MODELS = ("deepfm", "din")
SPARSE = ["trainer.sparse=true", "trainer.optimizer=lazy_adam", "model.embedding_l2=0", "dataset.cache_dir=null"]
TIMES = {  # key: what is timed, and per what unit
    "generation": "generation, an event",
    "preparation": "preparation, an event",
    "shuffle": "shuffling an epoch, a row",
    "gather": "gather, a row",
    "deepfm": "DeepFM step, a row",
    "din": "DIN step, a row",
}
COLOURS = dict(zip(TIMES, ("#8a8f9c", "#a34ea1", "#c9a227", "#2f6db5", "#3a9b6e", "#d9822b"), strict=True))
INK = "#1f2430"


def configuration(model: str, n_events: int) -> Config:
    sizes = {"n_events": n_events, "n_users": n_events // 50, "n_items": n_events // 200}
    return recexp.load_config([f"model={model}", *SPARSE, *(f"dataset.{key}={value}" for key, value in sizes.items())])


def measure(n_events: int, n_batches: int) -> dict[str, Any]:
    """The costs of one size, in a process set up like the command line's; times in microseconds."""
    own_process()
    import pandas  # noqa: F401  so that its import is not counted as a cost of the data

    config = configuration("deepfm", n_events)
    torch.set_num_threads(config.trainer.threads or 1)
    began = time.perf_counter()
    raw = registry.get("reader", config.dataset.reader)(config.dataset).read()
    generated = time.perf_counter()
    dataset = prepare(raw, config.dataset)
    prepared = time.perf_counter()
    del raw
    memory = {"data": peak_memory_mb()}
    batches = Batches(dataset, config.dataset)
    found: dict[str, Any] = {
        "events": n_events,
        "seconds": {"generation": generated - began, "preparation": prepared - generated},
        "generation": (generated - began) / n_events * 1e6,
        "preparation": (prepared - generated) / n_events * 1e6,
        "bytes": accounting(dataset, batches),
    }
    found |= gathering(batches, n_batches)
    for model in MODELS:
        found[model] = stepping(configuration(model, n_events), dataset, batches, n_batches)
    return found | {"memory_mb": memory | {"training": peak_memory_mb()}}


def gathering(batches: Batches, n_batches: int) -> dict[str, float]:
    """Microseconds per row of the shuffle that starts an epoch, and of its batches."""
    epoch = batches.epoch("train", BATCH_SIZE, seed=0)
    moments = [time.perf_counter()]
    moments += [time.perf_counter() for _ in islice(epoch, n_batches)]
    first, *others = map(operator.sub, moments[1:], moments)
    return {"shuffle": first / batches.size("train") * 1e6, "gather": a_row(others)}


def stepping(config: Config, dataset: Dataset, batches: Batches, n_batches: int) -> float:
    """Microseconds per row of an optimizer step."""
    torch.manual_seed(0)
    model = registry.get("model", config.model.name)(config.model, dataset.schema)
    trainer = Trainer(config.trainer, torch.device("cpu"), seed=0)
    with trainer.numerics():
        step = Step(Train(name="train", model=model), config.model.loss_weights, 0.0, config.trainer, batches, 1)
        model.train()
        taken = []
        for index, batch in enumerate(islice(batches.epoch("train", BATCH_SIZE, seed=1), n_batches)):
            began = time.perf_counter()
            step(batch, Progress(step=index))
            taken.append(time.perf_counter() - began)
    return a_row(taken)


def a_row(taken: list[float]) -> float:
    """Microseconds per row of the median batch, since other processes use the machine too."""
    return statistics.median(taken[WARM_UP:] or taken) / BATCH_SIZE * 1e6


def accounting(dataset: Dataset, batches: Batches) -> dict[str, float]:
    """Bytes per event of everything kept per event, by name. On the CPU, batches share the columns of the log."""
    n = len(dataset.log)
    kept = {name: array.nbytes for name, array in dataset.log.arrays().items() if len(array) == n}
    kept["rows of the splits"] = sum(rows.nbytes for rows in batches.rows.values())
    kept["sampling pool"] = batches.catalogue.sampling_pool.nbytes
    return {name: size / n for name, size in kept.items() if size}


def apart(n_events: int, n_batches: int) -> dict[str, Any]:
    """`measure` in its own process, so that the peak memory is that of this size alone."""
    command = [sys.executable, __file__, "--one", str(n_events), "--batches", str(n_batches)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def table(sizes: list[dict[str, Any]]) -> str:
    """The results as a Markdown table."""
    head = ["events", *TIMES.values(), "bytes an event", "peak memory, data", "peak memory, training"]
    rows = [
        [
            f"{each['events']:,}",
            *(f"{each[key]:.3f} µs" for key in TIMES),
            f"{sum(each['bytes'].values()):.1f}",
            *(f"{each['memory_mb'][stage]:,.0f} MB" for stage in ("data", "training")),
        ]
        for each in sizes
    ]
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
    last = sizes[-1]
    told = ", ".join(f"{name} {size:.1f}" for name, size in last["bytes"].items())
    grown = ", ".join(f"{key} {last[key] / sizes[0][key]:.2f}" for key in TIMES)
    return "\n".join([
        *lines,
        "",
        f"Bytes an event at {last['events']:,} events: {told}.",
        f"Cost of {last['events']:,} events over that of {sizes[0]['events']:,}: {grown}.",
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}.",
        "",
    ])  # fmt: skip


def draw(sizes: list[dict[str, Any]], path: Path) -> None:
    figure = Figure(figsize=(11.5, 4.6), facecolor="white", layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.3, 1))
    events = [each["events"] for each in sizes]
    for key, name in TIMES.items():
        values = [each[key] for each in sizes]
        left.annotate(name, (events[-1], values[-1]), (9, 0), va="center", **label(COLOURS[key]))
        left.plot(events, values, **line(COLOURS[key]))
    memory = {
        ("peak, with training", COLOURS["din"]): [each["memory_mb"]["training"] for each in sizes],
        ("peak, data alone", COLOURS["gather"]): [each["memory_mb"]["data"] for each in sizes],
        ("the log", COLOURS["preparation"]): [sum(each["bytes"].values()) * each["events"] / 2**20 for each in sizes],
    }
    for place, ((name, colour), values) in zip((9, -9, 0), memory.items(), strict=True):  # the first two end together
        right.annotate(name, (events[-1], values[-1]), (9, place), va="center", **label(colour))
        right.plot(events, values, **line(colour))
    for axis, title, room in ((left, "microseconds", 16), (right, "memory, MB", 14)):
        axis.set_title(title, loc="left", color=INK, fontsize=11)
        axis.set(xscale="log", yscale="log", xlabel="events", xlim=(events[0] / 1.4, events[-1] * room))
        axis.set_xticks(events, [f"{each / 1e6:g}M" for each in events])
        axis.minorticks_off()
        axis.yaxis.set_major_formatter("{x:,g}")
        axis.grid(color="#e4e6eb", linewidth=0.8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def line(colour: str) -> dict[str, Any]:
    return {"color": colour, "marker": "o", "markersize": 4.5, "linewidth": 1.8}


def label(colour: str) -> dict[str, Any]:
    return {"textcoords": "offset points", "color": colour, "fontsize": 9}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=float, nargs="+", default=SIZES)
    parser.add_argument("--batches", type=int, default=300, help="most batches per measurement")
    parser.add_argument("-o", "--output", type=Path, default=Path("outputs/bench"))
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    typed = parser.parse_args()
    if typed.one:
        print(json.dumps(measure(typed.one, typed.batches)))
        return
    sizes = []
    for n_events in sorted(int(each) for each in typed.events):
        sizes.append(apart(n_events, typed.batches))
        print(f"{n_events:,} events measured", file=sys.stderr, flush=True)
    typed.output.mkdir(parents=True, exist_ok=True)
    (typed.output / "scale.json").write_text(json.dumps(sizes, indent=1), "utf-8")
    (typed.output / "scale.md").write_text(table(sizes), "utf-8")
    draw(sizes, typed.output / "scale.png")
    print(table(sizes), end="")


if __name__ == "__main__":
    main()
