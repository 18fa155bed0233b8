"""Matrix factorisation for ranking. Rendle et al., UAI 2009.

p_u, q_i vectors of user u and item i, b_i an item's bias
    s_ui = <p_u, q_i> + b_i
Its own loss is trainer.loss=bpr of trainer=next_item: -log sigmoid(s_ui - s_uj), j sampled. An event is a target there
once the user has an earlier one, as for models of sequences. A new user is ranked by the biases.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recexp.config import ModelConfig
from recexp.dataset.batch import Batch
from recexp.dataset.schema import Schema
from recexp.dataset.window import Packed
from recexp.layer.embedding import SideEmbedding
from recexp.model import Inputs, Needs, Output
from recexp.option import above, at_least, size
from recexp.registry import register


@register("bpr_mf")
class BPRMF(nn.Module):
    needs = Needs(Inputs.ids, features=False)

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        embedding_dim: int = size()
        embedding_std: float = above(0)
        embedding_l2: float = at_least(0)

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        self.user = SideEmbedding("user", schema.ids.user, config.embedding_dim, config.embedding_std)  # p
        self.item = SideEmbedding("item", schema.ids.item, config.embedding_dim, config.embedding_std)  # q
        self.bias = SideEmbedding("item", schema.ids.item, 1, config.embedding_std)  # b

    def forward(self, batch: Batch) -> Output:
        target = batch.catalogue.items.ids[batch.target, 0]
        logits = (self.users(batch.user, batch.catalogue.users.ids) * self.item.table(target)).sum(1)
        return Output(logits=logits + self.bias.table(target)[:, 0])

    def query(self, batch: Batch) -> Tensor:
        """The query of each user of a batch: (B, D + 1)."""
        return with_one(self.users(batch.user, batch.catalogue.users.ids))

    def states(self, events: Packed) -> Tensor:
        """The query of each event's user: (T, D + 1)."""
        users = with_one(self.users(events.user, events.catalogue.users.ids))
        if events.item.dim() == 2:
            return users.repeat_interleave(events.item.shape[1], 0)
        return users.repeat_interleave(events.length, 0)

    def item_vectors(self, ids: Tensor | None = None) -> Tensor:
        return torch.cat([self.item.table.rows(ids), self.bias.table.rows(ids)], 1)

    def users(self, user: Tensor, ids: Tensor) -> Tensor:
        """The vectors of rows of users (n,): (n, D)."""
        return self.user.table(ids[user, 0])


def with_one(vectors: Tensor) -> Tensor:
    """Vectors (n, D) and a column of 1, which the biases of items are multiplied by: (n, D + 1)."""
    return torch.cat([vectors, torch.ones_like(vectors[:, :1])], 1)
