"""Rows of Criteo's shape with any number of values: 26 columns of ids by a power law, 13 of 50 levels each, a label.

The label follows the sum of an effect of each value. `write` gives recexp a folder of Parquet files, whose ids it
hashes into tables of the given number of rows, and the other libraries the same rows with the buckets as ids.
"""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from worker import PARTS

FIRST = 2  # 0 is padding, 1 unknown
IDS, LEVELS, LEVEL_SIZE = [f"C{j}" for j in range(1, 27)], [f"I{j}" for j in range(1, 14)], 50
EFFECTS, SPREAD, BIAS = 1000, 0.2, -1.3  # of how many values effects differ, their deviation, the logit's mean
PRIME = 2654435761  # scatters ids, so that frequent ones do not lie side by side in a table


def columns(n: int, n_values: int, seed: int) -> dict[str, np.ndarray]:
    """n rows whose columns C hold up to n_values different ids each: all columns int32, the label int8."""
    rng, effects = np.random.default_rng(seed), np.random.default_rng(0).normal(0, SPREAD, (len(IDS + LEVELS), EFFECTS))
    logit, made = np.full(n, BIAS), {}
    for name, effect in zip(IDS + LEVELS, effects, strict=True):
        if name in IDS:
            value = (rng.random(n) ** 3 * n_values).astype(np.int64) * PRIME % n_values
        else:
            value = rng.integers(LEVEL_SIZE, size=n)
        made[name] = value.astype(np.int32)
        logit += effect[value % EFFECTS]
    return {"label": (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(np.int8), **made}


def overrides(folder: Path, n_buckets: int, kind: str = "hash") -> list[str]:
    """What makes recexp read a folder with train, valid and test.parquet. kind: of the ids, a kind of feature."""
    return [
        "dataset=parquet", f"dataset.path={folder}", "dataset.columns={user:null,item:null,label:label,timestamp:null}",
        "dataset.split.kind=given", f"dataset.features.context={{C*:{kind},I*:categorical}}",
        f"dataset.n_buckets={n_buckets}",
    ]  # fmt: skip


def write(folder: Path, n_rows: int, n_buckets: int, models: dict[str, dict[str, Any]]) -> None:
    """FOLDER/criteo/ with n_rows of training, and FOLDER/MODEL.json with the settings of each model."""
    place, arrays = folder / "criteo", {}
    (place / "fuxictr").mkdir(parents=True)
    for seed, part in enumerate(PARTS):
        frame = pd.DataFrame(columns(n_rows if part == "train" else 2000, n_buckets, seed))
        frame.to_parquet(place / f"{part}.parquet", index=False)
        for name in IDS:
            frame[name] = buckets(frame[name].to_numpy(), n_buckets)
        frame[IDS + LEVELS] += FIRST
        frame.to_csv(place / "fuxictr" / f"{part}.csv", index=False)
        arrays |= {f"{part}.{name}": frame[name].to_numpy() for name in frame}
        arrays[f"{part}.label"] = arrays[f"{part}.label"].astype(np.float32)
    np.savez(place / "rows.npz", **arrays)
    sizes = dict.fromkeys(IDS, FIRST + n_buckets) | dict.fromkeys(LEVELS, FIRST + LEVEL_SIZE)
    for model, settings in models.items():
        known = {"kind": "criteo", "vocabulary": sizes, "max_history": 0}
        known["overrides"] = [*settings["overrides"], *overrides(place, n_buckets)]
        (folder / f"{model}.json").write_text(json.dumps(settings | known, indent=1), "utf-8")


def buckets(values: np.ndarray, n_buckets: int) -> np.ndarray:
    """The bucket of each value, as recexp hashes it: (n,) int32."""
    unique, index = np.unique(values, return_inverse=True)
    return np.array([zlib.crc32(str(value).encode()) % n_buckets for value in unique], np.int32)[index]
