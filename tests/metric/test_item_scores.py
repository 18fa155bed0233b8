"""Scores of many items at once are those of single pairs; tests/model/test_contract.py asks this of every model."""

import torch
from torch import nn

from recexp.dataset.batch import Batch, Batches, Samples
from recexp.dataset.log import Dataset
from recexp.metric.item_scores import ItemScores
from recexp.model import Output


class Product(nn.Module):
    """A user's own model: the product of the mean of past events and the target."""

    def __init__(self, n_items: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(n_items, 8)

    def item_vectors(self) -> torch.Tensor:
        return self.table.weight

    def query(self, batch: Batch) -> torch.Tensor:
        return self.table(batch.catalogue.items.ids[batch.history, 0]).mul(batch.mask[..., None]).sum(1)

    def forward(self, batch: Batch) -> Output:
        return Output(logits=(self.query(batch) * self.table(batch.catalogue.items.ids[batch.target, 0])).sum(1))


def test_a_model_that_gives_vectors_scores_as_pair_by_pair(dataset: Dataset, batches: Batches) -> None:
    model = Product(dataset.schema.n_items)
    rows, items = batches.rows["test"][::7], torch.arange(1, 41)
    at_once = ItemScores(model, batches, "test", items, size=16).of(rows)
    pairs = Samples(rows.repeat_interleave(len(items)), item=items.repeat(len(rows)))
    assert torch.allclose(at_once.flatten(), model(batches.gather(pairs, "test")).logits, atol=1e-5)
