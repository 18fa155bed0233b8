"""What other code has to ask of the hardware. Answers change how long results take, not what they are."""

import torch
from torch import Tensor


def waits(x: Tensor) -> bool:
    """True if reading a number of x from Python means waiting for a GPU."""
    return x.device.type != "cpu"


def on_cpu(x: Tensor) -> bool:
    """True if operations written for a CPU's caches take x: it is on one, and autocast is not to round products."""
    return x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")


def product_dtype(x: Tensor) -> torch.dtype:
    """The type that matrix products of x are rounded to: its own, or autocast's."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def true_positions(mask: Tensor) -> Tensor | slice:
    """Where a mask (N,) is true, in order (n,), to leave out the work on other rows; all rows on a GPU."""
    return slice(None) if waits(mask) else mask.nonzero()[:, 0]


def unique(index: Tensor) -> tuple[Tensor, Tensor]:
    """The unique numbers of an index (...) in order (n,), and the position of each among these (...).

    On a GPU, where their count would have to be waited for, all numbers of the index, whether equal or not.
    """
    if waits(index):
        return index.flatten(), torch.arange(index.numel(), device=index.device).view(index.shape)
    values, inverse = torch.unique(index, return_inverse=True)
    return values, inverse
