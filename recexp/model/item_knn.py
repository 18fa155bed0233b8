"""Item-based nearest neighbours. Sarwar et al., WWW 2001; Deshpande & Karypis, TOIS 2004.

x_i (users) 1 where a user liked item i in training, h shrinkage, N(j) the k items i != j most similar to j
    c_ij = <x_i, x_j> / (|x_i| |x_j| + h)
    logit = sum_j c_ij [i in N(j)]                             over the items j of the user's history
Histories are those of the data: their last dataset.max_history events. Equally similar neighbours: any of them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recexp.config import ModelConfig
from recexp.dataset.batch import Batch
from recexp.dataset.schema import PADDING, Schema
from recexp.layer.basket import basket, co_occurrences, liked_pairs
from recexp.model import Fit, Inputs, Needs, Output, Stage
from recexp.option import at_least
from recexp.registry import register


@register("item_knn")
class ItemKNN(nn.Module):
    needs = Needs(Inputs.history, context=False, features=False)

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        n_neighbours: int = at_least(1)
        shrinkage: float = at_least(0)
        trained = False

    neighbour: Tensor
    similarity: Tensor

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        self.shrinkage = config.shrinkage
        shape = schema.n_items, min(config.n_neighbours, schema.n_items - 1)
        self.register_buffer("neighbour", torch.zeros(shape, dtype=torch.long))  # ids, by item id; 0 is padding
        self.register_buffer("similarity", torch.zeros(shape))

    def forward(self, batch: Batch) -> Output:
        neighbour, similarity = self.neighbours(batch)
        target = batch.catalogue.items.ids[batch.target, 0]
        return Output(logits=torch.where(neighbour == target[:, None], similarity, 0).sum(1))

    def scores(self, batch: Batch) -> Tensor:
        """The logits of all item ids for the users of a batch: (B, n)."""
        neighbour, similarity = self.neighbours(batch)
        scores = similarity.new_zeros(len(batch), len(self.neighbour))
        return scores.scatter_add_(1, neighbour, similarity)

    def neighbours(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The neighbours of all items of each history, and their similarities, 0 where one does not count: (B, L k)."""
        ids, counted = basket(batch)
        return self.neighbour[ids].flatten(1), (self.similarity[ids] * counted[:, :, None]).flatten(1)

    def stages(self) -> list[Stage]:
        return [Fit(name="neighbours", model=self, fit=self.fit)]

    @torch.no_grad()
    def fit(self, training: Batch) -> None:
        """Sets the neighbours, a block of items at a time."""
        n, k = self.neighbour.shape
        item, user = liked_pairs(training)
        length = torch.bincount(item, minlength=n).sqrt()  # |x_i|
        for block, counts in co_occurrences(item, user, n):
            similarity = counts / (length[:, None] * length[block] + self.shrinkage)  # (n, b)
            similarity = similarity.nan_to_num(0)  # an item without users, and shrinkage=0
            similarity[block, block - block[0]] = 0
            value, neighbour = similarity.topk(k, dim=0)
            self.similarity[block] = value.t()
            self.neighbour[block] = torch.where(value > 0, neighbour, PADDING).t()
