"""Compares two runs bit by bit, and the environments in which they ran."""

from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from recexp.error import RunError
from recexp.run.read import read_json, read_metrics
from recexp.run.record import has_ended, read
from recexp.run.status import read_status
from recexp.tree import flat

if TYPE_CHECKING:
    import pandas as pd

TIMES = ("seconds", "samples_per_second", "peak_memory_mb")  # metrics that differ between any two runs
WHERE = ("python", "packages.", "hardware.", "git.")  # keys of environment.json that are compared


@dataclass(frozen=True)
class Comparison:
    """One part of two runs, and its differences in words."""

    name: str
    differs: list[str]
    kept: bool = True  # whether the first run has this part


def require_finished(path: Path) -> None:
    """Raises RunError for a run that has not come to its end, or of which a file is damaged."""
    if not has_ended(path):
        raise RunError(
            f"{path}: has not ended, so nothing can equal it yet; go on with: recexp resume {quote(str(path))}"
        )
    if read_status(path)["state"] == "pruned":
        raise RunError(f"{path}: was ended early by its file stop, which cannot be done again to the bit.")


def comparisons(first: Path, second: Path) -> list[Comparison]:
    """Weights, predictions, recommendations and metrics of two runs that have ended. Raises DamagedFile.

    A run that only ranks has recommendations and no predictions; a run that ranks nothing has no recommendations.
    """
    one, two = read(first), read(second)
    frames = [
        _rows("predictions", first, one.predictions(), two.predictions()),
        _rows("recommendations", first, one.recommendations(), two.recommendations()),
    ]
    kept = [comparison for comparison in frames if comparison.kept] or frames[:1]
    return [_weights(first, second), *kept, _metrics(first, second)]


def surroundings(first: Path, second: Path) -> list[str]:
    """The differences of environment.json in data, versions and hardware, in words."""
    one, two = _environment(first), _environment(second)
    keys = sorted(key for key in one.keys() | two.keys() if one.get(key) != two.get(key))
    return [_both(key, _text(one.get(key)), _text(two.get(key))) for key in keys]


def _weights(first: Path, second: Path) -> Comparison:
    """The weights of the best epoch."""
    import torch

    from recexp.trainer import tensors
    from recexp.trainer.checkpoint import read_document

    if not (first / "checkpoints" / "best.json").is_file():
        return Comparison("weights", [], kept=False)
    loaded = []
    for folder in (first / "checkpoints", second / "checkpoints"):
        document = read_document(folder / "best.json")
        loaded.append(tensors.read(folder / document["tensors"], document, torch.device("cpu")))
    one, two = loaded
    differs = []
    for name in sorted(one.keys() | two.keys()):
        a, b = one.get(name), two.get(name)
        if a is None or b is None or a.shape != b.shape or a.dtype != b.dtype:
            differs.append(f"{name.removeprefix('model.')}: is of another kind")
        elif not torch.equal(a.view(-1).view(torch.uint8), b.view(-1).view(torch.uint8)):
            largest = float((a.double() - b.double()).abs().max())
            differs.append(f"{name.removeprefix('model.')}: by up to {largest:.3g}")
    return Comparison("weights", differs)


def _rows(name: str, first: Path, one: "pd.DataFrame | None", two: "pd.DataFrame | None") -> Comparison:
    if one is None or two is None:
        return Comparison(name, [], kept=False)
    if len(one) != len(two) or [*one.columns] != [*two.columns]:
        return Comparison(name, [f"{len(one):,} rows in {first}, {len(two):,} here"])
    counts = {column: int((one[column].to_numpy() != two[column].to_numpy()).sum()) for column in one.columns}
    return Comparison(name, [f"{column}: in {n:,} of {len(one):,} rows" for column, n in counts.items() if n])


def _metrics(first: Path, second: Path) -> Comparison:
    one, two = (dict(flat(read_metrics(path) or {})) for path in (first, second))
    keys = [key for key in one | two if key not in TIMES and one.get(key) != two.get(key)]
    return Comparison("metrics", [_both(key, _text(one.get(key)), _text(two.get(key))) for key in keys])


def _environment(path: Path) -> dict[str, Any]:
    """The environment of a run by dotted key: the data, and lists of the values of its processes."""
    content = read_json(path / "environment.json") or {}
    values: dict[str, Any] = {"data": content.get("data", {}).get("fingerprint")}
    for process in (content, *content.get("resumed", ())):
        for key, value in flat(process):
            if f"{key}.".startswith(WHERE) and value not in values.setdefault(key, []):
                values[key].append(value)
    return values


def _both(key: str, one: str, two: str) -> str:
    return f"{key}: {one} there, {two} here"


def _text(value: Any) -> str:
    values = value if isinstance(value, list) else [value]
    return " and ".join("nothing" if item is None else str(item) for item in values)
