"""The cost of a step from 100 thousand embedding rows to 10 million. Each size and way runs in its own process.

usage: python benchmarks/size.py [--rows N ...] [--steps N] [--threads N] [-o FOLDER]
       python benchmarks/size.py --items N ... [--models MODEL ...] [--threads N] [-o FOLDER] [OVERRIDE ...]

`embedding` times look-up, gradient and update of one table: 4,096 samples of 26 fields, D 16, ids by a power law.
`deepfm` times whole training steps of DeepFM on synthetic samples of that shape. Ways: recexp by row (which the
trainer chooses from some size on) and with whole tables, torch's dense Adam and its SparseAdam, which is not Adam.
Medians over the later half of the steps. Writes size.json and size.md.

--items times models of histories as they are by default on catalogues of so many items and 2/5 as many users: training
epochs with gathering, what ends an epoch, and evaluation. Writes items.json and items.md.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn

import recexp
from recexp.config import Config
from recexp.dataset.batch import Batch, Batches, Catalogue, Features
from recexp.dataset.config import FeatureKind
from recexp.dataset.schema import FIRST, Field, Schema, Side
from recexp.layer.lookup import Table
from recexp.model import Train, create
from recexp.process import own_process
from recexp.run.result import peak_memory_mb
from recexp.trainer.deferred_adam import DeferredAdam
from recexp.trainer.loop import numerics
from recexp.trainer.state import Progress
from recexp.trainer.step import Step

SIZES = (1e5, 1e6, 1e7)
BATCH_SIZE, FIELDS, DIM = 4096, 26, 16
WAYS = {
    "embedding": ("by row", "whole table", "torch Adam", "torch SparseAdam"),
    "deepfm": ("by row", "whole table"),
}


def ids_of(n_rows: int) -> Tensor:
    """Ids of a batch (B, F), each field's its own, few of them frequent."""
    size = n_rows // FIELDS
    return FIRST + (torch.rand(BATCH_SIZE, FIELDS) ** 3 * size).long() + size * torch.arange(FIELDS)


def embedding(n_rows: int, way: str, n_steps: int) -> float:
    """Milliseconds of a step of one table."""
    n = FIRST + n_rows
    if way.startswith("torch"):
        table: nn.Embedding = nn.Embedding(n, DIM, sparse=way == "torch SparseAdam")
        kind: Any = torch.optim.SparseAdam if table.sparse else torch.optim.Adam
        optimizer = kind(table.parameters())
    else:
        table = Table(n, DIM, padding_idx=0)
        optimizer = torch.optim.Adam(table.parameters(), fused=True)
        if way == "by row":
            optimizer = DeferredAdam([{"params": [table.weight]}], 1e-3)
            table.sparse, table.before_read = True, partial(optimizer.catch_up, table.weight)
    direction = torch.randn(BATCH_SIZE, FIELDS, DIM) / BATCH_SIZE

    def step(ids: Tensor) -> None:
        optimizer.zero_grad()
        table(ids).backward(direction)
        optimizer.step()

    return milliseconds(step, partial(ids_of, n_rows), n_steps)


def deepfm(n_rows: int, way: str, n_steps: int) -> float:
    """Milliseconds of a training step of DeepFM on a table of categorical columns."""
    config = recexp.load_config([
        "model=deepfm", "model.embedding_l2=0", f"model.embedding_dim={DIM}", f"trainer.batch_size={BATCH_SIZE}",
        f"trainer.sparse={'null' if way == 'by row' else 'false'}",
    ])  # fmt: skip
    size = n_rows // FIELDS
    fields = tuple(field(f"c{index}", index, size) for index in range(FIELDS))
    schema = Schema(context=Side(fields=fields))
    model = create(config.model, schema).train()
    step = stepping(model, config)
    return milliseconds(lambda batch: step(batch, Progress()), lambda: batch_of(n_rows), n_steps)


def stepping(model: nn.Module, config: Config) -> Step:
    batches = cast(
        "Batches", SimpleNamespace(steps=lambda *_: 1, max_history=0, n_events=0, device=torch.device("cpu"))
    )
    return Step(Train(name="train", model=model), config.model.loss_weights, 0.0, config.trainer, batches, 1)


def field(name: str, column: int, size: int) -> Field:
    return Field(name=name, kind=FeatureKind.categorical, column=column, width=1, offset=column * size, size=size)


def batch_of(n_rows: int) -> Batch:
    nobody = Features(torch.zeros(1, 0).long(), torch.zeros(1, 0))
    none = torch.zeros(BATCH_SIZE, 0)
    return Batch(
        label=(torch.rand(BATCH_SIZE) < 0.3).float(), tasks=none, user=none.long(), target=none.long(),
        context=Features(ids_of(n_rows), none), history=none.long(), history_label=none, history_age=none,
        mask=none.bool(), catalogue=Catalogue(nobody, nobody, torch.zeros(0).int()),
    )  # fmt: skip


def milliseconds(step: Callable[[Any], Any], draw: Callable[[], Any], n_steps: int) -> float:
    taken = []
    for _ in range(n_steps):
        drawn = draw()
        began = time.perf_counter()
        step(drawn)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[n_steps // 2 :]) * 1e3


def measure(what: str, way: str, n_rows: int, n_steps: int, threads: int) -> dict[str, Any]:
    own_process()
    torch.manual_seed(0)
    config = recexp.load_config([f"trainer.threads={threads}"])
    with numerics(config.trainer):
        taken = {"embedding": embedding, "deepfm": deepfm}[what](n_rows, way, n_steps)
    return {"what": what, "way": way, "rows": n_rows, "ms": taken, "memory_mb": peak_memory_mb()}


def table(found: list[dict[str, Any]]) -> str:
    lines = ["| step | way | rows | ms | samples/s | peak MB |", "| --- | --- | ---: | ---: | ---: | ---: |"]
    lines += [
        f"| {each['what']} | {each['way']} | {each['rows']:,} | {each['ms']:.1f} "
        f"| {BATCH_SIZE / each['ms'] * 1e3:,.0f} | {each['memory_mb']:,.0f} |"
        for each in found
    ]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=float, nargs="+", default=SIZES)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path, default=Path("outputs/bench"))
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    typed = parser.parse_args()
    if typed.one:
        what, way, rows = typed.one
        print(json.dumps(measure(what, way, int(rows), typed.steps, typed.threads)))
        return
    found = []
    for what, ways in WAYS.items():
        for n_rows in sorted(int(each) for each in typed.rows):
            for way in ways:
                options = ["--steps", str(typed.steps), "--threads", str(typed.threads)]
                command = [sys.executable, __file__, *options, "--one", what, way, str(n_rows)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                found.append(json.loads(done.stdout))
    typed.output.mkdir(parents=True, exist_ok=True)
    (typed.output / "size.json").write_text(json.dumps(found, indent=1), "utf-8")
    (typed.output / "size.md").write_text(table(found), "utf-8")
    print(table(found), end="")


if __name__ == "__main__":
    main()
