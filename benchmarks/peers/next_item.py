"""recexp side by side with other libraries and a plain PyTorch loop: training on next items, and ranking all items.

usage: python benchmarks/peers/next_item.py [EXPERIMENT ...] [--data FILE] [--rounds N] [--threads N] [--quick]

--data is a log of one user a line: the user, then the items in their order. A synthetic one of a million events and
100,000 items is measured too. As in run.py, every measurement is a process of its own, a round runs every library once,
and ratios are taken within a round. An epoch takes some libraries many minutes, so it is extrapolated from a fixed
number of its batches, after as many to warm up. Ranking is timed where the loss is over all items. --quick only asserts
that recexp and the plain loop run.
"""

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import report
from numpy.typing import ArrayLike
from ranker import LOG
from run import Entry, call, machine
from worker import NEXT_ITEM

LOOP = "plain loop"
EPOCHS = 2  # the first warms up
SYNTHETIC = (100_000, 100_000)  # users and items; 10 events a user
QUICK = (300, 200)
SIZES = {
    "embedding_dim": 64, "n_heads": 1, "hidden_size": 64, "dropout": 0.2, "max_history": 50, "batch_size": 128,
    "n_negatives": 256, "learning_rate": 1e-3, "eval_batch_size": 1024,
}  # fmt: skip
TITLES = {
    "sasrec_sampled": "256 negatives an event", "sasrec_shared": "256 shared by a batch", "sasrec_full": "all items",
    "gru4rec_full": "GRU4Rec, all items",
}  # fmt: skip
# Batches of an epoch that are timed; those of Beauty are 175, RecBole's 1,027.
BATCHES = dict.fromkeys(NEXT_ITEM, 40)
ENTRIES = (
    Entry(name="recexp", driver="next_recexp", batches=BATCHES),
    Entry(name=LOOP, driver="next_loop", batches=BATCHES),
    Entry(name="RecTools", driver="next_rectools", environment="rectools",
          batches={"sasrec_sampled": 5, "sasrec_full": 5}),
    Entry(name="RecBole", driver="next_recbole", environment="recbole",
          batches={"sasrec_full": 40, "gru4rec_full": 40}),
)  # fmt: skip
NOTES = """\
The same for all: the log, its split (each user's last event is test, the one before valid), 64 dimensions, one block
with one head and 64 hidden units, or one GRU; dropout 0.2, the last 50 events, 128 windows a step, Adam with learning
rate 1e-3, threads. Only events that have a next one count in the loss. Initial weights are each library's own.

- RecTools: losses and, with sampled softmax, negatives of padding too; pads on the left to 50.
- RecBole: a sample is a prefix, so an epoch has as many as there are next items, and 128 of them are a step. It has no
  sampled softmax, and ranks items that the user has seen.
- recexp packs windows, so padding costs nothing; the loop pads on the right to 50. Both leave out seen items.

Seconds an epoch: extrapolated from so many batches, after as many to warm up. Ranking: all items for all users of test
with the best 10, through each library's own evaluation. Ratios are taken within a round. Memory is the largest of the
process, with ranking where that is timed.
"""


def synthetic(n_users: int, n_items: int) -> list[np.ndarray]:
    """Items by a power law, 5 events or more a user, 10 on average."""
    rng = np.random.default_rng(0)
    length = 4 + rng.geometric(1 / 6, n_users)
    chance = np.arange(1, n_items + 1) ** -0.7
    return divided(rng.choice(n_items, length.sum(), p=chance / chance.sum()), length)


def read(path: Path) -> list[np.ndarray]:
    """A user's file with items numbered from 1, without users of fewer than 3 events."""
    with path.open(encoding="utf-8") as file:
        lines = [line.split()[1:] for line in file]
    kept = [line for line in lines if len(line) > 2]
    return divided(np.concatenate(kept), [len(line) for line in kept])


def divided(items: np.ndarray, length: ArrayLike) -> list[np.ndarray]:
    """The items of each user, numbered from 1."""
    numbers = np.unique(items, return_inverse=True)[1] + 1
    return np.split(numbers, np.cumsum(length)[:-1])


def write_log(log: list[np.ndarray], folder: Path) -> None:
    """Inputs of all workers: the log, and the settings of each experiment."""
    (folder / "next_item").mkdir(parents=True)
    lines = (f"{user} {' '.join(map(str, items))}\n" for user, items in enumerate(log, 1))
    (folder / "next_item" / LOG).write_text("".join(lines), "utf-8")
    n_items = int(max(items.max() for items in log))
    for experiment in NEXT_ITEM:
        model, _, loss = experiment.partition("_")
        settings = SIZES | {"kind": "next_item", "model": model, "loss": loss, "n_items": n_items, "vocabulary": {}}
        (folder / f"{experiment}.json").write_text(json.dumps(settings, indent=1), "utf-8")


def one_run(entry: Entry, experiment: str, inputs: Path, threads: int, options: Iterable[Any]) -> dict[str, Any]:
    given = ["--epochs", EPOCHS, "--max-batches", entry.batches[experiment]]
    evaluated = ["--evaluate"] if experiment.endswith("full") else []
    return call(entry, experiment, inputs, threads, [*given, *evaluated, *options])


def told(line: dict[str, Any]) -> str:
    if "error" in line:
        return line["error"]
    ranking = f"{line['ranking_seconds']:.1f} s to rank, " if "ranking_seconds" in line else ""
    return f"{line['epoch_seconds']:.1f} s an epoch, {ranking}{line['peak_memory_mb']:,.0f} MB"


def one_round(entries: Iterable[Entry], typed: argparse.Namespace, inputs: Path, title: str) -> dict[str, dict]:
    """The lines by experiment and library."""
    lines: dict[str, dict[str, dict]] = {experiment: {} for experiment in typed.experiments}
    options = ["--processor-time"] if typed.processor_time else []
    for experiment in lines:
        for entry in entries:
            if experiment in entry.batches:
                line = lines[experiment][entry.name] = one_run(entry, experiment, inputs, typed.threads, options)
                print(f"{title}  {experiment:15} {entry.name:11} {told(line)}", flush=True)
    return lines


def quick(folder: Path) -> None:
    """Raises SystemExit if a worker fails."""
    write_log(synthetic(*QUICK), folder)
    jobs = [(entry, "sasrec_full") for entry in ENTRIES[:2]]
    few = ["--epochs", 1, "--max-batches", 2]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        lines = list(pool.map(lambda job: one_run(*job, folder, 1, few), jobs))
    if failed := [line["error"] for line in lines if "error" in line]:
        raise SystemExit("\n".join(failed))
    print(f"ran: {', '.join(f'{experiment} {entry.name}' for entry, experiment in jobs)}; nothing was measured")


def main(typed: argparse.Namespace) -> None:
    installed = [entry for entry in ENTRIES if entry.installed()]
    absent = sorted({entry.name for entry in ENTRIES} - {entry.name for entry in installed})
    if absent:
        print(f"not installed, so left out: {', '.join(absent)}; make bench-peers installs them", flush=True)
    folder = Path(typed.output).resolve()
    shutil.rmtree(folder / "logs", ignore_errors=True)
    logs = {} if typed.no_synthetic else {"synthetic": synthetic(*SYNTHETIC)}
    if typed.data:
        logs = {typed.data.stem: read(typed.data), **logs}
    results: dict[str, Any] = {"machine": machine(typed.threads), "absent": absent, "logs": {}}
    for name, log in logs.items():
        inputs = folder / "logs" / name
        write_log(log, inputs)
        measured = results["logs"][name] = {"size": size(log), "rounds": []}
        for number in range(1, typed.rounds + 1):
            title = f"{name} {number} of {typed.rounds}"
            measured["rounds"].append(one_round(installed, typed, inputs, title))
            (folder / "next_item.json").write_text(json.dumps(results, indent=1), "utf-8")
    (folder / "next_item.md").write_text(markdown(results), "utf-8")
    print("\n" + markdown(results))


def size(log: list[np.ndarray]) -> str:
    n_events, n_items = sum(map(len, log)), max(items.max() for items in log)
    return f"{len(log):,} users, {n_items:,} items, {n_events:,} events"


def markdown(results: dict[str, Any]) -> str:
    parts = [report.circumstances(results, len(next(iter(results["logs"].values()))["rounds"]))]
    for name, log in results["logs"].items():
        parts.append(f"### {name}: {log['size']}\n\n{table(log['rounds'])}")
    if failed := report.errors(results):
        parts.append("Failed:\n\n" + "".join(f"- {error}\n" for error in failed))
    return "\n".join([*parts, NOTES])


def table(rounds: list[dict[str, dict[str, dict]]]) -> str:
    """Seconds by library and experiment, then those of ranking, the ratios, and memory."""
    columns = [(experiment, "epoch_seconds", TITLES[experiment]) for experiment in rounds[0]]
    columns += [(e, "ranking_seconds", f"ranking, {e.partition('_')[0]}") for e in rounds[0] if e.endswith("full")]
    names = list(dict.fromkeys(name for lines in rounds[0].values() for name in lines))

    def cells(show: Callable[[dict[str, list[float]]], str]) -> list[str]:
        return [show(measured(rounds, experiment, key)) for experiment, key, _ in columns]

    rows = [[f"**{name}**" if name == report.OWN else name, *cells(lambda of, name=name: middle(of.get(name)))]
            for name in names]  # fmt: skip
    rows.append([f"{LOOP} / recexp", *cells(lambda of: times(of, [LOOP]))])
    peers = [name for name in names if name not in (report.OWN, LOOP)]
    rows.append(["fastest library / recexp", *cells(lambda of: times(of, peers))])
    for name in names:
        memory = [
            measured(rounds, experiment, "peak_memory_mb").get(name) for experiment, *_ in columns[: len(rounds[0])]
        ]
        blank = [""] * (len(columns) - len(rounds[0]))
        rows.append([f"peak MB: {name}", *(f"{max(of):,.0f}" if of else "" for of in memory), *blank])
    return report.table(["seconds", *(title for *_, title in columns)], rows)


def measured(rounds: list[dict[str, dict[str, dict]]], experiment: str, key: str) -> dict[str, list[float]]:
    """A value of each library that gave it in all rounds, by round."""
    names = rounds[0][experiment]
    return {name: [lap[experiment][name][key] for lap in rounds] for name in names
            if all(key in lap[experiment][name] for lap in rounds)}  # fmt: skip


def middle(seconds: list[float] | None) -> str:
    return f"{np.median(seconds):.1f}" if seconds else ""


def times(of: dict[str, list[float]], names: list[str]) -> str:
    """How many times as long the fastest of these takes."""
    theirs = [of[name] for name in names if name in of]
    if report.OWN not in of or not theirs:
        return ""
    return f"{report.ratio([min(lap) for lap in zip(*theirs, strict=True)], of[report.OWN]):.1f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("experiments", nargs="*", help=f"any of {', '.join(NEXT_ITEM)}; default: all")
    parser.add_argument("--data", type=Path, help="a log of one user a line, such as S3-Rec's Beauty.txt")
    parser.add_argument("--no-synthetic", action="store_true", help="measure on the file alone")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--processor-time", action="store_true", help="for one thread on a machine that others use too")
    parser.add_argument("-o", "--output", default="outputs/bench")
    parser.add_argument("--quick", action="store_true")
    typed = parser.parse_args()
    typed.experiments = typed.experiments or list(NEXT_ITEM)
    if unknown := set(typed.experiments) - set(NEXT_ITEM):
        parser.error(f"no such experiment: {', '.join(sorted(unknown))}; there are {', '.join(NEXT_ITEM)}")
    if typed.no_synthetic and not typed.data:
        parser.error("--no-synthetic leaves nothing to measure without --data")
    if typed.processor_time and typed.threads != 1:
        parser.error("--processor-time counts waiting threads too; add --threads 1")
    if typed.quick:
        with tempfile.TemporaryDirectory() as folder:
            quick(Path(folder))
    else:
        main(typed)
