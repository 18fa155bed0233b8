"""What runs differ in: the keys of their configurations that make a setting."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from recexp.run.record import Record

NAMES = {f"{group}.name": group for group in ("model", "dataset", "trainer")}
FULL = {short: full for full, short in NAMES.items()}
# Where a run lies and on what it runs, what a sweep makes of it, and where its data lie (their content counts).
APART = ("seed", "run", "logger", "device", "plugins", "objective")
PLACES = ("dataset.path", "dataset.user_path", "dataset.item_path", "dataset.cache_dir")
DATA = "data"  # the key that parts runs of one configuration on other data
ABSENT = object()


def short(key: str) -> str:
    """A configuration's key as it is typed: model for model.name."""
    return NAMES.get(key, key)


def text(value: Any) -> str:
    """A configuration's value as it is typed, without spaces."""
    if isinstance(value, list):
        return f"[{','.join(map(text, value))}]"
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def settings(records: list[Record]) -> list[dict[str, Any]]:
    """The setting of each record: of all keys in which two of them differ, its own values, by short key.

    Where equal configurations met other data, `data` tells them apart.
    """
    keys = differing(records)
    found = [{short(key): record.config[key] for key in keys if key in record.config} for record in records]
    prepared: dict[str, set[str | None]] = defaultdict(set)
    for record, setting in zip(records, found, strict=True):
        prepared[name_of(setting)].add(record.fingerprint)
    if all(len(fingerprints) == 1 for fingerprints in prepared.values()):
        return found
    return [{**setting, DATA: _data(record)} for record, setting in zip(records, found, strict=True)]


def name_of(setting: dict[str, Any]) -> str:
    """As one would type it; equal for equal settings."""
    return " ".join(f"{key}={text(value)}" for key, value in setting.items())


def differing(records: list[Record]) -> list[str]:
    """Keys in which two of the records differ: groups' names first, then in the order of the configurations.

    An option of a model counts where two runs of that model differ in it, and so with datasets and trainers.
    """
    keys = dict.fromkeys(key for record in records for key in record.config)
    found = [key for key in keys if not _apart(key) and _differs(key, records)]
    return sorted(found, key=lambda key: key not in NAMES)


def distinct(records: list[Record], key: str) -> list[Any]:
    """The values of a short key among the records that have it, each once."""
    full = FULL.get(key, key)
    values = [record.config[full] for record in records if full in record.config]
    return list({repr(value): value for value in values}.values())


def _apart(key: str) -> bool:
    return key.partition(".")[0] in APART or key in PLACES


def _differs(key: str, records: list[Record]) -> bool:
    owner = f"{key.partition('.')[0]}.name"
    values: dict[str | None, set[str]] = defaultdict(set)
    for record in records:
        name = record.config.get(owner) if key != owner else None
        values[name].add(repr(record.config.get(key, ABSENT)))
    return any(len(found) > 1 for found in values.values())


def _data(record: Record) -> str:
    """A name for data: the file's, or the dataset's, and the beginning of their fingerprint."""
    name = Path(record.config.get("dataset.path") or record.config["dataset.name"]).name
    return f"{name}:{(record.fingerprint or 'unknown')[:8]}"
