"""Sampled negatives: items of the training events that the user has not interacted with by the time of an event.

They decide which rows are scored, so dataset.history_until, which limits what a model reads, does not change them.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from recexp.dataset.column import Columns
from recexp.dataset.sample import Samples

DRAWS = 100  # at most, for a user who has interacted with nearly all items; then the last draw is kept


class Negatives:
    """Draws `n` negatives for each event of a split."""

    def __init__(self, columns: Columns, rows: Mapping[str, Tensor], n: int, chronological: bool) -> None:
        """rows: those of each split. chronological: if False, training events see only training interactions."""
        self.columns, self.n = columns, n
        self.candidates = torch.unique(columns.item[rows["train"]]).long()
        whole = FirstInteractions.of(columns, slice(None))
        train = whole if chronological else FirstInteractions.of(columns, rows["train"])
        self.interactions = {"train": train, "valid": whole, "test": whole}

    def samples(self, split: str, positive: Tensor, generator: torch.Generator) -> Samples:
        """Each event (m,) followed by its negatives."""
        item = self.columns.item[positive].long()
        items = torch.cat([item[:, None], self._draw(split, positive, generator).view(len(positive), self.n)], 1)
        labels = torch.zeros(items.shape, device=positive.device)
        labels[:, 0] = 1
        return Samples(positive.repeat_interleave(1 + self.n), items.flatten(), labels.flatten())

    def _draw(self, split: str, positive: Tensor, generator: torch.Generator) -> Tensor:
        """(m * n,) items; those in the user's past are drawn again."""
        row = positive.repeat_interleave(self.n)
        user, time = self.columns.user[row], self.columns.timestamp[row]
        item = torch.empty_like(row, dtype=torch.long)
        pending = torch.arange(len(row), device=row.device)
        for _ in range(DRAWS):
            drawn = torch.randint(len(self.candidates), (len(pending),), generator=generator).to(row.device)
            item[pending] = self.candidates[drawn]
            pending = pending[self.interactions[split].by(user[pending], item[pending], time[pending])]
            if not len(pending):
                break
        return item


class FirstInteractions:
    """When each user first interacted with each item."""

    def __init__(self, user: Tensor, item: Tensor, time: Tensor) -> None:
        """Columns (N,) of events sorted by user and time."""
        self.n_items = int(item.max()) + 1
        pair = user.long() * self.n_items + item
        # The first of equal pairs in a stable sort is the earliest.
        ordered, order = torch.sort(pair, stable=True)
        first = torch.ones_like(ordered, dtype=torch.bool)
        first[1:] = ordered[1:] != ordered[:-1]
        self.pair, self.time = ordered[first], time[order[first]]

    @classmethod
    def of(cls, columns: Columns, rows: Tensor | slice) -> "FirstInteractions":
        return cls(columns.user[rows], columns.item[rows], columns.timestamp[rows])

    def by(self, user: Tensor, item: Tensor, time: Tensor) -> Tensor:
        """True if the user had interacted with the item at or before that time: (n,) bool."""
        pair = user.long() * self.n_items + item
        index = torch.searchsorted(self.pair, pair).clamp(max=len(self.pair) - 1)
        return (self.pair[index] == pair) & (self.time[index] <= time)
