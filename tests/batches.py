"""Batches that a test changes."""

from dataclasses import replace
from typing import Any

from recexp.dataset.batch import Batch


def with_catalogue(batch: Batch, **parts: Any) -> Batch:
    """The batch with other users, items or sampling pool."""
    return replace(batch, catalogue=replace(batch.catalogue, **parts))
