"""Samples: rows of the log to be scored, before anything is gathered for them."""

from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True)
class Samples:
    """n rows; an item and label, if given, replace those of the log."""

    row: Tensor  # (n,) int32
    item: Tensor | None = None  # (n,)
    label: Tensor | None = None  # (n,)

    def __len__(self) -> int:
        return len(self.row)

    def take(self, index: Tensor | slice) -> "Samples":
        chosen = {name: value[index] for name, value in vars(self).items() if value is not None}
        return replace(self, **chosen)
