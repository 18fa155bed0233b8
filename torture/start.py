"""Starting the tiny run: composed once, then trained in forked processes, and without the cost of real pictures."""

import contextlib
import io
import os
import signal
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

from torture.case import BASE, DIN, Reference, results
from torture.process import Child, Ended, Fault

PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(20_000)  # drawing takes most of the time of a tiny run
Before = Callable[[], None]


def child(
    path: Path,
    options: Sequence[str] = DIN,
    fault: Fault | None = None,
    before: Before | None = None,
    named: bool = False,
) -> Child:
    """The command `recexp` with the tiny configuration and options, but composed by the parent.

    path: the run directory; with named, the name of the run, which gets a directory for the date.
    """
    key = "name" if named else "dir"

    def prepare() -> None:
        _train_composed(options, **{key: path.name})
        if before:
            before()

    compose(tuple(options))
    return Child([[*BASE, *options, f"run.{key}={path.name}"]], path.parent, fault, prepare)


def start(
    path: Path,
    options: Sequence[str] = DIN,
    fault: Fault | None = None,
    before: Before | None = None,
) -> Ended:
    path.parent.mkdir(parents=True, exist_ok=True)
    return child(path, options, fault, before).end()


def reference(path: Path, options: Sequence[str] = DIN) -> Reference:
    """Runs the tiny configuration in a new directory. Raises RuntimeError if that fails."""
    ended = start(path, options)
    if ended.code:
        raise RuntimeError(f"the uninterrupted run failed: {ended.err}")
    return Reference(lambda path: start(path, options), results(path))


def interrupted(path: Path, steps: int, options: Sequence[str] = DIN) -> None:
    """A run that is killed before the update of a step, counted from 0."""
    ended = start(path, options, before=lambda: at_each_step(lambda step: step < steps or _kill()))
    assert ended.killed, ended.err


def at_each_step(call: Callable[[int], object]) -> None:
    """Patches the trainer of this process: before each update, `call` gets the number of updates before it."""
    from recexp.trainer.step import Step

    taken = 0
    update: Callable[..., Any] = Step.update

    def called(*arguments: Any) -> Any:
        nonlocal taken
        call(taken)
        taken += 1
        return update(*arguments)

    Step.update = called


def draw_nothing() -> None:
    """Replaces drawing by a file of the usual size; how it is written stays."""
    import matplotlib.figure

    class Blank(MagicMock):
        def savefig(self, target: Any, **options: Any) -> None:
            if hasattr(target, "write"):
                target.write(PICTURE)
            else:
                Path(target).write_bytes(PICTURE)

    matplotlib.figure.Figure = Blank


def warm_up() -> None:
    """Trains once in this process: what is imported and made on first use, forked processes then have."""
    import recexp

    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        config = compose(DIN)
        with contextlib.redirect_stdout(io.StringIO()):
            recexp.train(replace(config, run=replace(config.run, dir=f"{folder}/run")))


@cache
def compose(options: Sequence[str]) -> Any:
    """The checked configuration."""
    import recexp

    return recexp.load_config([*BASE, *options])


def _train_composed(options: Sequence[str], **run: str) -> None:
    """Patches the command line of this process: it trains what was composed."""
    import recexp.cli
    import recexp.experiment

    config = compose(tuple(options))
    config = replace(config, run=replace(config.run, **run))

    def train(arguments: list[str]) -> int:
        recexp.cli.log_to_terminal()
        recexp.experiment.train_checked(config, arguments)
        return 0

    recexp.cli.train = train


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
