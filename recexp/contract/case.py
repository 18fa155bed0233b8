"""What is checked: a configuration's model on some users of its data, so that a check takes seconds."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recexp.config import Config
from recexp.dataset.batch import Batch, Batches, Samples
from recexp.dataset.log import Dataset
from recexp.dataset.prepare import load
from recexp.experiment import resolve_device
from recexp.model import create, search_of

N_EVENTS = 20_000  # about how many events of the log


class Skip(Exception):
    """Says why a check does not apply to this model or these data."""


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
    dataset = load(config.dataset).sample(n_events)

    def make(offset: int = 0) -> nn.Module:
        torch.manual_seed(config.seed + offset)
        return create(config.model, dataset.schema).to(device)

    search = search_of(make())  # a model that refuses the dataset says so here
    batches = Batches(dataset, config.dataset, device, search=search)
    rows = Samples(batches.rows["train"])
    length = batches.gather(rows, "train").mask.sum(1)
    lengths = {0, 1, 2, int(length.float().median()), int(length.max())}
    mixed = torch.cat([torch.nonzero(length == n)[:2, 0] for n in sorted(lengths)])
    return Case(config, dataset, batches, batches.gather(rows.take(mixed), "train"), make)
