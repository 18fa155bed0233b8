"""A dataset as a folder of files: one .npy per array, the encoder, and a JSON file of schema, facts and checksums.

Features that join the rows of a table are Parquet files.
"""

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recexp.dataset.encoder import FILE, Encoder
from recexp.dataset.log import Dataset, from_arrays
from recexp.dataset.schema import Schema
from recexp.error import DamagedFile
from recexp.process import cores
from recexp.storage import file_digest, read_json, write_json

if TYPE_CHECKING:
    import pandas as pd

ABOUT = "dataset.json"
EARLIER = "earlier"
# What the use of damaged content may raise, if no check has found the damage before.
DAMAGE = (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError)


def write(folder: Path, dataset: Dataset, source: dict[str, Any] | None = None) -> None:
    """Writes a dataset's files into a folder. source: what it was prepared from, shown by `recexp cache`."""
    arrays = dataset.log.arrays() | ({} if dataset.earlier is None else {EARLIER: dataset.earlier})
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    for side, frame in dataset.joined.items():
        frame.to_parquet(folder / f"{side}.parquet")
    dataset.encoder.save(folder)
    names = sorted([*(f"{name}.npy" for name in arrays), *(f"{side}.parquet" for side in dataset.joined), FILE])
    saved = {
        "fingerprint": dataset.fingerprint,
        "schema": dataset.schema.to_dict(),
        "facts": dataset.facts,
        "arrays": sorted(arrays),
        "joined": sorted(dataset.joined),
        "source": source or {},
        "digests": dict(zip(names, _digests(folder, names), strict=True)),
    }
    write_json(folder / ABOUT, saved)


def read(folder: Path) -> Dataset:
    """The dataset of a folder, its arrays memory-mapped. Raises DamagedFile if it is not what was written."""
    saved = check(folder)
    try:
        # Copy-on-write: torch wants writable arrays, and what it would write must not reach the file.
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="c") for name in saved["arrays"]}
        earlier = arrays.pop(EARLIER, None)
        return Dataset(
            log=from_arrays(arrays),
            earlier=earlier,
            schema=Schema.from_dict(saved["schema"]),
            encoder=Encoder.load(folder),
            joined={side: _read_features(folder / f"{side}.parquet") for side in saved.get("joined", ())},
            facts=saved["facts"],
            fingerprint=saved["fingerprint"],
            folder=folder,
        )
    except DAMAGE as error:
        raise DamagedFile(f"{folder}: damaged ({type(error).__name__}: {error}).") from error


def _read_features(path: Path) -> "pd.DataFrame":
    import pandas as pd

    return pd.read_parquet(path)


def check(folder: Path) -> dict[str, Any]:
    """The content of dataset.json, once all files are what it says. Raises DamagedFile for one that is not."""
    try:
        if folder.is_symlink():
            raise OSError("it is a link")
        saved = read_json(folder / ABOUT)
        digests = saved.get("digests", {})  # earlier versions wrote none
        actual = dict(zip(digests, _digests(folder, digests), strict=True))
        damaged = [name for name, digest in digests.items() if actual[name] != digest]
    except (OSError, AttributeError, TypeError) as error:
        raise DamagedFile(f"{folder}: cannot be read ({error}).") from error
    if damaged:
        raise DamagedFile(f"{folder / damaged[0]}: damaged (its content is not that of its checksum).")
    return saved


def _digests(folder: Path, names: Collection[str]) -> list[str]:
    """The digests of files, several at once: hashing leaves the interpreter free."""
    with ThreadPoolExecutor(cores()) as pool:
        return list(pool.map(lambda name: file_digest(folder / name), names))
