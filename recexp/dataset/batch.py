"""Batches gathered from the log by index arithmetic: no loop over rows.

B batch, L history length (the longest of the batch), C id columns of a side, V its value columns
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from recexp.dataset.catalogue import Catalogue as Catalogue
from recexp.dataset.catalogue import Features as Features
from recexp.dataset.catalogue import Lists as Lists
from recexp.dataset.column import Columns, on_device, pick
from recexp.dataset.config import DatasetConfig, LabelKind
from recexp.dataset.encoded import Encoded
from recexp.dataset.history import Histories, Past, no_past
from recexp.dataset.log import SPLITS, Dataset, Log
from recexp.dataset.negatives import Negatives
from recexp.dataset.sample import Samples as Samples
from recexp.dataset.search import Search, events_of_sample
from recexp.error import ConfigError


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B samples: a user, a target item, the context, and the user's events strictly before.

    Users and items are rows of the catalogue's tables. A table without time has only context and label; its
    other tensors have no columns.
    """

    label: Tensor  # (B,) float32, 0 or 1
    tasks: Tensor  # (B, T) float32, several labels: 0, 1, or -1 where one is missing; (B, 0) if there is one label
    user: Tensor  # (B,) rows of users
    target: Tensor  # (B,) rows of items
    context: Features  # (B, .)
    history: Tensor  # (B, L) rows of items, oldest first, padded with 0 on the right, on a GPU to max_history
    history_label: Tensor  # (B, L) float32
    history_age: Tensor  # (B, L) float32, time since the event, in the unit of the data's timestamps; 0 on padding
    mask: Tensor  # (B, L) bool, False on padding
    catalogue: Catalogue
    found: Past | None = None  # earlier events found for the target, where a model searches for them
    timestamp: Tensor | None = None  # (B,) of all training rows as one batch; None for a table

    def __len__(self) -> int:
        return len(self.label)

    @property
    def searched(self) -> Past:
        """The events found, for a model that needs them. Raises ConfigError if there is no search."""
        if self.found is None:
            raise ConfigError("Batches: the model reads what its search finds; give it with search=model.search.")
        return self.found


class Batches:
    """All batches of a dataset, on one device, which holds the whole log."""

    def __init__(
        self,
        dataset: Dataset,
        config: DatasetConfig,
        device: torch.device | str = "cpu",
        known: np.ndarray | None = None,
        search: Search | None = None,
    ) -> None:
        """known: (N,) bool, the events that histories may hold; all by default. Given, no negatives are drawn.

        search: which earlier events a batch holds besides the history, for a model that searches.
        """
        log = dataset.log
        self.device = torch.device(device)
        self.max_history = dataset.schema.max_history  # 0 for a table
        self.n_events = events_of_sample(self.max_history, search)
        self.vocabulary = {side: getattr(dataset.schema, side).vocabulary for side in ("user", "item", "context")}
        self.rows = {split: self._tensor(log.rows(split).astype(np.int32)) for split in SPLITS}
        self.context = self._features(log.context)
        tasks = np.zeros((len(log), 0), np.int8) if log.tasks is None else log.tasks
        self.tasks, self.task_names = self._tensor(tasks), dataset.schema.tasks
        self.negatives = config.negatives if config.label is LabelKind.implicit and known is None else 0
        if isinstance(log, Log):
            self.columns = Columns.of(log, self.device)
            self.label = self.columns.label
            self.histories = Histories(log, self.columns, config, self.max_history, self.device, known, search)
            pool = self.columns.item[self.rows["train"]]
            users, items = (self._features(side).long() for side in (log.users, log.items))
            self.catalogue = Catalogue(users, items, pool)
            if self.negatives:
                self.negative_sampler = Negatives(self.columns, self.rows, self.negatives, log.chronological)
        else:
            self.label = self._tensor(log.label)
            self.table_user = log.user
            empty = torch.zeros((1, 0), device=self.device)
            no_fields = Features(empty.long(), empty)
            self.catalogue = Catalogue(no_fields, no_fields, empty.int().flatten())

    def users_of(self, split: str) -> np.ndarray | None:
        """The users (n,) of a split's rows in a table, None if they are not known."""
        return None if self.table_user is None else self.table_user[self.rows[split].cpu().numpy()]

    def size(self, split: str) -> int:
        """Samples of a split, sampled negatives included."""
        return len(self.rows[split]) * (1 + self.negatives)

    def steps(self, split: str, batch_size: int) -> int:
        return -(-self.size(split) // batch_size)

    def counts(self, side: str) -> Tensor:
        """How often each row of a side's embedding table occurs in training rows, at least 1: (vocabulary,) int64."""
        rows, size = self.rows["train"], self.vocabulary[side]
        counts = torch.zeros(size, dtype=torch.long, device=self.device)
        if side == "context":
            table, times = self.context.at(rows), torch.ones_like(rows, dtype=torch.long)
        else:
            table = self.catalogue.users if side == "user" else self.catalogue.items
            times = torch.bincount(getattr(self.columns, side)[rows], minlength=len(table.ids))
        counts.index_add_(0, table.ids.flatten().long(), times.repeat_interleave(table.ids.shape[1]))
        if table.lists is not None:
            for column in range(table.lists.start.shape[1]):
                ids, row = table.lists.column(column)
                counts.index_add_(0, ids, times[row])
        return counts.clamp(min=1)

    def epoch(self, split: str, batch_size: int, seed: int | None = None, histories: bool = True) -> Iterator[Batch]:
        """A split's batches. A seed shuffles them and draws the negatives; without one, both are fixed.

        histories: False leaves them empty, for a model that does not read them.
        """
        longest = None if histories else 0
        return (self.gather(samples, split, longest) for samples in self.samples(split, batch_size, seed, histories))

    def samples(
        self, split: str, batch_size: int, seed: int | None = None, histories: bool = True, skip: int = 0
    ) -> Iterator[Samples]:
        """The samples of each batch of `epoch`, without the first `skip` batches.

        On a CPU a shuffled batch has its longest histories first, so that recurrent layers skip the padding.
        """
        generator = torch.Generator().manual_seed(0 if seed is None else seed)
        rows = self.rows[split]
        samples = self.negative_sampler.samples(split, rows, generator) if self.negatives else Samples(rows)
        if seed is not None:
            samples = samples.take(torch.randperm(len(samples), generator=generator).to(self.device))
        ordered = seed is not None and histories and self.max_history and self.device.type == "cpu"
        for start in range(skip * batch_size, len(samples), batch_size):
            batch = samples.take(slice(start, start + batch_size))
            yield self.histories.longest_first(split, batch) if ordered else batch

    def training(self) -> Batch:
        """All training rows as one batch, without histories, for models fitted in closed form."""
        batch = self.gather(Samples(self.rows["train"]), "train", 0)
        return replace(batch, timestamp=pick(self.columns.timestamp, self.rows["train"])) if self.max_history else batch

    def gather(self, samples: Samples, split: str, longest: int | None = None) -> Batch:
        """The batch of some samples; histories hold the last `longest` (max_history) events that the split may see."""
        row, device = samples.row, self.device
        longest = self.max_history if longest is None else longest
        user = target = torch.zeros((len(row), 0), dtype=torch.long, device=device)
        past, found = no_past(len(row), device), None
        if self.max_history:
            user = pick(self.columns.user, row).long()
            target = pick(self.columns.item, row).long() if samples.item is None else samples.item
        if longest:
            past = self.histories.gather(split, row, user, longest)
            found = self.histories.found(split, row, user, target)
        return Batch(
            label=pick(self.label, row).float() if samples.label is None else samples.label,
            tasks=self.tasks[row].float(),
            user=user,
            target=target,
            context=self.context.at(row).long(),
            history=past.item,
            history_label=past.label,
            history_age=past.age,
            mask=past.mask,
            catalogue=self.catalogue,
            found=found,
        )

    def _features(self, encoded: Encoded) -> Features:
        lists = None if encoded.lists is None else Lists(*map(self._tensor, vars(encoded.lists).values()))
        return Features(self._tensor(encoded.ids), self._tensor(encoded.values), lists)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return on_device(array, self.device)
