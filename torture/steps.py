"""A kill at every step of a run of every model: what lies in its directory at each step is resumed from a copy.

A killed process leaves its directory as it is at that instant, so a copy taken between two steps is what a kill there
leaves. Steps between two checkpoints leave the same, so one of them is resumed for all.
"""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from random import Random

from torture.case import Problem, Reference, judge, results
from torture.start import at_each_step, start

STEPS = 200
OPTIONS = ("trainer.batch_size=16", "trainer.epochs=4", "dataset.n_events=1000", "trainer.checkpoint_every=7steps")


@dataclass(frozen=True)
class Case:
    """A model, and the steps of its run at which it is killed; None: all."""

    model: str
    steps: frozenset[int] | None = None


def prepare(folder: Path) -> None:
    """Each model has its own reference."""


def cases(setup: None, count: int, random: Random) -> list[Case]:
    """count: steps a model; for fewer than ten, three models are drawn."""
    from recexp.registry import names

    models = names("model") if count >= 10 else random.sample(names("model"), 3)
    if count >= STEPS:
        return [Case(model) for model in models]
    return [Case(model, frozenset(random.sample(range(STEPS), count))) for model in models]


def attempt(setup: None, case: Case, folder: Path) -> list[list[Problem]]:
    """One trial a step; steps that leave the same directory share what became of it."""
    options = (f"model={case.model}", *OPTIONS)
    whole, copies = folder / "run", folder / "copies"
    copies.mkdir()
    ended = start(whole, options, before=lambda: _copy_at_each_step(whole, copies, case.steps))
    if ended.code:
        return [[Problem("unreadable", f"{case.model}: the uninterrupted run failed: {ended.err}")]]
    reference = Reference(lambda path: start(path, options), results(whole))
    known: dict[str, list[Problem]] = {}
    trials = []
    for copy in sorted(copies.iterdir(), key=lambda path: int(path.name)):
        content = _content(copy / "run")
        if content not in known:
            problems = judge(copy / "run", reference)
            known[content] = [Problem(sort, f"{case.model}, step {copy.name}: {text}") for sort, text in problems]
        trials.append(known[content])
    return trials


def _copy_at_each_step(source: Path, copies: Path, steps: frozenset[int] | None) -> None:
    def copy(step: int) -> None:
        if steps is None or step in steps:
            shutil.copytree(source, copies / str(step) / "run")

    at_each_step(copy)


def _content(folder: Path) -> str:
    """The digest of each file but the log, which holds times."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "log.txt")
    text = [f"{path.relative_to(folder)} {hashlib.blake2b(path.read_bytes()).hexdigest()}" for path in files]
    return "\n".join(text)
