"""A dataset as a folder of files: one .npy per array, the encoder, and a JSON file of schema and facts."""

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from recexp.dataset.encoder import Encoder
from recexp.dataset.log import Dataset, from_arrays
from recexp.dataset.schema import Schema

# What `read` raises if a file is missing or damaged.
UNREADABLE = (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError)


def write(folder: Path, dataset: Dataset) -> None:
    """Writes a dataset's files into a folder."""
    arrays = dataset.log.arrays()
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    dataset.encoder.save(folder)
    saved = {
        "fingerprint": dataset.fingerprint,
        "schema": dataset.schema.to_dict(),
        "facts": dataset.facts,
        "arrays": sorted(arrays),
    }
    (folder / "dataset.json").write_text(json.dumps(saved, indent=1), "utf-8")


def read(folder: Path) -> Dataset:
    """The dataset of a folder, its arrays memory-mapped. Raises one of UNREADABLE."""
    saved = json.loads((folder / "dataset.json").read_text("utf-8"))
    # Copy-on-write: torch wants writable arrays, and what it would write must not reach the file.
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="c") for name in saved["arrays"]}
    return Dataset(
        log=from_arrays(arrays),
        schema=Schema.from_dict(saved["schema"]),
        encoder=Encoder.load(folder),
        facts=saved["facts"],
        fingerprint=saved["fingerprint"],
        folder=folder,
    )


@contextlib.contextmanager
def whole_or_nothing(folder: Path) -> Iterator[Path]:
    """A new folder under a temporary name, renamed at the end: a reader sees all of it or nothing.

    Raises OSError if it cannot be written or another process was faster.
    """
    temporary = folder.parent / f".writing-{uuid.uuid4().hex}"
    temporary.mkdir(parents=True)
    try:
        yield temporary
        os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
