"""Many launches of one name in one instant, and many resumes of one run."""

import contextlib
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from torture import start
from torture.case import Problem, Reference, differences, judge, last_line, one_line, state
from torture.process import PATIENCE, Child, Ended


@dataclass(frozen=True)
class Setup:
    folder: Path
    reference: Reference


@dataclass(frozen=True)
class Case:
    resumes: bool
    count: int


class Gate:
    """Where forked processes wait, counted, until all are let through."""

    def __init__(self) -> None:
        self.count, self.pipe = os.pipe(), os.pipe()
        os.set_blocking(self.count[0], False)
        self.waiting = 0

    def wait(self) -> None:
        """In a forked process: waits until the gate is opened."""
        os.close(self.pipe[1])
        os.write(self.count[1], b".")
        os.read(self.pipe[0], 1)

    def seen(self) -> int:
        """How many have come to the gate."""
        with contextlib.suppress(BlockingIOError):
            self.waiting += len(os.read(self.count[0], 2**16))
        return self.waiting

    def open(self) -> None:
        os.close(self.pipe[1])


def prepare(folder: Path) -> Setup:
    reference = start.reference(folder / "whole" / "run")
    start.interrupted(folder / "interrupted" / "run", steps=5)
    return Setup(folder, reference)


def cases(setup: Setup, count: int, random: Random) -> list[Case]:
    return [Case(resumes, count) for resumes in (False, True)]


def attempt(setup: Setup, case: Case, folder: Path) -> list[list[Problem]]:
    """One trial a process."""
    return (_resumes if case.resumes else _launches)(setup, case.count, folder)


def _launches(setup: Setup, count: int, folder: Path) -> list[list[Problem]]:
    """All start together, and each gets a directory of its own."""
    gate = Gate()
    children = [start.child(folder / "crowd", named=True, before=gate.wait) for _ in range(count)]
    _until(lambda: gate.seen() == count)
    gate.open()
    trials = [_failed(child.end(), "a launch") for child in children]
    runs = [path.parent for path in folder.glob("outputs/*/*/status.json")]
    if len(runs) != count:
        trials[0].append(Problem("silent", f"{count} launches made {len(runs)} directories"))
    for path, trial in zip(runs, trials, strict=False):
        if wrong := differences(path, setup.reference.results):
            trial.append(Problem("unequal", f"{path.name}: is {state(path)}; differs in {', '.join(wrong)}"))
    return trials


def _resumes(setup: Setup, count: int, folder: Path) -> list[list[Problem]]:
    """All start together; who enters the run waits at its first step until all others have been turned away."""
    path = folder / "run"
    shutil.copytree(setup.folder / "interrupted" / "run", path)
    gate, inside = Gate(), Gate()

    def before() -> None:
        start.at_each_step(lambda step: step or inside.wait())
        gate.wait()

    children = [Child([["resume", "run"]], folder, before=before) for _ in range(count)]
    _until(lambda: gate.seen() == count)
    gate.open()
    turned_away: list[Ended] = []
    waiting = list(children)

    def all_but_those_inside_ended() -> bool:
        turned_away.extend(ended for child in list(waiting) if (ended := _ended(child, waiting)))
        return len(waiting) <= inside.seen()

    _until(all_but_those_inside_ended)
    entered = inside.seen()
    inside.open()
    trials = [_failed(child.end(), "the resume that entered") for child in waiting]
    trials += [_failed(ended, "a resume that was turned away", code=2) for ended in turned_away]
    if entered != 1:
        trials[0].append(Problem("silent", f"{entered} of {count} resumes entered"))
    trials[0] += judge(path, setup.reference)
    return trials


def _ended(child: Child, waiting: list[Child]) -> Ended | None:
    if ended := child.wait(0.01):
        waiting.remove(child)
    return ended


def _failed(ended: Ended, who: str, code: int = 0) -> list[Problem]:
    if ended.code == code:
        return one_line(ended)
    return [Problem("untidy", f"{who}: exit code {ended.code}: {last_line(ended.err)}")]


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("a process hangs")
        time.sleep(0.01)
