"""A log in which item n is followed by n + 1 around a ring."""

import numpy as np
import pandas as pd

N_ITEMS = 12
RING = ("dataset=csv", "dataset.path=ring.csv", "dataset.split.kind=leave_last_out", "dataset.cache_dir=null",
        "trainer.batch_size=16", "trainer.ranking.cutoffs=[1,3]", "trainer.monitor=hr@1/all")  # fmt: skip


def write() -> None:
    """ring.csv in the working directory, where RING looks for it."""
    random = np.random.default_rng(0)
    rows = [
        (f"u{user}", f"i{(start + step) % N_ITEMS}", step)
        for user, start in enumerate(random.integers(N_ITEMS, size=60))
        for step in range(random.integers(5, 9))
    ]
    pd.DataFrame(rows, columns=["user", "item", "timestamp"]).to_csv("ring.csv", index=False)
