"""GraphFM: a factorization machine whose pairs are the edges of a learnt graph. Li et al., arXiv 2105.11866, 2021.

B batch, F fields, n size of a field's vector in a layer, h heads; e_i of a layer, at first the fields
S_ij = sigmoid(MLP(e_i * e_j))                 one hidden layer; the k largest of each i are its neighbours
a_ij = softmax_j(S_ij relu(<w, e_i * e_j>))    over the neighbours of i, for each head
e_i <- LayerNorm(relu([sum_j a_ij W (e_i * e_j)] of all heads + relu(R e_i)))
logit = w0 + sum_i w_i + Linear([mean_i e_i of each layer])
No tensor of F x F x n: sum_j a_ij W (e_i * e_j) = W (e_i * sum_j a_ij e_j), and <w, e_i * e_j> = <w * e_i, e_j>.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recexp.config import ModelConfig, above, at_least, option, require
from recexp.dataset.batch import Batch
from recexp.dataset.schema import Schema
from recexp.layer.chunk import in_chunks
from recexp.layer.embedding import FeatureEmbedding, Linear
from recexp.layer.mlp import WeightInit, linear, matrices
from recexp.model import Inputs, Needs, Output
from recexp.registry import register

SIZES = "a list of one size or more, each 1 or more"


@register("graphfm")
class GraphFM(nn.Module):
    needs = Needs(Inputs.fields, n_fields=2)

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        embedding_dim: int = at_least(1)
        embedding_std: float = above(0)
        linear_std: float = at_least(0)
        embedding_l2: float = at_least(0)
        graph_sizes: list[int] = option(lambda sizes: sizes and min(sizes) >= 1, SIZES)
        n_neighbours: list[int] = option(lambda sizes: sizes and min(sizes) >= 1, SIZES)
        n_heads: int = at_least(1)
        selection_size: int = at_least(1)
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
        self.norm = nn.LayerNorm(n_out)

    def forward(self, e: Tensor) -> Tensor:
        """e (B, F, n_in) -> (B, F, n_out)."""
        weights = self.weights(e)  # (B, h, F, F)
        products = e[:, None] * (weights @ e[:, None])  # (B, h, F, n_in)
        heads = (products @ self.transform).transpose(1, 2).flatten(2)  # (B, F, n_out)
        return self.norm(torch.relu(heads + torch.relu(self.residual(e))))

    def weights(self, e: Tensor) -> Tensor:
        """a (B, h, F, F) of e (B, F, n_in), 0 where j is no neighbour of i."""
        n_fields, n_in = e.shape[1:]
        per_row = len(self.hidden.weight) * n_fields * max(n_fields, n_in)
        selector = self.hidden.weight, self.hidden.bias, self.select.weight, self.select.bias
        edges = torch.sigmoid(in_chunks(selection, per_row, (e,), *selector).float())  # S (B, F, F)
        nearest = edges.topk(min(self.n_neighbours, n_fields), 2).indices
        is_neighbour = torch.zeros_like(edges, dtype=torch.bool).scatter(2, nearest, True)
        scores = edges[:, None] * torch.relu(weighted_products(e, self.attention.weight))  # (B, h, F, F)
        return scores.masked_fill(~is_neighbour[:, None], torch.finfo(scores.dtype).min).softmax(3)


def selection(e: Tensor, weight: Tensor, bias: Tensor, last: Tensor, last_bias: Tensor) -> Tensor:
    """The logits of S: e (B, F, n) -> (B, F, F)."""
    hidden = torch.relu(weighted_products(e, weight) + bias[:, None, None])  # (B, H, F, F)
    return torch.einsum("bhij,h->bij", hidden, last[0]) + last_bias


def weighted_products(e: Tensor, weight: Tensor) -> Tensor:
    """<w_h, e_i * e_j> of each w_h (n,) in weight (H, n): e (B, F, n) -> (B, H, F, F)."""
    return (weight[:, None] * e[:, None]) @ e[:, None].transpose(2, 3)
