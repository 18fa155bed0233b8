"""The cost of a step from 100 thousand embedding rows to 10 million. Each size and way runs in its own process.

usage: python benchmarks/size.py [--rows N ...] [--steps N] [--threads N] [-o FOLDER]
       python benchmarks/size.py [OVERRIDE ...] --items N ... [--models MODEL ...]

`embedding` times look-up, gradient and update of one table: 4,096 samples of 26 fields, D 16, ids by a power law.
`deepfm` times whole training steps of DeepFM on synthetic samples of that shape. Ways: recexp by row (which the
trainer chooses from some size on) and with whole tables, torch's dense Adam and its SparseAdam, which is not Adam.
Medians over the later half of the steps. Writes size.json and size.md.

--items times an epoch of models that read histories, din and dien by default, for catalogues of so many items and 2/5
as many users: gathering, steps, what ends an epoch, and evaluation. Of each user 40 events are in the log, of 15,000
users at most; items by a power law. On one thread, by processor time. Writes items.json and items.md.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

import recexp
from recexp.config import Config
from recexp.dataset.batch import Batch, Batches, Catalogue, Features
from recexp.dataset.config import FeatureKind
from recexp.dataset.encoded import Encoded
from recexp.dataset.encoder import Encoder
from recexp.dataset.log import Dataset, Entities, Log
from recexp.dataset.schema import FIRST, Field, Schema, Side
from recexp.layer.lookup import Table
from recexp.metric.scoring import score
from recexp.model import Train, create
from recexp.process import own_process
from recexp.run.result import peak_memory_mb
from recexp.trainer.deferred_adam import DeferredAdam
from recexp.trainer.divergence import require_finite
from recexp.trainer.loop import epoch, numerics
from recexp.trainer.state import Progress
from recexp.trainer.step import Step

SIZES = (1e5, 1e6, 1e7)
BATCH_SIZE, FIELDS, DIM = 4096, 26, 16
EVENTS, MOST_USERS, CATEGORIES = 40, 15_000, 1000  # of each user in the log; of the log; of users and of items
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


def log_of(n_users: int, n_items: int) -> Dataset:
    """Events of some of the users, the last of each for evaluation; the catalogue holds all users and items."""
    rng = np.random.default_rng(0)
    users = 1 + np.sort(rng.choice(n_users, min(n_users, MOST_USERS), replace=False))
    n = len(users) * EVENTS
    popular = (rng.random(n) ** 3 * n_items).astype(np.int32)
    order, nothing = np.arange(n, dtype=np.int32), np.zeros((n, 0), np.int8)
    log = Log(
        label=rng.integers(2, size=n, dtype=np.int8), split=np.tile([0] * (EVENTS - 2) + [1, 2], len(users)),
        row=order, context=Encoded(ids=nothing, values=nothing.astype(np.float32)),
        user=np.repeat(users, EVENTS).astype(np.int32), item=1 + rng.permutation(n_items).astype(np.int32)[popular],
        timestamp=order, before=order, users=entities(n_users, rng), items=entities(n_items, rng),
    )  # fmt: skip
    sides = {
        name: Side(fields=(field(name, 0, size), replace(field("category", 1, CATEGORIES), offset=size)))
        for name, size in (("user", n_users), ("item", n_items))
    }
    return Dataset(
        log=log, schema=Schema(**sides, max_history=20, history_labels=True), encoder=Encoder(), facts={},
        fingerprint="",
    )  # fmt: skip


def entities(n: int, rng: np.random.Generator) -> Entities:
    """Users or items, each with its id and a category."""
    ids = np.column_stack([FIRST + np.arange(n), FIRST + n + rng.integers(CATEGORIES, size=n)])
    ids = np.concatenate([np.zeros((1, 2)), ids]).astype(np.int32)
    return Entities(ids=ids, values=np.zeros((n + 1, 0), np.float32), raw=np.arange(n + 1))


def of_items(model: str, n_items: int, overrides: list[str]) -> dict[str, Any]:
    """An epoch of a model on a catalogue, and evaluation, on one thread: rates, seconds of processor time, memory."""
    own_process()
    config = recexp.load_config([f"model={model}", "trainer.threads=1", *overrides])
    torch.manual_seed(0)
    dataset = log_of(n_items * 2 // 5, n_items)
    batches = Batches(dataset, config.dataset)
    stage, taken = Train(name="train", model=create(config.model, dataset.schema)), [time.process_time()]
    with numerics(config.trainer):
        step = Step(stage, config.model.loss_weights, config.model.embedding_l2, config.trainer, batches, 1)
        size = config.trainer.batch_size
        epoch(stage, step.take, batches, size, 0, Progress(), lambda: taken.append(time.process_time()))
        began, half = taken[-1], len(taken) // 2
        step.catch_up()
        require_finite(stage.model)
        ended = time.process_time()
        step.release()
        scores = score(stage.model, batches, "valid", config.trainer.eval_batch_size)
        evaluated = time.process_time() - ended
    return {
        "model": model, "items": n_items, "samples_per_second": size * (len(taken) - 1 - half) / (began - taken[half]),
        "epoch_steps": len(taken) - 1, "epoch_end_seconds": ended - began,
        "evaluated_per_second": len(scores.logits) / evaluated, "memory_mb": peak_memory_mb(),
    }  # fmt: skip


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


def table_of_items(found: list[dict[str, Any]]) -> str:
    lines = ["| model | items | samples/s | end of epoch, s | evaluation, rows/s | peak MB |"]
    lines += ["| --- | ---: | ---: | ---: | ---: | ---: |"]
    lines += [
        f"| {each['model']} | {each['items']:,} | {each['samples_per_second']:,.0f} | {each['epoch_end_seconds']:.2f} "
        f"| {each['evaluated_per_second']:,.0f} | {each['memory_mb']:,.0f} |"
        for each in found
    ]
    return "\n".join([*lines, ""])


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
    parser.add_argument("--items", type=float, nargs="+")
    parser.add_argument("--models", nargs="+", default=("din", "dien"))
    parser.add_argument("-o", "--output", type=Path, default=Path("outputs/bench"))
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE")
    typed = parser.parse_args()
    options = [*typed.overrides, f"--steps={typed.steps}", f"--threads={typed.threads}"]
    if typed.one:
        what, way, rows = typed.one
        if way == "items":
            found = of_items(what, int(rows), typed.overrides)
        else:
            found = measure(what, way, int(rows), typed.steps, typed.threads)
        print(json.dumps(found))
        return
    if typed.items:
        cases = [(model, "items", int(n)) for model in typed.models for n in sorted(typed.items)]
    else:
        sizes = sorted(map(int, typed.rows))
        cases = [(what, way, n) for what, ways in WAYS.items() for n in sizes for way in ways]
    found = [apart(case, options) for case in cases]
    name, text = ("items", table_of_items(found)) if typed.items else ("size", table(found))
    typed.output.mkdir(parents=True, exist_ok=True)
    (typed.output / f"{name}.json").write_text(json.dumps(found, indent=1), "utf-8")
    (typed.output / f"{name}.md").write_text(text, "utf-8")
    print(text, end="")


def apart(case: tuple[str, str, int], options: list[str]) -> dict[str, Any]:
    """A case in its own process, so that the peak memory is that of this case alone."""
    command = [sys.executable, __file__, *options, "--one", *map(str, case)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


if __name__ == "__main__":
    main()
