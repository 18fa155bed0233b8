"""Reading the files of run directories, and finding run directories."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from recexp.error import RunError

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, if it is there, is seven times as fast


def read_config(path: Path) -> dict[str, Any]:
    """The configuration of a run directory. Raises RunError if there is none."""
    try:
        config = yaml.load((path / "config.yaml").read_text("utf-8"), Loader=LOADER)
    except FileNotFoundError:
        raise RunError(f"{path}: no run directory (it has no config.yaml).") from None
    except yaml.YAMLError as error:
        raise RunError(f"{path / 'config.yaml'}: damaged ({str(error).splitlines()[0]}).") from error
    if not isinstance(config, dict):
        raise RunError(f"{path / 'config.yaml'}: damaged (holds no keys).")
    return config


def read_json(path: Path) -> dict[str, Any] | None:
    """The file's content, None if there is no file. Raises RunError if it is damaged."""
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RunError(f"{path}: damaged ({error}).") from error


def read_epochs(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a last line that a kill cut short is left out."""
    file = path / "metrics.jsonl"
    lines = file.read_text("utf-8").splitlines(keepends=True) if file.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def find_runs(folders: list[Path]) -> list[Path]:
    """All run directories in or below the folders, by name and number. Raises RunError for a missing folder."""
    for folder in folders:
        if not folder.is_dir():
            raise RunError(f"{folder}: no such directory.")
    return sorted({path.parent for folder in folders for path in folder.rglob("status.json")}, key=_by_number)


def _by_number(path: Path) -> list[int | str]:
    """Sorts job 10 after job 9. Text and numbers alternate, so like is compared with like."""
    return [int(piece) if piece.isdecimal() else piece for piece in re.split(r"([0-9]+)", str(path))]
