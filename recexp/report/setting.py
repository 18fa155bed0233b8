"""Settings: the configuration keys in which runs differ, with their values."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from recexp.run.identity import DATA_PATHS
from recexp.run.record import Record

NAMES = {f"{group}.name": group for group in ("model", "dataset", "trainer")}
FULL = {short: full for full, short in NAMES.items()}
# Keys that are not part of a setting: the seed, a run's location and device, and the objective of its sweep. Nor are
# the paths of its data, whose content counts.
IGNORED_GROUPS = ("seed", "run", "logger", "device", "plugins", "objective")
DATA = "data"  # the key that separates runs of one configuration on different data
ABSENT = object()


def short(key: str) -> str:
    """The short form of a configuration key, as in overrides: model for model.name."""
    return NAMES.get(key, key)


def text(value: Any) -> str:
    """A configuration value as in overrides, without spaces."""
    if isinstance(value, list):
        return f"[{','.join(map(text, value))}]"
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def settings(records: list[Record]) -> list[dict[str, Any]]:
    """The setting of each record: its values, by short key, of all keys in which any two records differ.

    If equal configurations were run on different data, the key `data` distinguishes them.
    """
    keys = differing(records)
    by_record = [{short(key): record.config[key] for key in keys if key in record.config} for record in records]
    fingerprints: dict[str, set[str]] = defaultdict(set)
    for record, setting in zip(records, by_record, strict=True):
        if record.fingerprint is not None:  # a run that has not begun has read no data
            fingerprints[name_of(setting)].add(record.fingerprint)
    if all(len(different) == 1 for different in fingerprints.values()):
        return by_record
    return [{**setting, DATA: _data(record)} for record, setting in zip(records, by_record, strict=True)]


def name_of(setting: dict[str, Any]) -> str:
    """A setting as one would type it; equal for equal settings."""
    return " ".join(f"{key}={text(value)}" for key, value in setting.items())


def differing(records: list[Record]) -> list[str]:
    """Keys in which any two records differ: group names first, then in the order of the configurations.

    An option of a model counts only if two runs of that model differ in it; likewise for datasets and trainers.
    """
    keys = dict.fromkeys(key for record in records for key in record.config)
    different = [key for key in keys if not _ignored(key) and _differs(key, records)]
    return sorted(different, key=lambda key: key not in NAMES)


def unique_values(records: list[Record], key: str) -> list[Any]:
    """The unique values of a short key among the records that have it."""
    full = FULL.get(key, key)
    values = [record.config[full] for record in records if full in record.config]
    return list({repr(value): value for value in values}.values())


def _ignored(key: str) -> bool:
    return key.partition(".")[0] in IGNORED_GROUPS or key in DATA_PATHS


def _differs(key: str, records: list[Record]) -> bool:
    owner = f"{key.partition('.')[0]}.name"
    values_by_owner: dict[str | None, set[str]] = defaultdict(set)
    for record in records:
        name = record.config.get(owner) if key != owner else None
        values_by_owner[name].add(repr(record.config.get(key, ABSENT)))
    return any(len(values) > 1 for values in values_by_owner.values())


def _data(record: Record) -> str:
    """A name for the data: the name of the file or dataset and the beginning of the fingerprint."""
    name = Path(record.config.get("dataset.path") or record.config["dataset.name"]).name
    return f"{name}:{(record.fingerprint or 'unknown')[:8]}"
