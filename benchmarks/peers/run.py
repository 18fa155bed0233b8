"""recexp side by side with other libraries and a bare PyTorch loop: speed, memory, AUC, preparation, evaluation.

usage: python benchmarks/peers/run.py [--data ML-100K] [--rounds N] [--accuracy] [-o FOLDER] [--quick]

Every measurement comes from its own process, on the same rows, with the same sizes, batch size and learning rate. A
round runs every library once for each model, one after another; ratios are taken within a round, so that drift in the
machine's speed cancels out. Libraries that are not installed (make bench-peers) are named and left out. --quick only
asserts that everything runs, on a few batches of the embedded synthetic data written as files of MovieLens; it measures
nothing.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import data
import picture
import report
import torch
from worker import MODELS

HERE = Path(__file__).resolve().parent
ENVIRONMENTS = HERE / ".env"
EPOCHS = {"deepfm": 15, "din": 3, "dien": 3, "bst": 3}  # the first warms up; one of deepfm takes 0.2 s
ACCURACY_EPOCHS = {"deepfm": 12, "din": 5, "dien": 4, "bst": 4}
PREPARATION_ROUNDS = 3
PREPARATION_MODELS = {"sequence": "din", "fields": "deepfm"}
SECONDS = 3600  # timeout of a worker
ALL = 0  # batches


@dataclass(frozen=True, kw_only=True)
class Entry:
    """How to run a library. batches: how many per epoch are timed, by model; models it lacks are absent."""

    name: str
    driver: str
    environment: str | None = None  # folder in .env; None: recexp's own environment
    flags: tuple[str, ...] = ()
    batches: Mapping[str, int]
    accuracy: bool = True  # whether to measure its AUC; not if another entry trains the same model

    def installed(self) -> bool:
        return self.environment is None or self.python().exists()

    def python(self) -> Path:
        return ENVIRONMENTS / self.environment / "bin" / "python" if self.environment else Path(sys.executable)


# Slow libraries are timed on fewer batches.
ENTRIES = (
    Entry(name="recexp", driver="recexp", batches=dict.fromkeys(MODELS, ALL)),
    Entry(name="recexp bf16", driver="recexp", flags=("--bf16",), batches={"dien": ALL}),
    Entry(name="bare loop", driver="bare", batches=dict.fromkeys(MODELS, ALL)),
    Entry(name="Torch-RecHub", driver="torch_rechub", environment="torch_rechub",
          batches={"deepfm": ALL, "din": 40, "dien": 30, "bst": 40}),
    Entry(name="DeepCTR-Torch", driver="deepctr_torch", environment="deepctr_torch",
          batches={"deepfm": 20, "din": 20, "dien": 10}, accuracy=False),
    Entry(name="DeepCTR-Torch", driver="deepctr_torch", environment="deepctr_torch", flags=("--no-metrics",),
          batches={"deepfm": 20, "din": 20, "dien": 10}),
    Entry(name="FuxiCTR", driver="fuxictr", environment="fuxictr",
          batches={"deepfm": ALL, "din": 40, "dien": 30, "bst": 40}),
    Entry(name="RecBole", driver="recbole", environment="recbole", batches={"deepfm": ALL, "din": 40, "dien": 10}),
)  # fmt: skip
PREPARATION = (
    ENTRIES[0],
    Entry(name="by hand", driver="by_hand", batches={}),
    *(entry for entry in ENTRIES if entry.name in ("FuxiCTR", "RecBole")),
)


def main(typed: argparse.Namespace) -> None:
    installed = tuple(entry for entry in ENTRIES if entry.installed())
    absent = sorted({entry.name for entry in ENTRIES} - {entry.name for entry in installed})
    if absent:
        print(f"not installed, so left out: {', '.join(absent)}; make bench-peers installs them", flush=True)
    if typed.quick:
        with tempfile.TemporaryDirectory() as folder:
            quick(installed, Path(folder))
        return
    folder = Path(typed.output).resolve()
    shutil.rmtree(folder / "data", ignore_errors=True)
    source = [f"dataset.path={Path(typed.data).resolve()}"] if typed.data else []
    inputs = folder / "data" / "ml-100k"
    data.write_movielens(source, inputs)
    results = {"machine": machine(typed.threads), "absent": absent, "rounds": [], "rates": []}
    for number in range(1, typed.rounds + 1):
        told = f"round {number} of {typed.rounds}"
        results["rounds"].append(one_round(installed, typed.models, inputs, typed.threads, told))
        results["rates"].append({model: rate(model, inputs, typed.threads) for model in typed.models})
        write(results, folder)
    if typed.accuracy:
        results["accuracy"] = accuracy(installed, typed.models, inputs, typed.threads)
        write(results, folder)
    if not typed.no_preparation:
        data.write_million(folder / "data" / "million")
        results["preparation"] = preparation(folder / "data", typed.threads)
    write(results, folder)
    print("\n" + report.markdown(results))


def quick(entries: Iterable[Entry], folder: Path) -> None:
    """Runs everything once on very little data, one process per core. Raises SystemExit if a worker fails."""
    data.write_small_movielens(folder / "source", n_events=4000)
    data.write_movielens([f"dataset.path={folder / 'source'}", "dataset.cache_dir=null"], folder)
    jobs = [(model, entry) for model in MODELS for entry in entries if model in entry.batches]
    few = ["--epochs", 1, "--max-batches", 2]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        lines = list(pool.map(lambda job: call(job[1], job[0], folder, 1, few), jobs))
        rate_lines = dict(zip(MODELS, pool.map(lambda model: rate(model, folder, 1), MODELS), strict=True))
    if failed := [line["error"] for line in (*lines, *rate_lines.values()) if "error" in line]:
        raise SystemExit("\n".join(failed))
    results: dict[str, dict[str, list[dict]]] = {model: {} for model in MODELS}
    for (model, entry), line in zip(jobs, lines, strict=True):
        results[model].setdefault(entry.name, []).append(line)
    write({"machine": machine(1), "absent": [], "rounds": [results], "rates": [rate_lines]}, folder)
    print(
        f"ran: {', '.join(f'{model} {entry.name}' for model, entry in jobs)}; table and picture; nothing was measured"
    )


def one_round(
    entries: Iterable[Entry], models: Iterable[str], inputs: Path, threads: int, told: str
) -> dict[str, dict[str, list[dict]]]:
    """The results by model and library, one per entry."""
    lines: dict[str, dict[str, list[dict]]] = {model: {} for model in models}
    for model in models:
        for entry in entries:
            if model not in entry.batches:
                continue
            options = ["--epochs", EPOCHS[model], "--max-batches", entry.batches[model]]
            line = call(entry, model, inputs, threads, options)
            lines[model].setdefault(entry.name, []).append(line)
            speed = line.get("error") or f"{line['samples_per_second']:,.0f} samples/s"
            print(f"{told}  {model:7} {' '.join([entry.name, *entry.flags]):28} {speed}", flush=True)
    return lines


def rate(model: str, inputs: Path, threads: int) -> dict[str, Any]:
    """Flops per sample, and the machine's best rate for the model's matrix products."""
    return run(Path(sys.executable), "rate.py", model, inputs, threads)


def accuracy(entries: Iterable[Entry], models: Iterable[str], inputs: Path, threads: int) -> dict[str, dict[str, dict]]:
    """By model and library: the test AUC at the best epoch on the validation split, and the speed of evaluation."""
    lines: dict[str, dict[str, dict]] = {model: {} for model in models}
    for model in models:
        for entry in entries:
            if model in entry.batches and entry.accuracy:
                line = call(entry, model, inputs, threads, ["--evaluate", "--epochs", ACCURACY_EPOCHS[model]])
                lines[model][entry.name] = line
                told = line.get("error") or f"test AUC {line['test_auc']:.4f}"
                print(f"accuracy  {model:7} {entry.name:28} {told}", flush=True)
    return lines


def preparation(folder: Path, threads: int) -> dict[str, dict[str, dict[str, list[dict]]]]:
    """The seconds of preparation by data set, kind of model and library."""
    lines: dict[str, dict[str, dict[str, list[dict]]]] = {}
    for name in ("ml-100k", "million"):
        kinds = lines.setdefault(name, {})
        for _ in range(PREPARATION_ROUNDS):
            for kind, model in PREPARATION_MODELS.items():
                for entry in PREPARATION:
                    if entry.installed():
                        line = call(entry, model, folder / name, threads, ["--prepare-only"])
                        kinds.setdefault(kind, {}).setdefault(entry.name, []).append(line)
                        told = line.get("error") or f"{line['seconds']['preparation']:.2f} s"
                        print(f"preparation  {name:8} {kind:9} {entry.name:20} {told}", flush=True)
    return lines


def call(entry: Entry, model: str, inputs: Path, threads: int, options: Iterable[Any]) -> dict[str, Any]:
    flags = [] if "--prepare-only" in options else entry.flags
    return run(entry.python(), f"drive_{entry.driver}.py", model, inputs, threads, [*flags, *options])


def run(
    python: Path, script: str, model: str, inputs: Path, threads: int, options: Iterable[Any] = ()
) -> dict[str, Any]:
    """A worker's result, or its error."""
    command = [python, HERE / script, "--model", model, "--data", inputs.resolve(), "--threads", threads, *options]
    try:
        with tempfile.TemporaryDirectory() as folder:  # some libraries leave logs where they run
            words = list(map(str, command))
            done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, cwd=folder)
    except subprocess.TimeoutExpired:
        return {"error": f"{script} --model {model}: not done after {SECONDS} seconds"}
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        return {"error": f"{script} --model {model}: {last}"}
    return json.loads(done.stdout.strip().splitlines()[-1])


def write(results: dict[str, Any], folder: Path) -> None:
    (folder / "results.json").write_text(json.dumps(results, indent=1), "utf-8")
    (folder / "table.md").write_text(report.markdown(results), "utf-8")
    picture.draw(results, folder / "speed.png")


def machine(threads: int) -> dict[str, Any]:
    return {"cpu": cpu(), "cores": os.cpu_count(), "threads": threads, "torch": torch.__version__,
            "python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}  # fmt: skip


def cpu() -> str:
    """The processor's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", help=f"any of {', '.join(MODELS)}; default: all")
    parser.add_argument("--data", default=os.environ.get("ML100K"), help="folder or zip of MovieLens 100K")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--accuracy", action="store_true", help="train and evaluate everything once more for the AUC")
    parser.add_argument("--no-preparation", action="store_true")
    parser.add_argument("-o", "--output", default="outputs/bench")
    parser.add_argument("--quick", action="store_true")
    typed = parser.parse_args()
    typed.models = typed.models or list(MODELS)
    if unknown := set(typed.models) - set(MODELS):
        parser.error(f"no such model: {', '.join(sorted(unknown))}; there are {', '.join(MODELS)}")
    main(typed)
