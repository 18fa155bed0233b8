"""Reading the files of run directories, and finding run directories."""

import logging
import os
import re
from pathlib import Path
from typing import Any

from recexp import storage
from recexp.error import DamagedFile, RunError
from recexp.metric.table import is_number

logger = logging.getLogger(__name__)
MEASURED = ("best_epoch", "epochs", "parameters", "seconds", "samples_per_second", "peak_memory_mb")


def read_config(path: Path) -> dict[str, Any]:
    """The configuration of a run directory. Raises RunError if there is none."""
    try:
        config = storage.read_yaml(path / "config.yaml")
    except FileNotFoundError:
        raise RunError(f"{path}: no run directory (it has no config.yaml).") from None
    if not isinstance(config, dict):
        raise DamagedFile(f"{path / 'config.yaml'}: damaged (holds no keys).")
    return config


def read_overrides(path: Path) -> list[str]:
    """The overrides as the user typed them; none if the file is missing. Raises DamagedFile."""
    try:
        overrides = storage.read_yaml(path / "overrides.yaml")
    except FileNotFoundError:
        return []
    if not (isinstance(overrides, list) and all(isinstance(word, str) for word in overrides)):
        raise DamagedFile(f"{path / 'overrides.yaml'}: damaged (holds no list of overrides).")
    return overrides


def overrides_if_whole(path: Path) -> list[str]:
    """The overrides; none, with a warning, if their file is damaged, where no number depends on them."""
    try:
        return read_overrides(path)
    except DamagedFile as error:
        logger.warning("%s", error)
        return []


def read_json(path: Path) -> dict[str, Any] | None:
    """The file's content, None if there is no file. Raises DamagedFile."""
    try:
        return storage.read_json(path)
    except FileNotFoundError:
        return None


def read_metrics(path: Path) -> dict[str, Any] | None:
    """metrics.json of a run directory, None if there is none. Raises DamagedFile, also if it lacks a number."""
    file = path / "metrics.json"
    if (metrics := read_json(file)) is None:
        return None
    lacking = [name for name in MEASURED if not is_number(metrics.get(name))]
    lacking += [name for name in ("train", "valid", "test") if not _are_metrics(metrics.get(name))]
    lacking += [name for name in ("oracle",) if not _are_metrics(metrics.get(name, {}))]
    lacking += [] if _are_groups(metrics.get("groups", {})) else ["groups"]
    if lacking:
        raise DamagedFile(f"{file}: damaged (its {lacking[0]} is {metrics.get(lacking[0])!r:.60}).")
    return metrics


def read_epochs(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """The lines of metrics.jsonl that are whole, and the numbers (from 1) of those that are not. Raises DamagedFile."""
    lines = storage.read_lines(path / "metrics.jsonl")
    whole = {number: line for number, line in lines.items() if line is not None and _is_epoch(line)}
    return list(whole.values()), [number for number in lines if number not in whole]


def find_runs(folders: list[Path]) -> list[Path]:
    """All run directories in or below the folders, by name and number, each once even if a link leads there too.

    Raises RunError for a missing folder.
    """
    runs, seen = [], set()
    for folder in folders:
        if not folder.is_dir():
            raise RunError(f"{folder}: no such directory.")
        for path, subfolders, files in os.walk(folder, followlinks=True):
            facts = os.stat(path)
            if (identity := (facts.st_dev, facts.st_ino)) in seen:
                subfolders.clear()
                continue
            seen.add(identity)
            subfolders.sort(key=lambda name: os.path.islink(os.path.join(path, name)))
            if "status.json" in files:
                runs.append(Path(path))
    return sorted(runs, key=_by_number)


def _are_metrics(values: Any) -> bool:
    return isinstance(values, dict) and all(isinstance(value, int | float | None) for value in values.values())


def _are_groups(kinds: Any) -> bool:
    """True if these are metrics by kind of group and group, each with its number of users."""
    if not (isinstance(kinds, dict) and all(isinstance(groups, dict) for groups in kinds.values())):
        return False
    every = [group for groups in kinds.values() for group in groups.values()]
    return all(_are_metrics(group) and is_number(group.get("users")) for group in every)


def _is_epoch(line: dict[str, Any]) -> bool:
    numbers = all(is_number(line.get(name)) for name in ("epoch", "samples_per_second"))
    metrics = all(_are_metrics(line.get(name)) for name in ("losses", "valid"))
    return numbers and metrics and isinstance(line.get("stage"), str)


def _by_number(path: Path) -> list[int | str]:
    """Sorts job 10 after job 9. Text and numbers alternate, so like is compared with like."""
    return [int(piece) if piece.isdecimal() else piece for piece in re.split(r"([0-9]+)", str(path))]
