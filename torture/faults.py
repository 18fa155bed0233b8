"""EIO, ENOSPC, a full disk, a kill and a torn write at each operation of a run, a resume, a sweep and the cache."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Literal, NamedTuple

from torture import process, start
from torture.case import (
    BASE,
    CACHED,
    DIN,
    ENDED,
    LEFT,
    Problem,
    Reference,
    as_said,
    differences,
    judge,
    last_line,
    leftovers,
    one_line,
    readable,
    results,
    state,
)
from torture.library import Mode
from torture.process import Ended, Fault

Scene = Literal["run", "resume", "sweep", "cache"]
SHARE: dict[Scene, float] = {"run": 0.4, "resume": 0.25, "cache": 0.25, "sweep": 0.1}  # of the cases
MODES = (Mode.eio, Mode.enospc, Mode.full, Mode.kill, Mode.torn)
SWEEP = ("-m", *BASE, *DIN, "trainer.epochs=1", "seed=0,1", "run.dir=run")


class Case(NamedTuple):
    scene: Scene
    mode: Mode
    n: int


@dataclass(frozen=True)
class Setup:
    folder: Path
    reference: Reference
    jobs: dict[str, Any]  # the results of the sweep's jobs, by directory
    operations: dict[Scene, int]


def prepare(folder: Path) -> Setup:
    """References, an interrupted run to resume, and how many operations each scene has."""
    reference = start.reference(folder / "whole" / "run")
    start.interrupted(folder / "interrupted" / "run", steps=5)
    setup = Setup(folder, reference, {}, {})
    counted = {scene: _strike(setup, Case(scene, Mode.count, 0), folder / f"counted-{scene}") for scene in SHARE}
    if failed := [ended.err for ended in counted.values() if ended.code]:
        raise RuntimeError(f"fails without a fault: {failed[0]}")
    jobs = {path.parent.name: results(path.parent) for path in folder.glob("counted-sweep/run/*/metrics.json")}
    return replace(setup, jobs=jobs, operations={scene: ended.operations for scene, ended in counted.items()})


def cases(setup: Setup, count: int, random: Random) -> list[Case]:
    drawn = []
    for scene, share in SHARE.items():
        grid = [Case(scene, mode, n) for mode in MODES for n in range(1, setup.operations[scene] + 1)]
        drawn += random.sample(grid, min(len(grid), round(share * count)))
    return drawn


def attempt(setup: Setup, case: Case, folder: Path) -> list[list[Problem]]:
    ended = _strike(setup, case, folder)
    said = f"{case.scene}, {case.mode.name} at operation {case.n} of {setup.operations[case.scene]}"
    if not ended.faults:
        return []  # this time there were fewer operations
    problems = [] if case.scene == "sweep" else one_line(ended)
    path = folder / "run"
    if ended.code == 0 and case.scene != "sweep":  # the fault was harmless
        problems += [
            Problem("silent", f"exit code 0, but: {name}") for name in differences(path, setup.reference.results)
        ]
    problems += _judge(setup, case.scene, folder)
    return [[Problem(sort, f"{said}: {text}") for sort, text in problems]]


def _strike(setup: Setup, case: Case, folder: Path) -> Ended:
    """The scene in a folder of its own, with the fault."""
    path = folder / "run"
    folder.mkdir(parents=True, exist_ok=True)
    fault = Fault(folder, case.mode, case.n)
    match case.scene:
        case "run":
            return start.start(path, fault=fault)
        case "resume":
            shutil.copytree(setup.folder / "interrupted" / "run", path)
            return process.run(["resume", "run"], folder, fault)
        case "cache":
            return start.start(path, CACHED, fault._replace(folder=folder / "cache"))
        case "sweep":
            return process.run(SWEEP, folder, fault)


def _judge(setup: Setup, scene: Scene, folder: Path) -> list[Problem]:
    path = folder / "run"
    if scene == "sweep":
        return _judge_sweep(setup, path)
    if scene != "cache":
        return judge(path, setup.reference)
    cached = replace(setup.reference, start=lambda path: start.start(path, CACHED))
    # The next launch tidies the cache, and is asked for what is still left; a finished run does not read it again.
    first = [problem for problem in judge(path, cached) if not problem.text.startswith(LEFT)]
    return first + judge(folder / "again", cached)


def _judge_sweep(setup: Setup, path: Path) -> list[Problem]:
    """As `judge`, of a sweep and each of its jobs."""
    problems = []
    for job in path.glob("*-*"):
        if job.name in setup.jobs:
            problems += readable(job) + as_said(job, replace(setup.reference, results=setup.jobs[job.name]))
    command = ["resume", "run"] if (path / "sweep.yaml").exists() else SWEEP
    ended = process.run(command, path.parent)
    if ended.code:
        return [*problems, Problem("unreadable", f"does not go on (exit code {ended.code}): {last_line(ended.err)}")]
    problems += one_line(ended)
    for name, expected in setup.jobs.items():
        if different := differences(path / name, expected):
            problems.append(Problem("unequal", f"{name}: {', '.join(different)}"))
        elif state(path / name) not in ENDED:
            problems.append(Problem("silent", f"{name}: is {state(path / name)} at the end"))
    return problems + leftovers(path.parent)
