"""Shared by all workers: arguments, rows, the clock, and the line of JSON that they print. It needs only numpy.

A worker is `python drive_LIBRARY.py --model M --data FOLDER ...`. It defines how its library prepares the data and
builds the model; `work` times both, trains, evaluates and prints.
"""

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

STARTED = time.perf_counter()  # workers import this module before their library
PARTS = ("train", "valid", "test")
MODELS = ("deepfm", "din", "dien", "bst")
FIELDS = ("deepfm", "dcnv2", "ffm", "nfm", "pnn", "onn", "xdeepfm", "autoint", "fibinet", "finalmlp")  # of fields.py
NEXT_ITEM = ("sasrec_sampled", "sasrec_shared", "sasrec_full", "gru4rec_full")  # of next_item.py


@dataclass(frozen=True)
class Rows:
    """n rows of a split. Ids are those of recexp: 0 for padding, 1 for unknown, values from 2 on."""

    label: np.ndarray  # (n,) float32
    columns: dict[str, np.ndarray]  # (n,) int32 by field: user, item, ...
    history: np.ndarray | None = None  # (n, L) int32 item ids, oldest first, padded with 0 on the right
    length: np.ndarray | None = None  # (n,) int32, events in each history

    def __len__(self) -> int:
        return len(self.label)

    def take(self, index: np.ndarray) -> "Rows":
        columns = {name: column[index] for name, column in self.columns.items()}
        if self.history is None or self.length is None:
            return Rows(self.label[index], columns)
        return Rows(self.label[index], columns, self.history[index], self.length[index])


class Job:
    """The arguments of a worker, and the experiment's settings for its model."""

    def __init__(self, **flags: str) -> None:
        """flags: names of additional switches, with their help texts."""
        parser = argparse.ArgumentParser()
        parser.add_argument("--model", choices=(*MODELS, *FIELDS, *NEXT_ITEM), required=True)
        parser.add_argument("--data", type=Path, required=True, help="folder that data.py wrote")
        parser.add_argument("--threads", type=int, default=1)
        parser.add_argument("--epochs", type=int, default=3)
        parser.add_argument("--max-batches", type=int, default=0, help="per epoch; 0: all")
        parser.add_argument("--seed", type=int, default=0)
        parser.add_argument("--evaluate", action="store_true", help="after each epoch, on valid and test")
        parser.add_argument("--prepare-only", action="store_true", help="time only reading, indexing and splitting")
        for name, meaning in flags.items():
            parser.add_argument(f"--{name.replace('_', '-')}", action="store_true", help=meaning)
        typed = parser.parse_args()
        self.flags = {name: getattr(typed, name) for name in flags}
        self.model: str = typed.model
        self.data: Path = typed.data
        self.threads: int = typed.threads
        self.epochs: int = typed.epochs
        self.max_batches: int = typed.max_batches
        self.seed: int = typed.seed
        self.evaluate: bool = typed.evaluate
        self.prepare_only: bool = typed.prepare_only
        self.settings: dict[str, Any] = json.loads((self.data / f"{self.model}.json").read_text("utf-8"))
        self.kind: str = self.settings["kind"]
        self.folder = self.data / self.kind
        self.vocabulary: dict[str, int] = self.settings["vocabulary"]  # rows of each field's embedding table

    def rows(self) -> dict[str, Rows]:
        """All splits; the training rows are a random sample if batches are limited."""
        parts = read_rows(self.folder)
        n_rows = self.max_batches * self.settings["batch_size"]
        if 0 < n_rows < len(parts["train"]):
            chosen = np.random.default_rng(0).choice(len(parts["train"]), n_rows, replace=False)
            parts["train"] = parts["train"].take(chosen)
        return parts


class Library(Protocol):
    """A library with its data and model, ready to train."""

    n_rows: int  # trained per epoch
    n_test: int
    parameters: int

    def epoch(self) -> float:
        """Trains an epoch and returns its seconds, of training only."""

    def auc(self, part: str) -> float:
        """The library's own evaluation of a split, valid or test."""


class Limited:
    """A loader's first `most` batches, or all of them if that is 0; otherwise it behaves like the loader."""

    def __init__(self, loader: Any, most: int) -> None:
        self.loader, self.most = loader, most

    def __iter__(self) -> Any:
        for count, batch in enumerate(self.loader, start=1):
            yield batch
            if count == self.most:
                return

    def __len__(self) -> int:
        return min(len(self.loader), self.most or len(self.loader))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def rows(self, n_rows: int, batch_size: int) -> int:
        """How many of the loader's n_rows are used."""
        return min(n_rows, self.most * batch_size) if self.most else n_rows


class FirstSteps(Limited):
    """recexp's batches, of which an epoch walks over the first few."""

    def samples(self, *given: Any) -> Iterator[Any]:
        return islice(self.loader.samples(*given), self.most or None)


def read_rows(folder: Path) -> dict[str, Rows]:
    with np.load(folder / "rows.npz") as arrays:
        return {part: _rows({name: arrays[name] for name in arrays if name.startswith(part + ".")}) for part in PARTS}


def _rows(arrays: dict[str, np.ndarray]) -> Rows:
    columns = {name.partition(".")[2]: array for name, array in arrays.items()}
    label, history, length = (columns.pop(name, None) for name in ("label", "history", "length"))
    assert label is not None
    return Rows(label, columns, history, length)


def timed(function: Callable[[], Any]) -> float:
    """Seconds of a call."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def train_and_score(job: Job, library: Library) -> dict[str, Any]:
    """Samples per second and, if asked for, the AUC of each epoch."""
    speeds, evaluated, scores = [], [], []
    for _ in range(job.epochs):
        speeds.append(library.n_rows / library.epoch())
        if job.evaluate:
            valid = library.auc("valid")
            began = time.perf_counter()
            test = library.auc("test")
            evaluated.append(library.n_test / (time.perf_counter() - began))
            scores.append((valid, test))
    line: dict[str, Any] = {
        "samples_per_second": statistics.median(speeds[1:] or speeds),
        "parameters": library.parameters,
    }
    if job.evaluate:
        line |= {"test_auc": max(scores)[1], "evaluation_rows_per_second": statistics.median(evaluated)}
    return line


def work(
    job: Job,
    prepare: Callable[[Job], Any],
    build: Callable[[Job, Any], Any],
    measure: Callable[[Job, Any], dict[str, Any]] = train_and_score,
) -> None:
    """Prepares, builds, trains, evaluates, and prints the line."""
    line: dict[str, Any] = {"seconds": {"import": time.perf_counter() - STARTED}}
    began = time.perf_counter()
    prepared = prepare(job)
    line["seconds"]["preparation"] = time.perf_counter() - began
    if not job.prepare_only:
        began = time.perf_counter()
        library = build(job, prepared)
        line["seconds"]["build"] = time.perf_counter() - began
        line |= measure(job, library)
    report(line)


def report(line: dict[str, Any]) -> None:
    """Prints a worker's result, its last line on stdout. Memory is that of this process, without child processes."""
    line.setdefault("peak_memory_mb", peak_memory_mb())
    print("\n" + json.dumps(line), flush=True)


def peak_memory_mb() -> float:
    """The largest resident memory of this process.

    On Linux ru_maxrss starts at the size of the parent process, here run.py with all it has loaded, so all smaller
    workers would show that size; VmHWM starts from zero.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text("utf-8").splitlines())
        return int(lines["VmHWM"].split()[0]) / 2**10  # KiB
    unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss is bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
