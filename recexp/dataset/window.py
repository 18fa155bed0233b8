"""Windows of users' training events, in which every position predicts the item of the next event.

T events of B windows, one window after another without padding, the longest first; P pairs of an event and its target

A target's input is what the user did strictly earlier: events of the same user and timestamp (tie mates) are all
predicted from the last event before them, none of them is another's input, and their order is never a target. If all
timestamps of a user differ, each event predicts the one that follows.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from recexp.dataset.batch import Batch, Batches
from recexp.dataset.catalogue import Catalogue
from recexp.dataset.column import pick, ranges
from recexp.dataset.sample import Samples


@dataclass(frozen=True, kw_only=True)
class Packed:
    """Events of B sequences, one sequence after another, the longest sequence first.

    On a GPU, which would have to wait for the number of events, they are padded on the right to one length L instead,
    in any order: T = B L.
    """

    item: Tensor  # (T,) rows of items, oldest first in each sequence; (B, L) if padded
    age: Tensor  # float32, the shape of item: time from the event to a moment that no event of the sequence exceeds
    length: Tensor  # (B,) int64; 0 for a sequence without events
    user: Tensor  # (B,) rows of users
    catalogue: Catalogue


@dataclass(frozen=True, kw_only=True)
class WholeWindows:
    """The S events of B windows, including their latest timestamp, for training on masked items.

    Of each window the last `max_history` + 1 events, oldest first. Tie mates at the end count among these, so a window
    that ends in many of them has fewer earlier events.
    """

    item: Tensor  # (S,) rows of items
    time: Tensor  # (S,) the same for tie mates, and for no others
    window: Tensor  # (S,) the number of the window


@dataclass(frozen=True, kw_only=True)
class WindowBatch:
    """B windows, and which of their events predicts which item."""

    events: Packed
    whole: WholeWindows
    query: Tensor  # (P,) position among the T events of the last one strictly before the target
    target: Tensor  # (P,) rows of items

    def __len__(self) -> int:
        return len(self.events.length)

    @property
    def catalogue(self) -> Catalogue:
        return self.events.catalogue


class Windows:
    """One window for each user who has training events of two timestamps or more.

    A window's input is the user's last `max_history` training events before the latest timestamp. Windows take the
    place of `Batches` in training; `batches` are those of rows, which evaluation reads.
    """

    def __init__(self, batches: Batches) -> None:
        self.batches, self.device, self.negatives = batches, batches.device, 0
        self.max_history = batches.max_history
        columns, rows = batches.columns, batches.rows["train"]
        user, time = columns.user[rows], columns.timestamp[rows]
        self.item, self.time = columns.item[rows], time
        position = torch.arange(len(rows), device=self.device)
        new_user = torch.ones(len(rows), dtype=torch.bool, device=self.device)
        new_user[1:] = user[1:] != user[:-1]
        new_time = new_user.clone()
        new_time[1:] |= time[1:] != time[:-1]
        self.group = torch.where(new_time, position, 0).cummax(0).values  # (N,) first event of the same timestamp
        first = position[new_user]  # of each user
        end = torch.cat([first[1:], first.new_tensor([len(rows)])])
        stop = self.group[end - 1]
        has_input = stop > first
        self.user, self.stop, self.end = user[first[has_input]].long(), stop[has_input], end[has_input]
        self.begin = torch.maximum(first[has_input], self.stop - self.max_history)
        n_windows = max(1, len(self.begin))
        self.n_events = -(-int((self.stop - self.begin).sum()) // n_windows)  # of a window, on average
        target = self.group > first.repeat_interleave(end - first)
        self.n_targets, self.n_tied = int(target.sum()), int((target & ~new_time).sum())

    def size(self, split: str) -> int:
        """Windows of the training split; rows of another."""
        return len(self.begin) if split == "train" else self.batches.size(split)

    def steps(self, split: str, batch_size: int) -> int:
        return -(-self.size(split) // batch_size)

    def counts(self, side: str) -> Tensor:
        return self.batches.counts(side)

    def training(self) -> Batch:
        return self.batches.training()

    def samples(
        self, split: str, batch_size: int, seed: int, histories: bool = True, skip: int = 0
    ) -> Iterator[Samples]:
        """The windows of each training batch, shuffled, without the first `skip` batches."""
        order = torch.randperm(len(self.begin), generator=torch.Generator().manual_seed(seed)).to(self.device)
        for start in range(skip * batch_size, len(order), batch_size):
            yield Samples(order[start : start + batch_size])

    def gather(self, samples: Samples, split: str = "train", longest: int | None = None) -> WindowBatch:
        """The batch of some windows, the longest first."""
        window = samples.row[(self.begin - self.stop)[samples.row].argsort(stable=True)]
        begin, stop, end = self.begin[window], self.stop[window], self.end[window]
        length = stop - begin
        target, target_window = ranges(begin + 1, end)
        has_input = self.group[target] > begin[target_window]  # a tie mate of the window's first event has none
        target, target_window = target[has_input], target_window[has_input]
        position, event_window = ranges(begin, stop)
        events = Packed(
            item=pick(self.item, position).long(),
            age=(pick(self.time, stop - 1)[event_window] - pick(self.time, position)).float(),
            length=length,
            user=self.user[window],
            catalogue=self.batches.catalogue,
        )
        shift = length.cumsum(0) - length - begin  # from a position in the log to one among the T events
        query, target = self.group[target] - 1 + shift[target_window], self.item[target].long()
        return WindowBatch(events=events, whole=self._whole(begin, end), query=query, target=target)

    def _whole(self, begin: Tensor, end: Tensor) -> WholeWindows:
        position, window = ranges(torch.maximum(begin, end - self.max_history - 1), end)
        return WholeWindows(item=pick(self.item, position).long(), time=pick(self.group, position), window=window)


def packed(batch: Batch) -> tuple[Packed, Tensor]:
    """The histories of a batch, packed (padded on a GPU), and the number (B,) of each one's sample in the batch."""
    if (batch.mask.device.type != "cpu" or torch.compiler.is_compiling()) and batch.mask.shape[1]:
        order = torch.arange(batch.mask.shape[0], device=batch.mask.device)
        item, age, length, user = batch.history, batch.history_age, batch.mask.sum(1), batch.user
    else:
        order = batch.mask.sum(1).argsort(descending=True, stable=True)
        mask, user = batch.mask[order], batch.user[order]
        item, age, length = batch.history[order][mask], batch.history_age[order][mask], mask.sum(1)
    return Packed(item=item, age=age, length=length, user=user, catalogue=batch.catalogue), order
