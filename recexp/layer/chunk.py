"""A function of rows, computed in chunks: what it needs on the way takes the memory of one chunk."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from recexp.kernel.device import traced

LARGEST = 2**21  # numbers of the largest intermediate tensor of a chunk, 8 MiB of floats: slower beyond the cache


def in_chunks(function: Callable[..., Tensor], per_row: int, rows: tuple[Tensor, ...], *shared: Tensor) -> Tensor:
    """function(*rows, *shared) of tensors whose first axis is the batch, and of others that all rows share.

    per_row: numbers of the largest intermediate tensor for one row. If the batch has more than one chunk, none is kept
    for the gradient; the function, which must draw nothing at random, then runs again in the backward pass.
    """
    size = max(1, LARGEST // per_row)
    if traced() or len(rows[0]) <= size:
        return function(*rows, *shared)
    chunks = zip(*(x.split(size) for x in rows), strict=True)
    return torch.cat(
        [checkpoint(function, *chunk, *shared, use_reentrant=False, preserve_rng_state=False) for chunk in chunks]
    )
