"""Search-based Interest Model. Pi et al., CIKM 2020.

B batch, L history length, M events searched, K events found, E item size, Z size of a found event, H heads, P profile
sec. 3.2    R = the last K events s whose value of a field is the target's   search=hard, among all earlier events
            R = the K events s of the highest r_s, r_s = <W_e e_s, W_t t>    search=soft, among the last M
            auxiliary loss: MLP([mean_s r_s e_s, t]) predicts the label      over the M events; hard: over R, r_s = 1
sec. 3.3    z_s = [e_s, p_k],  k = bucket(time(t) - time(s))                 s in R
            u_i = sum_s a_is z_s,  a_i = softmax_s <z_s, W_i t> / sqrt(Z)    attention=multi_head, u = [u_1, ..., u_H]
            u = sum_s a_s z_s,  a = softmax_s a([t, p_0], z_s) / sqrt(Z)     attention=din
            logit = MLP([u, v, t, profile])                                  v of the history (L), as in DIN
W_i is the product of the paper's two matrices of a head, of which no more is ever needed. Soft search takes the mean,
not the sum, so that its loss is the same for histories of any length.
"""

from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor, nn

from recexp.config import ModelConfig
from recexp.dataset.batch import Batch
from recexp.dataset.history import Past
from recexp.dataset.schema import Field, Schema
from recexp.dataset.search import Search
from recexp.error import ConfigError, choices
from recexp.layer.activation import Activation
from recexp.layer.attention import Attention, Normalise, as_unique_events, attention, weigh
from recexp.layer.embedding import SequenceEmbedding
from recexp.layer.lookup import Events, weighted_sum
from recexp.layer.loss import bce
from recexp.layer.mlp import MLP, linear
from recexp.layer.nearest import SoftSearch
from recexp.layer.position import AGE_BUCKETS, AgePosition
from recexp.model import Inputs, Needs, Output
from recexp.option import Labels, above, at_least, between, fraction, layer_sizes, needs_labels, read_if, size
from recexp.registry import register


class SearchKind(Enum):
    hard = "the last events that share a value of a field with the target"
    soft = "the nearest events by a trained inner product"


class Unit(Enum):
    multi_head = "several heads, each of its own inner product with the target (paper)"
    din = "DIN's MLP of the target and an event"


@register("sim")
class SIM(nn.Module):
    needs = Needs(Inputs.history)

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        embedding_dim: int = size()
        embedding_std: float = above(0)
        embedding_l2: float = at_least(0)
        history_labels: bool = needs_labels(Labels.varied, when=True)
        search: SearchKind
        search_field: str | None
        n_found: int = between(1, 2**16, "each row of a batch has as many events")
        long_length: int = read_if("model.search", "soft", allowed=between(1, 2**20, "a row has as many events"))
        search_size: int = read_if("model.search", "soft", allowed=size())
        attention: Unit
        n_heads: int = between(1, 256, "each takes its own memory and time")
        attention_hidden_sizes: list[int] = layer_sizes()
        hidden_sizes: list[int] = layer_sizes()
        auxiliary_hidden_sizes: list[int] = read_if("model.loss_weights.auxiliary", allowed=layer_sizes())
        activation: Activation
        dropout: float = fraction()

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.search is SearchKind.soft and not self.loss_weights.get("auxiliary"):
                raise ConfigError("model.search = soft: learns by its loss; set model.loss_weights.auxiliary above 0.")

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        soft = config.search is SearchKind.soft
        field = None if soft else search_field(schema, config.search_field)
        self.search = Search(field, config.long_length if soft else config.n_found)
        self.embed = SequenceEmbedding(schema, config.embedding_dim, config.history_labels, config.embedding_std)
        item_dim, sizes = self.embed.item_dim, config.attention_hidden_sizes
        self.age = AgePosition(AGE_BUCKETS, config.embedding_dim, config.embedding_std)
        found_dim = item_dim + config.embedding_dim
        self.soft = SoftSearch(item_dim, config.search_size, config.n_found) if soft else None
        multi_head = config.attention is Unit.multi_head
        n_heads = config.n_heads if multi_head else 1
        self.heads = linear(item_dim, n_heads * found_dim, bias=False) if multi_head else None
        self.unit = None if multi_head else attention(Attention.interaction, found_dim, sizes, config.activation)
        self.short = attention(Attention.interaction, item_dim, sizes, config.activation)
        n_in = n_heads * found_dim + 2 * item_dim + self.embed.profile_dim
        self.mlp = MLP(n_in, config.hidden_sizes, config.activation, config.dropout, n_out=1)
        self.auxiliary = None
        if config.loss_weights.get("auxiliary"):
            self.auxiliary = MLP(2 * item_dim, config.auxiliary_hidden_sizes, config.activation, n_out=1)

    def forward(self, batch: Batch) -> Output:
        profile, (target, events) = self.embed.profile(batch), self.embed.events(batch)  # (B, P), (B, E)
        searched = batch.searched  # (B, M), with hard search R itself
        candidates = self.embed.item_events(batch.catalogue, searched.item, searched.label, searched.mask)
        found, kept, relevance, parts = searched, candidates, searched.mask.float(), {}
        if self.soft is not None:
            relevance, chosen = self.soft(target, candidates, searched.mask)  # (B, M), (B, K)
            found, kept = searched.at(chosen), candidates.at(chosen)
        long, weights = self.attend(target, kept, found)  # (B, H Z), (B, H, K)
        short = weigh(self.short(target, events, batch.mask), batch.mask, Normalise.softmax, target.shape[1] ** -0.5)
        interest = weighted_sum(short, events)  # (B, E)
        if self.auxiliary is not None:
            mean = weighted_mean(relevance, candidates, searched.mask)
            parts["search"] = self.auxiliary(torch.cat([mean, target], 1))[:, 0]  # (B,)
        logits = self.mlp(torch.cat([long, interest, target, profile], 1))[:, 0]  # (B,)
        return Output(logits, {"attention": weights, **parts})

    def attend(self, target: Tensor, events: Events, found: Past) -> tuple[Tensor, Tensor]:
        """u (B, H Z) of the events found (B, K), and how much each weighs (B, H, K)."""
        z = torch.cat([events.expanded(), self.age(found.age)], 2)  # (B, K, Z)
        scale = z.shape[2] ** -0.5
        if self.unit is not None:
            now = torch.cat([target, self.age(torch.zeros_like(target[:, 0]))], 1)  # (B, Z)
            scores = self.unit(now, as_unique_events(z), found.mask)[:, None]  # (B, 1, K)
        else:
            assert self.heads is not None
            scores = self.heads(target).unflatten(1, (-1, z.shape[2])) @ z.transpose(1, 2)  # (B, H, K)
        mask = found.mask[:, None].expand_as(scores)
        weights = weigh(scores.flatten(0, 1), mask.flatten(0, 1), Normalise.softmax, scale).view_as(scores)
        return (weights @ z.float()).flatten(1), weights

    def losses(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        search = {} if self.auxiliary is None else {"auxiliary": bce(output.parts["search"], batch.label)}
        return {"target": bce(output.logits, batch.label), **search}


def weighted_mean(relevance: Tensor, events: Events, mask: Tensor) -> Tensor:
    """mean_s r_s e_s over the events where the mask (B, M) is true: (B, E)."""
    weights = relevance.float().masked_fill(~mask, 0) / mask.sum(1, keepdim=True).clamp(min=1)
    return weighted_sum(weights, events)


def search_field(schema: Schema, name: str | None) -> Field:
    """The item's field of a name; without a name, the first after the id that can be searched by."""
    fields = [field for field in schema.item.fields if not (field.numeric or field.wide or field.composed)]
    named = {field.name: field for field in fields}
    if name is None:
        return fields[1] if len(fields) > 1 else fields[0]
    if name not in named:
        raise ConfigError(f"model.search_field = {name}: no field of items to search by. {choices(name, named)}")
    return named[name]
