"""kill -9 at random instants of a run, resumed and killed again until it ends."""

import time
from dataclasses import dataclass
from pathlib import Path
from random import Random

from torture.case import Problem, Reference, judge, readable
from torture.process import Child
from torture.start import child, reference

KILLS = 4  # at most, of one run


@dataclass(frozen=True)
class Setup:
    reference: Reference
    seconds: float  # that the uninterrupted run takes


def prepare(folder: Path) -> Setup:
    reference(folder / "first")
    began = time.perf_counter()
    whole = reference(folder / "whole")
    return Setup(whole, time.perf_counter() - began)


def cases(setup: Setup, count: int, random: Random) -> list[int]:
    return [random.getrandbits(32) for _ in range(count)]


def attempt(setup: Setup, seed: int, folder: Path) -> list[list[Problem]]:
    random, path, problems = Random(seed), folder / "run", []
    for _ in range(random.randint(1, KILLS)):
        process = Child([["resume", path.name]], folder) if path.exists() else child(path)
        if process.wait(random.uniform(0, setup.seconds)):
            break
        process.kill()
        process.end()
        problems += readable(path)
    return [problems + judge(path, setup.reference)]
