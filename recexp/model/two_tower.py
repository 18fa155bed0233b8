"""Two towers. Yi et al., RecSys 2019; Yang et al., WWW 2020.

u, i all fields of a user and of an item, B batch, C candidates: the items of its rows of label 1, and S uniform ones
    f(u), g(i) = MLP([e_1, ..., e_F]) of each side, at unit length
    s_ui = <f(u), g(i)> / tau
    target = mean over rows of label 1 of -log(e^(s_ui - log q_i) / sum_c e^(s_uc - log q_c))
q_c is how often a batch is expected to hold c: B' p_c + S / V, with B' its rows of label 1 and p_c the fraction of
training events. So popular items are not held down by coming up as negatives more often. With dataset.label=implicit
all events are of label 1 and q is exact; with explicit labels p_c counts the others too. A candidate that is the row's
own item once more is left out. Context is not read: a query is for any occasion.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recexp.config import ModelConfig
from recexp.dataset.batch import Batch, Catalogue, Features
from recexp.dataset.schema import FIRST, Schema, Side
from recexp.layer.activation import Activation
from recexp.layer.embedding import SideEmbedding
from recexp.layer.mlp import MLP
from recexp.model import Inputs, Needs, Output
from recexp.option import above, at_least, fraction, layer_sizes, size
from recexp.registry import register


class Tower(nn.Module):
    """The fields of one side as a vector of length 1."""

    def __init__(self, name: str, side: Side, config: "TwoTower.Config") -> None:
        super().__init__()
        self.embed = SideEmbedding(name, side, config.embedding_dim, config.embedding_std)
        n_in = len(side.fields) * config.embedding_dim
        self.mlp = MLP(n_in, config.hidden_sizes, config.activation, config.dropout, n_out=config.output_size)

    def forward(self, features: Features) -> Tensor:
        """Features of n users or items -> (n, output_size)."""
        return F.normalize(self.mlp(self.embed(features).flatten(1)).float(), dim=1)


@register("two_tower")
class TwoTower(nn.Module):
    needs = Needs(Inputs.ids)

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        embedding_dim: int = size()
        embedding_std: float = above(0)
        embedding_l2: float = at_least(0)
        hidden_sizes: list[int] = layer_sizes()
        output_size: int = size()
        activation: Activation
        dropout: float = fraction()
        temperature: float = above(0)
        uniform_negatives: int = at_least(0)

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        self.temperature, self.n_uniform = config.temperature, config.uniform_negatives
        self.user, self.item = Tower("user", schema.user, config), Tower("item", schema.item, config)

    def forward(self, batch: Batch) -> Output:
        """In parts["users"] and ["items"] the vectors of both sides (B, output_size)."""
        users = self.user(batch.catalogue.users.at(batch.user))
        items = self.item(batch.catalogue.items.at(batch.target))
        return Output((users * items).sum(1) / self.temperature, {"users": users, "items": items})

    def losses(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        catalogue, n_rows, liked = batch.catalogue, len(batch), batch.label == 1
        known = (catalogue.items.ids[:, 0] >= FIRST).float()  # for each row of items: 1 if training has seen it
        uniform = known.multinomial(self.n_uniform, replacement=True) if self.n_uniform else batch.target[:0]
        candidates = torch.cat([batch.target, uniform])  # (B + S,) rows of items; of the batch, those of label 1 count
        vectors = torch.cat([output.parts["items"], self.item(catalogue.items.at(uniform))])
        logits = output.parts["users"] @ vectors.t() / self.temperature  # (B, B + S)
        logits = logits - log_expected_count(catalogue, candidates, liked.sum(), self.n_uniform / known.sum())
        row = torch.arange(n_rows, device=liked.device)  # also the column of a row's own item
        excluded = candidates == batch.target[:, None]
        excluded[:, :n_rows] |= ~liked
        excluded[row, row] = False
        loss = F.cross_entropy(logits.masked_fill(excluded, -torch.inf), row, reduction="none")
        return {"target": (loss * liked).sum() / liked.sum().clamp(min=1)}

    def query(self, batch: Batch) -> Tensor:
        """(B, output_size): the logit is its product with an item's vector."""
        return self.user(batch.catalogue.users.at(batch.user)) / self.temperature

    def vectors_of(self, items: Features) -> Tensor:
        """Vectors (n, output_size) from the fields of n items, so that items unseen in training have different ones."""
        return self.item(items)


def log_expected_count(catalogue: Catalogue, items: Tensor, n_drawn: Tensor, uniform: Tensor) -> Tensor:
    """log q of rows of items (C,): n_drawn are drawn by popularity, and each known item `uniform` times on average."""
    popularity = catalogue.n_events[items].clamp(min=1) / len(catalogue.sampling_pool)
    return (n_drawn * popularity + uniform).log()
