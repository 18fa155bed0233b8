"""What is checked: a configuration's model on the first users of its data, so that a check takes seconds."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recexp.config import Config
from recexp.dataset.batch import Batch, Batches, Samples
from recexp.dataset.log import Dataset
from recexp.dataset.prepare import load
from recexp.experiment import resolve_device
from recexp.model import create

N_EVENTS = 20_000  # of the log, about


class Skip(Exception):
    """A check that does not apply to this model or these data, and why."""


@dataclass(frozen=True)
class Case:
    """What is checked. `make()` builds a new model, each time with the same initial weights; `make(1)` with others."""

    config: Config
    dataset: Dataset
    batches: Batches
    mixed: Batch  # training rows with histories of every length: none, one, two, some, the longest
    make: Callable[..., nn.Module]

    def rows(self, rows: Tensor) -> Batch:
        """The batch of some training rows, counted from 0 in the order of the log."""
        return self.batches.gather(Samples(self.batches.rows["train"][rows]), "train")


def build(config: Config, n_events: int = N_EVENTS) -> Case:
    """The case of a configuration. Raises ConfigError or DataError."""
    device = resolve_device(config.device)
    dataset = first_users(load(config.dataset), n_events)

    def make(offset: int = 0) -> nn.Module:
        torch.manual_seed(config.seed + offset)
        return create(config.model, dataset.schema).to(device)

    make()  # a model that refuses the dataset says so here
    batches = Batches(dataset, config.dataset, device)
    rows = Samples(batches.rows["train"])
    length = batches.gather(rows, "train").mask.sum(1)
    lengths = {0, 1, 2, int(length.float().median()), int(length.max())}
    mixed = torch.cat([torch.nonzero(length == n)[:2, 0] for n in sorted(lengths)])
    return Case(config, dataset, batches, batches.gather(rows.take(mixed), "train"), make)


def first_users(dataset: Dataset, n_events: int) -> Dataset:
    """The data of the first users who together have at least n_events; of a table, the first rows."""
    log = dataset.log
    n_rows = len(log.label)
    n = min(n_events, n_rows)
    offsets = log.offsets
    if offsets is not None:
        n = int(offsets[min(int(np.searchsorted(offsets, n)), len(offsets) - 1)])
        offsets = np.minimum(offsets, n)
    sides = ("user_ids", "user_values", "item_ids", "item_values", "raw_user", "raw_item", "offsets")
    cut: dict[str, Any] = {name: array[:n] for name, array in log.arrays().items() if name not in sides}
    return replace(dataset, log=replace(log, **cut, offsets=offsets))
