"""Chooses the options with which an inspected log trains: roles, label, threshold, split and features."""

from collections import Counter
from typing import Any

from recexp.dataset.inspect.facts import Label, LogFacts
from recexp.dataset.inspect.role import WRITTEN, Column
from recexp.dataset.raw import MULTI_SEPARATOR

UNSEEN = 0.5  # share of test rows of unseen users above which a split at one moment for all is not sensible


def options_of(
    columns: list[Column], facts: LogFacts | None, label: Label | None, sides: dict[str, tuple[str, list[Column]]]
) -> dict[str, Any]:
    """sides: file and columns of the features of users or items."""
    named = {column.role: column for column in columns}
    timed = facts is not None and facts.time is not None
    options: dict[str, Any] = {"columns": {role: named[role].name if role in named else None for role in ROLES}}
    all_columns = [*columns, *(column for _, side_columns in sides.values() for column in side_columns)]
    separators = [column.separator for column in all_columns if column.kind == "multi" and column.separator != WRITTEN]
    multi = Counter(separators).most_common(1)[0][0] if separators else None
    if multi not in (None, MULTI_SEPARATOR):
        options["multi_separator"] = multi
    usable = [column for column in columns if _usable(column, multi)]
    features = {side: _kinds(usable, f"{side} feature") for side in ("user", "item", "context")}
    files = {
        side: {column.name: column.kind for column in side_columns if _usable(column, multi)}
        for side, (_, side_columns) in sides.items()
    }
    files = {side: kinds for side, kinds in files.items() if kinds}
    options |= {f"{side}_path": sides[side][0] for side in files}
    if not timed and not (files and facts):  # a table, whose rows are joined with at most one file
        ids = {named[role].name: "categorical" for role in ("user", "item", "timestamp") if role in named}
        row_features = ids | features["user"] | features["item"] | features["context"]
        file_features = {name for kinds in files.values() for name in kinds}
        context = {name: kind for name, kind in row_features.items() if name not in file_features}
        features = {"user": {}, "item": {}, "context": context}
        options["columns"] |= {role: None for role in ("user", "item", "timestamp") if role not in files}
    features |= files
    if timed and named["timestamp"].time_format:
        options["time_format"] = named["timestamp"].time_format
    if label is not None and len(label.counts) > 1:
        options["label_threshold"] = label.threshold
    elif timed:
        options["label"], options["columns"]["label"] = "implicit", None
    return options | {"features": features, "split": _split(named, facts if timed else None)}


ROLES = ("user", "item", "label", "timestamp")


def _usable(column: Column, separator: str | None) -> bool:
    """True if a column is a feature when cells are split at this separator."""
    return bool(column.kind) and column.separator in (None, separator, WRITTEN)


def _kinds(columns: list[Column], role: str) -> dict[str, str]:
    return {column.name: column.kind for column in columns if column.role == role}


def _split(named: dict[str, Column], facts: LogFacts | None) -> dict[str, Any]:
    if "split" in named:
        return {"kind": "given", "column": named["split"].name}
    if facts is None:
        return {"kind": "random"}
    by_user = facts.unseen["user_time"].rows and facts.unseen["time"].user > UNSEEN  # users of one event have no test
    return {"kind": "user_time" if by_user else "time"}
