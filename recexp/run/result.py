"""The results of a run: the content of metrics.json, and predictions.parquet."""

import resource
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from recexp.config import Config
from recexp.dataset.log import Dataset, Log
from recexp.metric.binary import Metrics, evaluate
from recexp.metric.oracle import ranking_oracle
from recexp.metric.scoring import Scores, Task, probability
from recexp.metric.table import of_label
from recexp.metric.top import Top
from recexp.storage import replacing
from recexp.trainer.default import Result


def collect_metrics(config: Config, dataset: Dataset, model: nn.Module, trained: Result) -> dict[str, Any]:
    """The content of metrics.json."""
    progress = trained.progress
    metrics: dict[str, Any] = {
        "model": config.model.name,
        "dataset": config.dataset.name,
        "seed": config.seed,
        "status": "finished" if trained.test else "pruned",
        "best_epoch": progress.best_epoch,
        "epochs": progress.epoch,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds": round(progress.seconds, 3),
        "samples_per_second": round(statistics.median(progress.speeds[1:] or progress.speeds), 1),
        "peak_memory_mb": peak_memory_mb(),
        "train": progress.losses,
        "valid": trained.valid.values if trained.valid else {},
        "test": trained.test.values if trained.test else {},
    }
    if trained.ranking and trained.ranking.groups:
        metrics["groups"] = trained.ranking.groups  # of test
    if reasons := _reasons(trained):
        metrics["reasons"] = reasons
    if (oracle := oracle_metrics(dataset, trained.test_scores)) and trained.test:
        metrics["oracle"] = oracle.values
        metrics["share_of_oracle"] = share_of_oracle(trained.test.values["auc"], oracle.values["auc"])
    if trained.test and (ranks := ranking_oracle(dataset.log, config.trainer.ranking)):
        metrics["oracle"] = metrics.get("oracle", {}) | ranks
    return metrics


def epoch_reason(lines: list[dict[str, Any]], monitor: str, best_epoch: int) -> str | None:
    """Why the best epoch of the last stage was chosen, where its monitored metric does not say so."""
    values = {line["epoch"]: line["valid"].get(monitor) for line in lines if line["last_stage"]}
    if (best := values.get(best_epoch)) is None:
        return f"valid {monitor} cannot be computed, so the last epoch counts"
    tied = [str(epoch) for epoch, value in values.items() if value == best]
    return f"valid {monitor} is the same in epochs {', '.join(tied)}, so the first counts" if len(tied) > 1 else None


def oracle_metrics(dataset: Dataset, scores: Scores | None) -> Metrics | None:
    """Metrics of the true probabilities of the test rows, if they are known: a model beats them only by chance."""
    rows = dataset.log.rows("test")
    if scores is None or dataset.log.probability is None or len(scores.labels) != len(rows):
        return None
    p = np.clip(dataset.log.probability[rows], 1e-12, 1 - 1e-12)
    return evaluate(scores.labels, np.log(p) - np.log1p(-p), scores.users, threshold=0.0)


def share_of_oracle(auc: float | None, oracle: float | None) -> float | None:
    """How far a model's AUC is on the way from 0.5 to the oracle's."""
    return None if auc is None or oracle is None or oracle == 0.5 else (auc - 0.5) / (oracle - 0.5)


def peak_memory_mb() -> float:
    """The peak resident memory of the process; on CUDA the peak allocation there."""
    if torch.cuda.is_available() and (allocated := torch.cuda.max_memory_allocated()):
        return round(allocated / 2**20, 1)
    status = Path("/proc/self/status")
    if status.exists():  # Linux, where ru_maxrss starts at the size of the parent process
        lines = dict(line.split(":", 1) for line in status.read_text("utf-8").splitlines() if ":" in line)
        return round(int(lines["VmHWM"].split()[0]) / 2**10, 1)  # KiB
    unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss is bytes there, KiB elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)


def widened(timestamp: np.ndarray) -> np.ndarray:
    """Integers as int64, whichever type the log stores."""
    return timestamp.astype(np.int64) if timestamp.dtype.kind == "i" else timestamp


def write_predictions(path: Path, dataset: Dataset, scores: Scores) -> None:
    """predictions.parquet: raw user, item, timestamp, label and score (the probability) of each test sample.

    Of several labels, there is a column of labels and one of scores for each, as label/like and score/like.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    log = dataset.log
    rows = log.rows("test")
    rows = np.repeat(rows, len(scores.labels) // len(rows))  # sampled negatives follow their event
    columns: dict[str, np.ndarray] = {}
    if isinstance(log, Log):
        columns = {
            "user": log.users.raw[scores.users],
            "item": log.items.raw[scores.items],
            "timestamp": widened(log.timestamp[rows]),
        }
    else:
        columns = {"row": log.row[rows]}
    columns |= label_columns(scores)
    with replacing(path / "predictions.parquet") as file:
        pq.write_table(pa.table(columns), file)


def label_columns(scores: Scores) -> dict[str, np.ndarray]:
    """Columns label and score; of several labels a pair of each, as label/like (-1 where missing) and score/like."""
    columns: dict[str, np.ndarray] = {}
    for name, task in (scores.tasks or {"": Task(scores.labels, scores.logits)}).items():
        columns[of_label("label", name)] = task.labels.astype(np.int8)
        columns[of_label("score", name)] = probability(task.logits)
    return columns


def write_recommendations(path: Path, dataset: Dataset, top: Top) -> None:
    """recommendations.parquet: raw user and item, rank (from 1) and score of the best items of each test user."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    log = dataset.log
    assert isinstance(log, Log)
    user, item, rank, score = top.listed()
    columns = {"user": log.users.raw[user], "item": log.items.raw[item], "rank": rank, "score": score}
    with replacing(path / "recommendations.parquet") as file:
        pq.write_table(pa.table(columns), file)


def _reasons(trained: Result) -> dict[str, str]:
    """Why a metric is null, by its dotted name."""
    splits = {"valid": trained.valid, "test": trained.test}
    return {
        f"{split}.{name}": reason
        for split, metrics in splits.items()
        if metrics
        for name, reason in metrics.reasons.items()
    }
