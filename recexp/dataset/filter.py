"""Leaves out events before anything is learnt, by configured rules, and tells how many."""

from dataclasses import fields, replace
from typing import Any

import numpy as np

from recexp.dataset.config import DatasetConfig, Duplicates
from recexp.dataset.raw import Raw
from recexp.error import ConfigError, DataError


def filtered(raw: Raw, config: DatasetConfig) -> tuple[Raw, np.ndarray | None, list[str]]:
    """The events that stay, their positions (M,) among all, and a line for each rule that left some out.

    The positions are None if no rule is set. Raises ConfigError or DataError.
    """
    if config.duplicates is Duplicates.keep and not config.k_core:
        return raw, None, []
    if raw.user is None or raw.item is None or raw.timestamp is None:
        name = "k_core" if config.k_core else "duplicates"
        raise ConfigError(f"dataset.{name}: rows without users, items and times are no events to leave out.")
    notes = []
    user, item = _codes(raw.user), _codes(raw.item)
    kept = np.ones(len(user), bool)
    if config.duplicates is not Duplicates.keep:
        kept = deduplicated(user, item, raw.timestamp, config.duplicates)
        notes.append(_note(~kept, f"dataset.duplicates={config.duplicates.name}: {config.duplicates.value}"))
    if config.k_core:
        core = k_core(user, item, kept, config.k_core)
        notes.append(
            _note(kept & ~core, f"dataset.k_core={config.k_core}: users and items have as many events or more")
        )
        kept = core
    if not kept.any():
        raise DataError(f"{raw.origin}: no event is left by dataset.k_core = {config.k_core}; lower it.")
    rows = np.flatnonzero(kept).astype(np.int32)
    return select_rows(raw, rows), rows, [note for note in notes if note]


def deduplicated(user: np.ndarray, item: np.ndarray, timestamp: np.ndarray, rule: Duplicates) -> np.ndarray:
    """(N,) bool: the rows that count, of those with the same user and item."""
    keys = [item, user] if rule is not Duplicates.same_time else [timestamp, item, user]
    order = np.lexsort([np.arange(len(user)), timestamp, *keys])
    new = np.zeros(len(user) + 1, bool)
    new[[0, -1]] = True
    for key in keys:
        new[1:-1] |= key[order][1:] != key[order][:-1]
    kept = np.zeros(len(user), bool)
    kept[order[new[:-1] if rule is Duplicates.first else new[1:]]] = True
    return kept


def k_core(user: np.ndarray, item: np.ndarray, kept: np.ndarray, k: int) -> np.ndarray:
    """(N,) bool: the largest subset of the kept events in which each user and each item has at least k."""
    while True:
        few = [np.bincount(ids[kept], minlength=ids.max() + 1)[ids] < k for ids in (user, item)]
        left_out = kept & (few[0] | few[1])
        if not left_out.any():
            return kept
        kept = kept & ~left_out


def select_rows(raw: Raw, rows: np.ndarray) -> Raw:
    """Some of the events; features of users and items stay whole."""
    whole = ("origin", "users", "items", "context", "tasks")
    columns = {item.name: getattr(raw, item.name) for item in fields(raw) if item.name not in whole}
    return replace(
        raw,
        **{name: column[rows] for name, column in columns.items() if column is not None},
        context=None if raw.context is None else raw.context.iloc[rows].reset_index(drop=True),
        tasks=raw.tasks and {name: label[rows] for name, label in raw.tasks.items()},
    )


def _codes(ids: Any) -> np.ndarray:
    import pandas as pd

    return pd.factorize(ids)[0]


def _note(left_out: np.ndarray, rule: str) -> str:
    n = int(left_out.sum())
    return f"{n:,} of {len(left_out):,} events are left out by {rule}" if n else ""
