"""`python -m torture [KIND...]`: runs the kinds of torture and prints a table; exit code 1 if any count is not 0."""

import argparse
import importlib
import json
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any, get_args

from torture import library, process, start
from torture.case import Problem, Sort

COUNTS = {  # of a full run and of a short one
    "kill": (200, 10),
    "steps": (200, 2),
    "faults": (1000, 10),
    "power": (2000, 20),
    "cut": (10_000, 4),
    "flip": (1000, 20),
    "crowd": (32, 4),
    "fuzz": (3600, 25),  # seconds
}
SORTS: tuple[Sort, ...] = get_args(Sort)


@dataclass
class Row:
    """A line of the table. A trial counts once for each sort of its problems."""

    kind: str
    tried: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SORTS, 0))
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, number: int, trials: list[list[Problem]]) -> list[str]:
        """Returns the problems as lines."""
        lines = [f"{self.kind} {number}: {sort}: {text}" for trial in trials for sort, text in trial]
        for trial in trials:
            self.tried += 1
            for sort in {problem.sort for problem in trial}:
                self.counts[sort] += 1
        self.problems += lines
        return lines


def main(arguments: Sequence[str]) -> int:
    typed = _parse(arguments)
    library.start_again_preloaded()
    library.remove_library()
    process.preload()
    start.draw_nothing()
    start.warm_up()
    if typed.serve:
        return _serve(typed.jobs)
    rows = []
    for kind in typed.kinds or COUNTS:
        count = typed.count if typed.count is not None else COUNTS[kind][typed.short]
        rows.append(torture(kind, count, typed.seed, typed.jobs, typed.only, typed.keep))
    print("\n".join(table(rows)))
    return int(any(sum(row.counts.values()) for row in rows))


def torture(
    kind: str, count: int, seed: int = 0, jobs: int = 1, only: int | None = None, keep: Path | None = None
) -> Row:
    """Tries all cases of a kind. only: the number of the one to try. keep: where the folders of problems stay."""
    module, row, began = importlib.import_module(f"torture.{kind}"), Row(kind), time.perf_counter()
    folder = Path(tempfile.mkdtemp(prefix=f"torture-{kind}-"))
    try:
        setup = module.prepare(folder)
        cases = list(enumerate(module.cases(setup, count, Random(seed))))
        try_one = partial(_attempt, module.attempt, setup, folder, keep)
        for number, trials in _each(try_one, cases if only is None else cases[only : only + 1], jobs):
            for problem in row.add(number, trials):
                print(problem, file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    row.seconds = time.perf_counter() - began
    return row


def table(rows: Sequence[Row]) -> list[str]:
    names = ("tried", *SORTS, "seconds")
    cells = [[row.kind, row.tried, *row.counts.values(), round(row.seconds)] for row in rows]
    return ["".join(f"{cell:>12}" for cell in line) for line in [["", *names], *cells]]


def _attempt(
    attempt: Callable[..., list[list[Problem]]], setup: Any, parent: Path, keep: Path | None, case: tuple[int, Any]
) -> tuple[int, list[list[Problem]]]:
    number, what = case
    folder = parent / f"case-{number}"
    folder.mkdir()
    try:
        trials = attempt(setup, what, folder)
    except Exception:
        trials = [[Problem("untidy", f"the case itself failed:\n{traceback.format_exc()}")]]
    if keep and any(trials):
        shutil.copytree(folder, keep / f"{parent.name}-{number}", symlinks=True)
    shutil.rmtree(folder, ignore_errors=True)
    return number, trials


def _each(call: Callable[[Any], Any], values: Sequence[Any], jobs: int) -> Iterator[Any]:
    """call of each value, in so many processes; what it closes over reaches them by fork and need not be pickled."""
    global _called
    if jobs == 1:
        yield from map(call, values)
        return
    _called = call
    with ProcessPoolExecutor(jobs, mp_context=get_context("fork")) as pool:
        yield from pool.map(_call, values)


_called: Callable[[Any], Any]


def _call(value: Any) -> Any:
    return _called(value)


def _serve(jobs: int) -> int:
    """Answers each line on stdin, a kind, by the row of its short form as a line of JSON: tests import torch once."""
    for kind in map(str.strip, sys.stdin):
        print(json.dumps(asdict(torture(kind, COUNTS[kind][True], jobs=jobs))), flush=True)
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m torture", description="Counts what does not survive faults.")
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"{', '.join(COUNTS)}; default: all")
    parser.add_argument("--count", type=int, help="cases of each kind; default: those of a full run")
    parser.add_argument("--short", action="store_true", help="the counts of the tests")
    parser.add_argument("--seed", type=int, default=0, help="of the cases")
    parser.add_argument("--jobs", type=int, default=1, help="cases at once")
    parser.add_argument("--only", type=int, metavar="N", help="one case alone, by the number in its message")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keeps the directories of cases with problems")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    typed = parser.parse_args(arguments)
    if unknown := set(typed.kinds) - COUNTS.keys():
        parser.error(f"{', '.join(sorted(unknown))}: no such kind; choose from {', '.join(COUNTS)}")
    return typed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
