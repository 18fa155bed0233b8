"""Random columns of every kind, and which rows train."""

import numpy as np
import pandas as pd


def random_frame(seed: int, n: int = 60) -> tuple[pd.DataFrame, np.ndarray]:
    rng = np.random.default_rng(seed)
    cells = ["|".join(rng.choice(list("abcdefgh"), rng.integers(4))) for _ in range(n)]
    frame = pd.DataFrame({
        "city": rng.choice(["x", "y", "z", "rare", None], n, p=[0.3, 0.3, 0.2, 0.05, 0.15]),
        "tags": pd.Series(cells, dtype=object).mask(rng.random(n) < 0.1),
        "age": np.where(rng.random(n) < 0.2, np.nan, rng.normal(40, 9, n)),
        "price": np.where(rng.random(n) < 0.2, np.nan, rng.integers(6, size=n)),
    })  # fmt: skip
    return frame, rng.random(n) < 0.4
