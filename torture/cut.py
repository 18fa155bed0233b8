"""metrics.jsonl of an interrupted run cut at each byte of its last three records."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from random import Random

from torture import start
from torture.case import DIN, Problem, Reference, judge

OPTIONS = (*DIN, "trainer.epochs=5")
RECORDS = 3


@dataclass(frozen=True)
class Setup:
    run: Path
    reference: Reference


def prepare(folder: Path) -> Setup:
    """A run that is killed once it has written enough records."""
    reference = start.reference(folder / "whole" / "run", OPTIONS)
    path = folder / "interrupted" / "run"
    start.interrupted(path, steps=14, options=OPTIONS)
    return Setup(path, reference)


def cases(setup: Setup, count: int, random: Random) -> list[int]:
    """Numbers of bytes that stay: some of all that there are."""
    lines = (setup.run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    assert len(lines) > RECORDS
    whole = sum(map(len, lines))
    all_cuts = range(whole - sum(map(len, lines[-RECORDS:])), whole)
    return sorted(random.sample(all_cuts, min(count, len(all_cuts))))


def attempt(setup: Setup, size: int, folder: Path) -> list[list[Problem]]:
    path = folder / "run"
    shutil.copytree(setup.run, path)
    with (path / "metrics.jsonl").open("r+b") as file:
        file.truncate(size)
    return [
        [
            Problem(sort, f"cut after {size} bytes: {text}")
            for sort, text in judge(path, setup.reference, "metrics.jsonl")
        ]
    ]
