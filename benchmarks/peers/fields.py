"""recexp side by side with other libraries: models over fields, on MovieLens's eight fields or rows of Criteo's shape.

usage: python benchmarks/peers/fields.py [MODEL ...] [--data ML-100K] [--criteo ROWS ...] [--rounds N] [--threads N]

--criteo: on 39 columns instead, of which 26 have tables of so many rows altogether; deepfm and dcnv2. Every measurement
is a process of its own, a round runs every library once, and ratios are taken within a round. --quick only asserts that
recexp runs.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import criteo
import data
import report
from run import Entry, call, machine
from worker import FIELDS

EPOCHS = 3  # the first warms up
BARE, FUSED = report.BARE, "TorchRec, row-wise AdaGrad"
ON_CRITEO = ("deepfm", "dcnv2")
LARGE = 4_000_000  # rows of tables from which on a dense optimizer is timed on few batches
BATCHES, FEW = 24, 3
CRITEO = {"embedding_dim": 16, "hidden_sizes": [128, 64]}
TRAINING = {"batch_size": 4096, "learning_rate": 1e-3, "eval_batch_size": 4096}
NOTES = """\
The same for all: rows, ids, batch size, embedding size, MLP with 64 and 32 (Criteo's shape: 128 and 64) hidden units,
Adam with learning rate 1e-3, no dropout, no L2, no batch norm, threads.
{sizes}
Initial weights are each library's own. Training time only, median over epochs after the first, then over rounds; ratios
are taken within a round. Memory is the largest of the process.

TorchRec's tables are updated by FBGEMM's fused row-wise AdaGrad, not by Adam: it has none on CPUs. Its model has no
first-order weights, so it has less to do. recexp's Adam updates large tables by row, exactly; what absent rows have
missed is made up at the end of an epoch, which is `catch-up` and not counted in samples/s.
"""


def entries(models: Iterable[str], n_rows: int = 0) -> tuple[Entry, ...]:
    """The libraries, with how many batches of each model are timed. n_rows: of all tables."""
    few = dict.fromkeys(models, FEW if n_rows > LARGE else BATCHES)

    def of(*lacking: str) -> dict[str, int]:
        return {model: n for model, n in few.items() if model not in lacking}

    known = (
        Entry(name="recexp", driver="fields_recexp", batches=dict.fromkeys(models, BATCHES)),
        Entry(name=BARE, driver="bare", batches={model: n for model, n in few.items() if model in ON_CRITEO}),
        Entry(name="FuxiCTR", driver="fuxictr", environment="fuxictr", batches=few),
        Entry(name="DeepCTR-Torch", driver="deepctr_torch", environment="deepctr_torch", flags=("--no-metrics",),
              batches=of("ffm", "finalmlp")),
    )  # fmt: skip
    if n_rows:
        fused = Entry(name=FUSED, driver="torchrec", environment="torchrec", batches=dict.fromkeys(models, BATCHES))
        return (*known, fused)
    return (
        *known,
        Entry(name="RecBole", driver="recbole", environment="recbole", batches=of("onn", "fibinet", "finalmlp")),
    )


def inputs(folder: Path, typed: argparse.Namespace) -> dict[str, tuple[Path, tuple[Entry, ...]]]:
    """By title, the folder of a data set and who is measured on it."""
    if not typed.criteo:
        source = [f"dataset.path={Path(typed.data).resolve()}"] if typed.data else []
        data.write_fields(source, folder / "ml-100k", typed.models)
        return {"MovieLens 100K, eight fields": (folder / "ml-100k", entries(typed.models))}
    found = {}
    for n_rows in map(int, typed.criteo):
        place = folder / f"criteo-{n_rows}"
        settings = {model: data.settings_of(model, **CRITEO) | TRAINING for model in typed.models}
        criteo.write(place, 2 * BATCHES * TRAINING["batch_size"], n_rows // len(criteo.IDS), settings)
        found[f"Criteo's shape, {n_rows:,} rows of tables"] = (place, entries(typed.models, n_rows))
    return found


def told(line: dict[str, Any]) -> str:
    if "error" in line:
        return line["error"]
    late = f", catch-up {line['catch_up_seconds']:.1f} s" if "catch_up_seconds" in line else ""
    return f"{line['samples_per_second']:,.0f} samples/s, {line['peak_memory_mb']:,.0f} MB{late}"


def one_round(libraries: Iterable[Entry], typed: argparse.Namespace, place: Path, title: str) -> dict[str, dict]:
    """The lines by model and library."""
    lines: dict[str, dict[str, dict]] = {model: {} for model in typed.models}
    for model in lines:
        for entry in libraries:
            if model in entry.batches:
                options = ["--epochs", EPOCHS, "--max-batches", entry.batches[model]]
                line = lines[model][entry.name] = call(entry, model, place, typed.threads, options)
                print(f"{title}  {model:9} {entry.name:27} {told(line)}", flush=True)
    return lines


def table(rounds: list[dict[str, dict[str, dict]]]) -> str:
    """Samples per second by library and model, then the ratios and memory."""
    models = list(rounds[0])
    names = list(dict.fromkeys(name for lines in rounds[0].values() for name in lines))

    def speeds(model: str, name: str) -> list[float]:
        return [lap[model].get(name, {}).get("samples_per_second", 0.0) for lap in rounds]

    def times(model: str, others: list[str]) -> str:
        fastest = [max(lap) for lap in zip(*(speeds(model, name) for name in others), strict=True)] if others else []
        known = all(fastest) and fastest
        return f"{report.ratio(speeds(model, report.OWN), fastest):.1f}" if known else ""

    def middle(model: str, name: str) -> str:
        of = speeds(model, name)
        return f"{statistics.median(of):,.0f}" if all(of) else ""

    rows = [
        [f"**{name}**" if name == report.OWN else name, *(middle(model, name) for model in models)] for name in names
    ]
    peers = [name for name in names if name not in (report.OWN, BARE, FUSED)]
    for title, others in (("the fastest library with Adam", peers), (BARE, [BARE]), (FUSED, [FUSED])):
        if set(others) <= set(names):
            rows.append([f"recexp / {title}", *(times(model, others) for model in models)])
    for name in names:
        memory = [[lap[model].get(name, {}).get("peak_memory_mb", 0) for lap in rounds] for model in models]
        rows.append([f"peak MB: {name}", *(f"{max(of):,.0f}" if max(of) else "" for of in memory)])
    return report.table(["samples/s", *models], rows)


def quick(folder: Path) -> None:
    """Raises SystemExit if recexp fails."""
    data.write_small_movielens(folder / "source", n_events=3000)
    source = [f"dataset.path={folder / 'source'}", "dataset.cache_dir=null"]
    data.write_fields(source, folder / "ml-100k", FIELDS)
    settings = {"dcnv2": data.settings_of("dcnv2", **CRITEO) | TRAINING}
    criteo.write(folder / "criteo", 2 * TRAINING["batch_size"], 100, settings)
    jobs = [(model, folder / "ml-100k") for model in FIELDS] + [("dcnv2", folder / "criteo")]
    few = ["--epochs", 1, "--max-batches", 1]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        lines = list(pool.map(lambda job: call(entries(FIELDS)[0], *job, 1, few), jobs))
    if failed := [line["error"] for line in lines if "error" in line]:
        raise SystemExit("\n".join(failed))
    print(f"ran: {', '.join(FIELDS)}; nothing was measured")


def main(typed: argparse.Namespace) -> None:
    if typed.quick:
        with tempfile.TemporaryDirectory() as folder:
            quick(Path(folder))
        return
    folder = Path(typed.output).resolve()
    shutil.rmtree(folder / "fields", ignore_errors=True)
    results: dict[str, Any] = {"machine": machine(typed.threads), "data": {}}
    everyone = inputs(folder / "fields", typed)
    libraries = [entry for _, known in everyone.values() for entry in known]
    results["absent"] = sorted({entry.name for entry in libraries if not entry.installed()})
    for title, (place, known) in everyone.items():
        rounds = results["data"][title] = []
        for number in range(1, typed.rounds + 1):
            ready = [entry for entry in known if entry.installed()]
            rounds.append(one_round(ready, typed, place, f"{title}, {number} of {typed.rounds}"))
            (folder / "fields.json").write_text(json.dumps(results, indent=1), "utf-8")
    (folder / "fields.md").write_text(markdown(results, typed.rounds), "utf-8")
    print("\n" + markdown(results, typed.rounds))


def markdown(results: dict[str, Any], n_rounds: int) -> str:
    parts = [report.circumstances(results, n_rounds)]
    parts += [f"### {title}\n\n{table(rounds)}" for title, rounds in results["data"].items()]
    if failed := report.errors(results):
        parts.append("Failed:\n\n" + "".join(f"- {error}\n" for error in failed))
    return "\n".join([*parts, NOTES.format(sizes=data.SIZES_TOLD)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", choices=[*FIELDS, []], default=[], metavar="MODEL", help=", ".join(FIELDS))
    parser.add_argument("--data", default=os.environ.get("ML100K"), help="folder or zip of MovieLens 100K")
    parser.add_argument("--criteo", type=float, nargs="+", metavar="ROWS")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("-o", "--output", default="outputs/bench")
    parser.add_argument("--quick", action="store_true")
    typed = parser.parse_args()
    typed.models = typed.models or list(ON_CRITEO if typed.criteo else FIELDS)
    main(typed)
