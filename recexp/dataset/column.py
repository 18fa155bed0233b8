"""Columns as tensors on a device, and how rows are picked from them."""

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from recexp.dataset.log import Log


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns of a log of N events from which histories, negatives and batches are gathered."""

    label: Tensor  # (N,) int8
    user: Tensor  # (N,) int32
    item: Tensor  # (N,) int32
    timestamp: Tensor  # (N,)
    before: Tensor  # (N,) int32
    offsets: Tensor  # (U + 2,) int64

    @classmethod
    def of(cls, log: Log, device: torch.device) -> "Columns":
        return cls(**{item.name: on_device(getattr(log, item.name), device) for item in fields(cls)})


def on_device(array: np.ndarray, device: torch.device) -> Tensor:
    """The array as a tensor; on the CPU it shares the array's memory."""
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)


def pick(column: Tensor, index: Tensor) -> Tensor:
    """column (N,) at index (...): index_select takes a fifth of the time of indexing."""
    return column.index_select(0, index.flatten()).view(index.shape)


def ranges(start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """start_0, ..., end_0 - 1, start_1, ... of ranges (B,), and the number of the range of each: (T,) both."""
    length = end - start
    of = torch.arange(len(start), device=start.device).repeat_interleave(length)
    return torch.arange(len(of), device=start.device) + (start - length.cumsum(0) + length)[of], of
