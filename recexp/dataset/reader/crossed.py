"""Random effects of several fields together that no fewer of them can explain.

N events, C cells: the combinations of the fields' values
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np


def crossed(rng: np.random.Generator, columns: Sequence[np.ndarray], sizes: Sequence[int]) -> np.ndarray:
    """(N,) a random effect of each cell, less its best approximation by sums of effects of one field fewer.

    columns: (N,) values of each field, from 0 to its size - 1. The rest sums to 0 over the events of each combination
    of values of all fields but one, so a model of fewer fields together learns nothing.
    """
    n_cells = int(np.prod(sizes))
    cell = np.ravel_multi_index(tuple(columns), tuple(sizes))
    weight = np.sqrt(np.bincount(cell, minlength=n_cells))
    effect = rng.standard_normal(n_cells)
    values = np.unravel_index(np.arange(n_cells), tuple(sizes))
    lower = []  # (C, combinations of the fewer fields), 1 where a cell has one
    for fewer in combinations(range(len(sizes)), len(sizes) - 1):
        shape = [sizes[n] for n in fewer]
        combination = np.ravel_multi_index([values[n] for n in fewer], shape)
        lower.append(np.eye(int(np.prod(shape)))[combination])
    matrix = np.hstack(lower)
    fit = np.linalg.lstsq(matrix * weight[:, None], effect * weight, rcond=None)[0]
    return standardise((effect - matrix @ fit)[cell])


def standardise(term: np.ndarray) -> np.ndarray:
    return (term - term.mean(dtype=float)) / max(term.std(dtype=float), 1e-9)
