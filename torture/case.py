"""A tiny run, the one that nothing happened to, and what must hold of one that something happened to."""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torture.process import Ended, run, run_all

BASE = (
    "+experiment=tiny", "device=cpu", "trainer.threads=1", "trainer.epochs=3", "trainer.patience=null",
    "dataset.n_events=900", "dataset.n_users=40", "dataset.n_items=30",
)  # fmt: skip
DIN = ("model=din", "model.embedding_dim=4", "model.hidden_sizes=[8]", "model.attention_hidden_sizes=[8]",
       "model.dropout=0.2")  # fmt: skip
CACHED = (*DIN, "dataset.cache_dir=/proc/self/cwd/cache")  # each command has its own, beside its run directory
TIMES = ("seconds", "samples_per_second", "peak_memory_mb", "check")
ENDED = ("finished", "pruned")
LEFT = "left behind"
Sort = Literal["unreadable", "unequal", "silent", "untidy"]


class Problem(NamedTuple):
    """unreadable: a directory that cannot be read or resumed. unequal: other results than the uninterrupted run's.
    silent: something wrong that nothing says. untidy: a traceback, a wrong exit code, files left behind."""

    sort: Sort
    text: str


@dataclass(frozen=True)
class Reference:
    """How a run is started in a directory of a given name, and its results if nothing happens to it."""

    start: Callable[[Path], Ended]
    results: dict[str, Any]


def results(path: Path) -> dict[str, Any]:
    """What two runs of the same configuration have in common, to the bit: all but times. Raises what reading raises."""
    metrics = json.loads((path / "metrics.json").read_text("utf-8"))
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text("utf-8").splitlines()]
    best = json.loads((path / "checkpoints" / "best.json").read_text("utf-8"))
    return {
        "metrics.json": _untimed(metrics),
        "metrics.jsonl": [_untimed(line) for line in lines],
        "predictions.parquet": _digest(path / "predictions.parquet"),
        "best weights": _tensors(path / "checkpoints" / best["tensors"]),
    }


def differences(path: Path, expected: dict[str, Any]) -> list[str]:
    """The names of the results that differ, or why they cannot be read."""
    try:
        found = results(path)
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]
    return [name for name in expected if found[name] != expected[name]]


def state(path: Path) -> str | None:
    """The state of status.json as it stands there; None if it cannot be read."""
    try:
        return json.loads((path / "status.json").read_text("utf-8"))["state"]
    except (OSError, ValueError, TypeError, KeyError):
        return None


def judge(path: Path, reference: Reference, damaged: str | None = None) -> list[Problem]:
    """What is wrong with a run that was stopped: as it lies there, when it goes on, and at its end.

    damaged: the name of what was damaged. Then it is enough if the command names it.
    """
    problems = [*readable(path), *as_said(path, reference)]
    ended = run(["resume", path.name], path.parent) if path.exists() else reference.start(path)
    problems += one_line(ended)
    if damaged and damaged in ended.err + ended.out:
        return problems
    if ended.code:
        return [*problems, Problem("unreadable", f"does not go on (exit code {ended.code}): {last_line(ended.err)}")]
    if different := differences(path, reference.results):
        problems.append(Problem("silent" if damaged else "unequal", ", ".join(different)))
    return problems + leftovers(path.parent)


def readable(path: Path) -> list[Problem]:
    """A directory that is there can be shown and listed."""
    if not path.exists():
        return []
    ended = run_all([["show", path.name], ["runs", path.name]], path.parent)
    if ended.code:
        return [*one_line(ended), Problem("unreadable", f"cannot be shown: {last_line(ended.err)}")]
    return one_line(ended)


def as_said(path: Path, reference: Reference) -> list[Problem]:
    """A run that is said to be finished is whole and equal."""
    if state(path) not in ENDED:
        return []
    missing = [] if (path / "curves.png").exists() else ["curves.png"]
    wrong = differences(path, reference.results) + missing
    return [Problem("silent", f"said to be finished, but: {', '.join(wrong)}")] if wrong else []


def one_line(ended: Ended) -> list[Problem]:
    """A command that was not killed ends in time, with a known exit code, and says its error in one line."""
    if ended.hung:
        return [Problem("untidy", "hangs")]
    if ended.killed:
        return []
    errors = [line for line in ended.err.splitlines() if line.startswith("recexp: ")]
    problems = []
    if "Traceback" in ended.err + ended.out:
        problems.append(Problem("untidy", f"traceback: {last_line(ended.err)}"))
    if ended.code not in (0, 1, 2):
        problems.append(Problem("untidy", f"exit code {ended.code}: {last_line(ended.err)}"))
    elif ended.code and len(errors) != 1 and "Traceback" not in ended.err:
        problems.append(Problem("untidy", f"exit code {ended.code} with {len(errors)} lines: {ended.err[-300:]!r}"))
    return problems


def leftovers(folder: Path) -> list[Problem]:
    """Nothing under a temporary name is left: recexp's begin with a dot.

    A launch killed before its run directory appeared may leave one beside it: nothing tells whose it is.
    """
    beside = set(folder.glob(".*.tmp"))
    left = [path.relative_to(folder) for path in folder.rglob(".*") if not beside & {path, *path.parents}]
    return [Problem("untidy", f"{LEFT}: {', '.join(map(str, sorted(left)[:3]))}")] if left else []


def last_line(text: str) -> str:
    lines = [line for line in re.split(r"[\n\r]", text) if line.strip()]
    return lines[-1].strip()[:300] if lines else "no message"


def _untimed(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in TIMES}


def _tensors(path: Path) -> dict[str, str]:
    """The digest of each of a model's tensors."""
    from safetensors.numpy import load_file

    return {
        name: f"{tensor.dtype}{tensor.shape}{hashlib.blake2b(tensor.tobytes()).hexdigest()}"
        for name, tensor in load_file(path).items()
        if name.startswith("model.")
    }


def _digest(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes()).hexdigest()
