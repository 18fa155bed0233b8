"""Files of a run directory are replaced whole, so that no reader ever sees half of one."""

import json
import os
from pathlib import Path
from typing import Any

import yaml


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.writing")
    temporary.write_text(text, "utf-8")
    os.replace(temporary, path)


def dump(value: Any) -> str:
    """YAML, keys in their order."""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
