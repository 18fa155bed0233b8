"""Shared by the workers that train on next items and rank: the log, and what is measured. It needs only numpy."""

import statistics
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from worker import Job

LOG = "log.txt"  # one user a line: the user, then the items in their order; ids from 1
K = 10


class Ranker(Protocol):
    """A library with its data and model, ready to train."""

    n_rows: int  # trained in an epoch of so many batches
    n_epoch: int  # in a whole one
    n_users: int  # ranked for test

    def epoch(self) -> float:
        """Trains an epoch and returns its seconds, of training only."""

    def rank(self) -> float:
        """The library's own evaluation of test: all items ranked for all users. Returns hr@10."""


def ranking_job() -> Job:
    return Job(processor_time="count the processor's time, for one thread on a machine that others use too")


def clock_of(job: Job) -> Callable[[], float]:
    return time.process_time if job.flags["processor_time"] else time.perf_counter


def read_log(job: Job) -> list[np.ndarray]:
    """The items of each user; the last but one is for validation, the last for test."""
    with open(job.folder / LOG, encoding="utf-8") as lines:
        return [np.array(line.split()[1:], np.int64) for line in lines]


def measure(job: Job, ranker: Ranker) -> dict[str, Any]:
    """Seconds of an epoch, extrapolated if batches are limited, and of ranking."""
    seconds = [ranker.epoch() for _ in range(job.epochs)]
    line: dict[str, Any] = {
        "epoch_seconds": statistics.median(seconds[1:] or seconds) * ranker.n_epoch / ranker.n_rows,
        "share_of_epoch": ranker.n_rows / ranker.n_epoch,
    }
    if job.evaluate:
        clock = clock_of(job)
        began = clock()
        line["test_hr"] = ranker.rank()
        line |= {"ranking_seconds": clock() - began, "users": ranker.n_users}
    return line
