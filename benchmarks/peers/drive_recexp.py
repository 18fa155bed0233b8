"""recexp through its command line; training speed and memory come from its metrics.json.

A run directory does not record the times of import, preparation, building and evaluation. With --evaluate or
--prepare-only these are measured in this process.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from worker import Job, report, timed


def trained(overrides: list[str]) -> dict[str, Any]:
    """The content of metrics.json after `recexp OVERRIDES`."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [str(Path(sys.executable).with_name("recexp")), *overrides, f"run.dir={run}"]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            sys.exit(done.stdout)
        return json.loads((run / "metrics.json").read_text("utf-8"))


def timed_within(job: Job, overrides: list[str]) -> dict[str, Any]:
    """Seconds of import, preparation and building; rows per second of scoring the test split with all metrics."""
    began = time.perf_counter()
    import pandas  # noqa: F401  # otherwise imported, and timed, within preparation
    import torch

    import recexp
    from recexp import registry
    from recexp.dataset.batch import Batches
    from recexp.dataset.prepare import load
    from recexp.metric.binary import evaluate
    from recexp.metric.scoring import score
    from recexp.trainer.step import autocast

    seconds = {"import": time.perf_counter() - began}
    torch.set_num_threads(job.threads)
    config = recexp.load_config([*overrides, "dataset.cache_dir=null"])
    began = time.perf_counter()
    dataset = load(config.dataset)
    seconds["preparation"] = time.perf_counter() - began
    if job.prepare_only:
        return {"seconds": seconds}
    began = time.perf_counter()
    model = registry.get("model", config.model.name)(config.model, dataset.schema)
    trainer = registry.get("trainer", config.trainer.name)(config.trainer, torch.device("cpu"), config.seed)
    seconds["build"] = time.perf_counter() - began
    batches = Batches(dataset, config.dataset)

    def scored() -> None:
        precision = autocast(config.trainer, trainer.device)
        scores = score(model, batches, "test", config.trainer.eval_batch_size, precision)
        evaluate(scores.labels, scores.logits, scores.users, threshold=0.0)

    with trainer.numerics():
        taken = statistics.median(timed(scored) for _ in range(job.epochs))  # the weights do not affect the time
    return {"seconds": seconds, "evaluation_rows_per_second": batches.size("test") / taken}


def main(job: Job) -> None:
    overrides: list[str] = job.settings["overrides"]
    line: dict[str, Any] = {}
    if not job.prepare_only:
        overrides += [f"trainer.epochs={job.epochs}", f"trainer.threads={job.threads}", f"seed={job.seed}"]
        overrides += ["device=cpu", *(["trainer.precision=bf16"] if job.flags["bf16"] else [])]
        metrics = trained(overrides)
        line = {name: metrics[name] for name in ("samples_per_second", "peak_memory_mb", "parameters")}
        line["test_auc"] = metrics["test"]["auc"]
    if job.prepare_only or job.evaluate:
        line |= timed_within(job, overrides)
    report(line)


if __name__ == "__main__":
    main(Job(bf16="train with trainer.precision=bf16"))
