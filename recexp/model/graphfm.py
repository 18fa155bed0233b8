"""GraphFM: a factorization machine whose pairs are the edges of a learnt graph. Li et al., arXiv 2105.11866, 2021.

B batch, F fields, T = F (F + 1) / 2 edges, h heads; e_i the vector of a field, n its size, which layers change
S_ij = sigmoid(MLP(e_i * e_j))                 one hidden layer; the k largest of each i are its neighbours
a_ij = softmax_j(S_ij relu(<w, e_i * e_j>))    over the neighbours of i, for each head
e_i <- LayerNorm(relu([sum_j a_ij W (e_i * e_j)] of all heads + relu(R e_i)))
logit = w0 + sum_i w_i + Linear([mean_i e_i of each layer])
Products are not aggregated one by one: sum_j a_ij W (e_i * e_j) = W (e_i * sum_j a_ij e_j).
LayerNorm is left out unless layer_norm is true.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from recexp.config import ModelConfig
from recexp.dataset.batch import Batch
from recexp.dataset.schema import Schema
from recexp.kernel.linear import product
from recexp.layer.chunk import in_chunks
from recexp.layer.embedding import FeatureEmbedding, Linear
from recexp.layer.mlp import WeightInit, linear, matrices
from recexp.model import Inputs, Needs, Output
from recexp.option import above, at_least, option, require, size
from recexp.registry import register

SIZES = "a list of one size or more, each 1 or more"


@register("graphfm")
class GraphFM(nn.Module):
    needs = Needs(Inputs.fields, n_fields=2)

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        embedding_dim: int = size()
        embedding_std: float = above(0)
        linear_std: float = at_least(0)
        embedding_l2: float = at_least(0)
        graph_sizes: list[int] = option(lambda sizes: sizes and min(sizes) >= 1, SIZES)
        n_neighbours: list[int] = option(lambda sizes: sizes and min(sizes) >= 1, SIZES)
        n_heads: int = size()
        selection_size: int = size()
        layer_norm: bool
        weight_init: WeightInit

        def __post_init__(self) -> None:
            super().__post_init__()
            sizes, neighbours = self.graph_sizes, self.n_neighbours
            require(len(neighbours) == len(sizes), "model.n_neighbours", neighbours, f"as many as graph_sizes {sizes}")
            are_whole = all(size % self.n_heads == 0 for size in sizes)
            require(are_whole, "model.graph_sizes", sizes, f"multiples of n_heads = {self.n_heads}")

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        self.linear = Linear(schema, config.linear_std)
        self.embed = FeatureEmbedding(schema, config.embedding_dim, config.embedding_std)
        inputs = [config.embedding_dim, *config.graph_sizes[:-1]]
        shapes = zip(inputs, config.graph_sizes, config.n_neighbours, strict=True)
        self.layers = nn.ModuleList(Layer(*shape, config) for shape in shapes)
        self.output = linear(sum(config.graph_sizes), 1, bias=False, init=config.weight_init)

    def forward(self, batch: Batch) -> Output:
        e = self.embed.fields(batch)  # (B, F, D)
        means = []
        for layer in self.layers:
            e = layer(e)  # (B, F, n)
            means.append(e.mean(1))
        return Output(logits=self.linear(batch) + self.output(torch.cat(means, 1))[:, 0])  # (B,)


class Layer(nn.Module):
    """From the vectors of the fields to those of the next layer."""

    def __init__(self, n_in: int, n_out: int, n_neighbours: int, config: GraphFM.Config) -> None:
        super().__init__()
        n_heads, init = config.n_heads, config.weight_init
        self.n_neighbours = n_neighbours
        self.hidden = linear(n_in, config.selection_size, init=init)
        self.select = linear(config.selection_size, 1, init=init)
        self.attention = linear(n_in, n_heads, bias=False, init=init)  # w
        self.transform = matrices(n_heads, n_in, n_out // n_heads, init)  # W
        self.residual = linear(n_in, n_out, bias=False, init=init)  # R
        self.norm = nn.LayerNorm(n_out) if config.layer_norm else nn.Identity()

    def forward(self, e: Tensor) -> Tensor:
        """e (B, F, n_in) -> (B, F, n_out)."""
        weights = self.weights(e)  # (B, h, F, F)
        sums = torch.bmm(weights.flatten(1, 2).to(e.dtype), e).view(*weights.shape[:3], -1)  # (B, h, F, n_in)
        heads = torch.einsum("bhfn,hnm->bfhm", e[:, None] * sums, self.transform).flatten(2)  # (B, F, n_out)
        return self.norm(torch.relu(heads + torch.relu(self.residual(e))))

    def weights(self, e: Tensor) -> Tensor:
        """a (B, h, F, F) of e (B, F, n_in), 0 where j is no neighbour of i."""
        n_fields, n_in = e.shape[1:]
        first, second = torch.triu_indices(n_fields, n_fields, device=e.device)  # each edge once: they are symmetric
        weights = self.hidden.weight, self.hidden.bias, self.select.weight, self.select.bias, self.attention.weight
        scored = in_chunks(score_edges, len(first) * n_in, (e,), first, second, *weights)  # (B, 1 + h, T)
        edge = torch.empty(n_fields, n_fields, dtype=torch.long, device=e.device)
        edge[first, second] = edge[second, first] = torch.arange(len(first), device=e.device)
        scored = scored.index_select(2, edge.flatten()).unflatten(2, (n_fields, n_fields))  # (B, 1 + h, F, F)
        selection, scores = scored[:, 0], scored[:, 1:]
        nearest = selection.topk(min(self.n_neighbours, n_fields), 2).indices
        is_neighbour = torch.zeros_like(selection, dtype=torch.bool).scatter(2, nearest, True)
        return scores.masked_fill(~is_neighbour[:, None], torch.finfo(scores.dtype).min).softmax(3)


def score_edges(
    e: Tensor, first: Tensor, second: Tensor, hidden: Tensor, bias: Tensor, select: Tensor, shift: Tensor, w: Tensor
) -> Tensor:
    """S_ij and, for each head, S_ij relu(<w, e_i * e_j>) of T edges: e (B, F, n) -> (B, 1 + h, T), in fp32."""
    edges = e.index_select(1, first) * e.index_select(1, second)  # (B, T, n)
    x = torch.relu(product(edges, torch.cat([hidden, w]), functional.pad(bias, (0, len(w)))))  # (B, T, H + h)
    selection = torch.sigmoid(product(x[:, :, : len(hidden)], select, shift).float())  # (B, T, 1)
    return torch.cat([selection, selection * x[:, :, len(hidden) :]], 2).transpose(1, 2)
