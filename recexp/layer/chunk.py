"""Computes a function of rows in chunks, so that its intermediate tensors take the memory of one chunk."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from recexp.kernel.device import traced

LARGEST = 2**21  # numbers of the largest intermediate tensor of a chunk, 8 MiB of floats: slower beyond the cache


def in_chunks(function: Callable[..., Tensor], per_row: int, rows: tuple[Tensor, ...], *shared: Tensor) -> Tensor:
    """function(*rows, *shared): the first axis of `rows` is the batch, and `shared` are the same for all rows.

    per_row: numbers of the largest intermediate tensor for one row. If the batch has more than one chunk, intermediate
    tensors are not kept for the gradient: the function, which must not be random, runs again in the backward pass.
    """
    size = max(1, LARGEST // per_row)
    if traced() or len(rows[0]) <= size:
        return function(*rows, *shared)
    chunks = zip(*(x.split(size) for x in rows), strict=True)
    return torch.cat(
        [checkpoint(function, *chunk, *shared, use_reentrant=False, preserve_rng_state=False) for chunk in chunks]
    )
