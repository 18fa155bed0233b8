"""Batches gathered from the log by index arithmetic: no history is ever stored, no row visited by Python.

B batch, L history length (the longest of the batch), C id columns of a side, V its value columns
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from recexp.config import DatasetConfig, HistoryKind, LabelKind
from recexp.dataset.log import Dataset, Log, in_order

# The columns of the log that batches are made of.
GATHERED = ("label", "user", "item", "timestamp", "before", "offsets", "context_ids", "context_values")


@dataclass(frozen=True)
class Features:
    """The fields of n users, items or events."""

    ids: Tensor  # (n, C) int64, 0 is padding
    values: Tensor  # (n, V) float32

    def at(self, index: Tensor) -> "Features":
        """Those at an index (m,)."""
        return Features(self.ids[index], self.values[index])


@dataclass(frozen=True)
class Catalogue:
    """All users and items, which every batch shares. Row 0 of each table is padding."""

    users: Features  # (U + 1, .)
    items: Features  # (I + 1, .)
    sampling_pool: Tensor  # (N_train,) items of the training events: a random entry is drawn by popularity

    def draw_items(self, like: Tensor) -> Tensor:
        """Random items in the shape of `like`, by their frequency in the training split."""
        return self.sampling_pool[torch.randint(len(self.sampling_pool), like.shape, device=like.device)].long()


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B samples: a user, a target item, the context, and the user's events strictly before.

    Users and items are rows of the catalogue's tables. A table without users and time has only context and label; its
    other tensors have no columns.
    """

    label: Tensor  # (B,) float32, 0 or 1
    user: Tensor  # (B,) rows of users
    target: Tensor  # (B,) rows of items
    context: Features  # (B, .)
    history: Tensor  # (B, L) rows of items, oldest first, padded with 0 on the right; on a GPU up to max_history
    history_label: Tensor  # (B, L) float32
    history_age: Tensor  # (B, L) float32, time since the event, in the unit of the data's timestamps; 0 on padding
    mask: Tensor  # (B, L) bool, False on padding
    catalogue: Catalogue

    def __len__(self) -> int:
        return len(self.label)


@dataclass(frozen=True)
class View:
    """The events that histories may hold: all of them, or those at `events`."""

    events: Tensor | None = None  # (E,) positions in the log
    rank: Tensor | None = None  # (N + 1,) how many of them lie before each position; both int32

    def span(self, first: Tensor, end: Tensor, longest: int) -> tuple[Tensor, Tensor]:
        """From where to where (B,) the last events between first and end (B,), at most `longest`, reach in the view."""
        if self.rank is not None:
            first, end = self.rank[first].long(), self.rank[end].long()
        return torch.maximum(first, end - longest), end

    def window(self, first: Tensor, end: Tensor, longest: int) -> tuple[Tensor, Tensor]:
        """Positions (B, L) of the last events between first and end (B,), at most `longest`, and the mask (B, L)."""
        start, end = self.span(first, end, longest)
        length = end - start
        if length.device.type == "cpu":  # a GPU would be waited for
            longest = int(length.max()) if len(length) else 0
        step = torch.arange(longest, device=length.device)
        mask = step < length[:, None]
        position = torch.where(mask, start[:, None] + step, 0)
        return (position if self.events is None or not len(self.events) else _at(self.events, position).long()), mask


def view(chosen: np.ndarray, device: torch.device) -> View:
    """The view of the events where `chosen` (N,) is true."""
    if chosen.all():
        return View()
    rank = np.zeros(len(chosen) + 1, np.int32)
    np.cumsum(chosen, out=rank[1:])
    return View(torch.from_numpy(np.flatnonzero(chosen).astype(np.int32)).to(device), torch.from_numpy(rank).to(device))


class Batches:
    """All batches of a dataset, on one device, where the whole log lies."""

    def __init__(self, dataset: Dataset, config: DatasetConfig, device: torch.device | str = "cpu") -> None:
        log = dataset.log
        self.device = torch.device(device)
        self.log = {name: self._tensor(array) for name, array in log.arrays().items() if name in GATHERED}
        self.rows = {part: self._tensor(log.rows(part).astype(np.int32)) for part in ("train", "valid", "test")}
        self.max_history = dataset.schema.max_history
        schema = dataset.schema
        self.vocabulary = {name: getattr(schema, name).vocabulary for name in ("user", "item", "context")}
        self.negatives = config.negatives if config.label is LabelKind.implicit else 0
        if self.max_history:
            allowed = log.label > 0 if config.history is HistoryKind.liked else np.ones(len(log.label), bool)
            # What trains sees training events alone, also where a split is not by time.
            ordered = in_order(log)
            whole = view(allowed, self.device)
            train = whole if ordered else view(allowed & (log.part == 0), self.device)
            self.views = {"train": train, "valid": whole, "test": whole}
            pool = self.log["item"][self.rows["train"]]
        else:
            pool = torch.zeros(0, dtype=torch.int32, device=self.device)
        self.catalogue = Catalogue(self._features("user", log), self._features("item", log), pool)
        if self.negatives:
            self.trained = torch.unique(self.catalogue.sampling_pool).long()
            met = self._meetings(slice(None))
            self.met = {"train": met if ordered else self._meetings(self.rows["train"]), "valid": met, "test": met}

    def size(self, part: str) -> int:
        """Samples of a part, sampled negatives included."""
        return len(self.rows[part]) * (1 + self.negatives)

    def steps(self, part: str, batch_size: int) -> int:
        return -(-self.size(part) // batch_size)

    def counts(self, side: str) -> Tensor:
        """How often the training rows hold each row of a side's embedding table, at least 1: (vocabulary,) int64."""
        rows, size = self.rows["train"], self.vocabulary[side]
        counts = torch.zeros(size, dtype=torch.long, device=self.device)
        if side == "context":
            for column in self.log["context_ids"].T:
                counts += torch.bincount(column[rows], minlength=size)
        else:
            ids = (self.catalogue.users if side == "user" else self.catalogue.items).ids
            times = torch.bincount(self.log[side][rows], minlength=len(ids))
            counts.index_add_(0, ids.flatten(), times.repeat_interleave(ids.shape[1]))
        return counts.clamp(min=1)

    def epoch(self, part: str, batch_size: int, seed: int | None = None, histories: bool = True) -> Iterator[Batch]:
        """A part's batches, shuffled where a seed is given; negatives are drawn from it, or are always the same.

        histories: False spares the gathering of what a model does not read, and leaves them empty.
        """
        longest = None if histories else 0
        return (self.gather(each, part, longest) for each in self.samples(part, batch_size, seed, histories))

    def samples(
        self, part: str, batch_size: int, seed: int | None = None, histories: bool = True
    ) -> Iterator["Samples"]:
        """The samples of each batch of `epoch`.

        On a CPU those of a shuffled batch come longest history first: recurrent layers then pass over the padding.
        """
        generator = torch.Generator().manual_seed(0 if seed is None else seed)
        samples = self._with_negatives(part, generator) if self.negatives else Samples(self.rows[part])
        if seed is not None:
            samples = samples.take(torch.randperm(len(samples), generator=generator).to(self.device))
        ordered = seed is not None and histories and self.max_history and self.device.type == "cpu"
        for start in range(0, len(samples), batch_size):
            each = samples.take(slice(start, start + batch_size))
            yield self._longest_first(each, part) if ordered else each

    def training(self) -> Batch:
        """All training rows as one batch, without histories: what is fitted in closed form."""
        return self.gather(Samples(self.rows["train"]), "train", 0)

    def gather(self, samples: "Samples", part: str, longest: int | None = None) -> Batch:
        """The batch of some samples; histories hold what `part` may see, the last `longest` (max_history) events."""
        row, log = samples.row, self.log
        label = _at(log["label"], row).float() if samples.label is None else samples.label
        context = Features(self._rows("context_ids", row).long(), self._rows("context_values", row))
        longest = self.max_history if longest is None else longest
        user = target = torch.zeros((len(row), 0), dtype=torch.long, device=self.device)
        if self.max_history:
            user = _at(log["user"], row).long()
            target = _at(log["item"], row).long() if samples.item is None else samples.item
        return Batch(
            label=label,
            user=user,
            target=target,
            context=context,
            **(self._histories(part, row, user, longest) if longest else self._no_histories(len(row))),
            catalogue=self.catalogue,
        )

    def _histories(self, part: str, row: Tensor, user: Tensor, longest: int) -> dict[str, Tensor]:
        """The columns of the last `longest` events before each row (B,) that a part may see."""
        log, time = self.log, self.log["timestamp"]
        position, mask = self.views[part].window(*self._past(row, user), longest)
        return {
            "history": _at(log["item"], position).long().mul_(mask),
            "history_label": _at(log["label"], position).float().mul_(mask),
            "history_age": (_at(time, row)[:, None] - _at(time, position)).float().mul_(mask),
            "mask": mask,
        }

    def _past(self, row: Tensor, user: Tensor) -> tuple[Tensor, Tensor]:
        """From where to where (B,) in the log the events of users (B,) before rows (B,) reach."""
        return _at(self.log["offsets"], user), _at(self.log["before"], row).long()

    def _longest_first(self, samples: "Samples", part: str) -> "Samples":
        past = self._past(samples.row, _at(self.log["user"], samples.row))
        start, end = self.views[part].span(*past, self.max_history)
        return samples.take((start - end).argsort(stable=True))

    def _no_histories(self, n_rows: int) -> dict[str, Tensor]:
        none = torch.zeros((n_rows, 0), device=self.device)
        return {"history": none.long(), "history_label": none, "history_age": none, "mask": none.bool()}

    def _with_negatives(self, part: str, generator: torch.Generator) -> "Samples":
        """Each event followed by its negatives: training items that are not in the user's past."""
        positive, trained = self.rows[part], self.trained
        row = positive.repeat_interleave(self.negatives)
        user, time = self.log["user"][row], self.log["timestamp"][row]
        item = torch.empty_like(row, dtype=torch.long)
        missing = torch.arange(len(row), device=self.device)
        for _ in range(100):  # a user who has met nearly all items keeps what the last draw gave
            drawn = torch.randint(len(trained), (len(missing),), generator=generator).to(self.device)
            item[missing] = trained[drawn]
            missing = missing[self.met[part].by(user[missing], item[missing], time[missing])]
            if not len(missing):
                break
        n, k = len(positive), self.negatives
        items = torch.cat([self.log["item"][positive].long()[:, None], item.view(n, k)], 1)
        labels = torch.zeros((n, 1 + k), device=self.device)
        labels[:, 0] = 1
        return Samples(positive.repeat_interleave(1 + k), items.flatten(), labels.flatten())

    def _meetings(self, rows: Tensor | slice) -> "FirstMeeting":
        return FirstMeeting(self.log["user"][rows], self.log["item"][rows], self.log["timestamp"][rows])

    def _features(self, side: str, log: Log) -> Features:
        arrays = log.arrays()
        ids = arrays.get(f"{side}_ids", np.zeros((1, 0), np.int32))
        values = arrays.get(f"{side}_values", np.zeros((1, 0), np.float32))
        return Features(self._tensor(ids).long(), self._tensor(values))

    def _rows(self, name: str, row: Tensor) -> Tensor:
        column = self.log.get(name)
        return torch.zeros((len(row), 0), device=self.device) if column is None else column[row]

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)


def _at(column: Tensor, position: Tensor) -> Tensor:
    """column (N,) at position (...): index_select takes a fifth of the time of indexing."""
    return column.index_select(0, position.flatten()).view(position.shape)


@dataclass(frozen=True)
class Samples:
    """Rows of the log to be scored, with another item and label than the log's where they are given."""

    row: Tensor  # (n,) int32
    item: Tensor | None = None  # (n,)
    label: Tensor | None = None  # (n,)

    def __len__(self) -> int:
        return len(self.row)

    def take(self, index: Tensor | slice) -> "Samples":
        chosen = {name: value[index] for name, value in vars(self).items() if value is not None}
        return replace(self, **chosen)


class FirstMeeting:
    """When each user first met each item."""

    def __init__(self, user: Tensor, item: Tensor, time: Tensor) -> None:
        self.n_items = int(item.max()) + 1
        pair = user.long() * self.n_items + item
        # The log is sorted by user and time, so the first of equal pairs in a stable sort is the earliest.
        ordered, order = torch.sort(pair, stable=True)
        first = torch.ones_like(ordered, dtype=torch.bool)
        first[1:] = ordered[1:] != ordered[:-1]
        self.pair, self.time = ordered[first], time[order[first]]

    def by(self, user: Tensor, item: Tensor, time: Tensor) -> Tensor:
        """Whether the user had met the item by that time, itself included: (n,) bool."""
        pair = user.long() * self.n_items + item
        place = torch.searchsorted(self.pair, pair).clamp(max=len(self.pair) - 1)
        return (self.pair[place] == pair) & (self.time[place] <= time)
