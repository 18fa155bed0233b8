"""What other code asks about the hardware. The answers change how long results take, not the results."""

import torch
from torch import Tensor


def traced() -> bool:
    """True if operations are only recorded, for export: shapes are symbols then, and only torch's operations count."""
    return torch.compiler.is_compiling()


def waits(x: Tensor) -> bool:
    """True if reading a number of x from Python means waiting for a GPU, or x is traced and holds none."""
    return x.device.type != "cpu" or traced()


def on_cpu(x: Tensor) -> bool:
    """True if operations written for a CPU's caches apply to x: it is on a CPU, and autocast rounds no products."""
    return x.device.type == "cpu" and not torch.is_autocast_enabled("cpu") and not traced()


def product_dtype(x: Tensor) -> torch.dtype:
    """The type that matrix products of x are rounded to: its own, or autocast's."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def true_positions(mask: Tensor) -> Tensor | slice:
    """The positions (n,), in order, where a mask (N,) is true, to skip the other rows; all rows on a GPU."""
    return slice(None) if waits(mask) else mask.nonzero()[:, 0]


def unique(index: Tensor) -> tuple[Tensor, Tensor]:
    """The sorted unique values (n,) of an index (...), and the position (...) of each entry among them.

    On a GPU, which would stall for their count, all entries of the index, equal or not.
    """
    if waits(index):
        return index.flatten(), torch.arange(index.numel(), device=index.device).view(index.shape)
    values, inverse = torch.unique(index, return_inverse=True)
    return values, inverse
