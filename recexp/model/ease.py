"""EASE: embarrassingly shallow autoencoders for sparse data. Steck, WWW 2019.

X (users, items) 1 where a user liked an item in training, l regularisation
    P = (X^T X + l I)^-1,  B_ij = -P_ij / P_jj,  B_jj = 0
    s_ui = sum_j x_uj B_ji                                     over the items j of the user's history
B is the solution of min |X - X B|^2 + l |B|^2 with a diagonal of 0: column j is a ridge regression of item j on all
others. It takes 4 n^2 bytes for n items, and the fit twice that and O(n^3) time.
As in `als`, s estimates 0 or 1, and logit = 4 (s - 1/2). Without history s is 0. Histories are those of the data: their
last dataset.max_history events.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recexp.config import ModelConfig
from recexp.dataset.batch import Batch
from recexp.dataset.schema import FIRST, Schema
from recexp.error import ConfigError
from recexp.layer.basket import basket, co_occurrences, liked_pairs
from recexp.model import Fit, Inputs, Needs, Output, Stage
from recexp.option import above, at_least
from recexp.registry import register


@register("ease")
class EASE(nn.Module):
    needs = Needs(Inputs.history, context=False, features=False)

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        regularisation: float = above(0)
        max_items: int = at_least(1)
        trained = False

    weight: Tensor

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        n = schema.n_items
        if n > config.max_items:
            raise ConfigError(
                f"model.max_items = {config.max_items}: the data have {n} items, whose weights take "
                f"{4e-9 * n**2:.1f} GB, and {12e-9 * n**2:.1f} GB while they are fitted; "
                f"set it to {n} if there is room, or choose item_knn."
            )
        self.regularisation = config.regularisation
        self.register_buffer("weight", torch.zeros(n, n))  # B by item id; 0 for padding and unknown

    def forward(self, batch: Batch) -> Output:
        ids, counted = basket(batch)
        target = batch.catalogue.items.ids[batch.target, 0]
        return Output(logits=4 * ((self.weight[ids, target[:, None]] * counted).sum(1) - 0.5))

    def scores(self, batch: Batch) -> Tensor:
        """The logits of all item ids for the users of a batch: (B, n)."""
        ids, counted = basket(batch)
        # One bag of ids per row. Offsets are given since embedding_bag takes no (B, 0) ids of empty histories.
        begin = torch.arange(ids.shape[0], device=ids.device) * ids.shape[1]
        counted = counted.flatten()
        scores = F.embedding_bag(ids.flatten(), self.weight, begin, mode="sum", per_sample_weights=counted)
        return 4 * (scores - 0.5)

    def stages(self) -> list[Stage]:
        return [Fit(name="ease", model=self, fit=self.fit)]

    @torch.no_grad()
    def fit(self, training: Batch) -> None:
        """Sets B."""
        gram = torch.zeros_like(self.weight)
        for block, counts in co_occurrences(*liked_pairs(training), len(gram)):
            gram[:, block] = counts
        known = gram[FIRST:, FIRST:]
        known.diagonal().add_(self.regularisation)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(known))  # P
        self.weight.zero_()
        self.weight[FIRST:, FIRST:] = inverse / -inverse.diagonal()
        self.weight.fill_diagonal_(0)
