"""GraphFM: a layer of the graph against a loop over edges, and which edges it keeps."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from recexp.dataset.batch import Batch
from recexp.error import ConfigError

Make = Callable[..., nn.Module]
Vectors = Callable[..., list[Tensor]]


def edge(layer: nn.Module, one: Tensor, other: Tensor) -> Tensor:
    """S_ij."""
    hidden = torch.relu(layer.hidden.weight @ (one * other) + layer.hidden.bias)
    return torch.sigmoid(layer.select.weight @ hidden + layer.select.bias)[0]


def aggregated(layer: nn.Module, e: Tensor) -> Tensor:
    """A layer, an edge at a time: e (F, n) -> (F, n_out)."""
    out = []
    for i in range(len(e)):
        edges = torch.stack([edge(layer, e[i], e[j]) for j in range(len(e))])
        neighbours = edges.argsort(descending=True)[: layer.n_neighbours]
        heads = []
        for w, transform in zip(layer.attention.weight, layer.transform, strict=True):
            scores = torch.stack([edges[j] * torch.relu(w @ (e[i] * e[j])) for j in neighbours])
            products = torch.stack([(e[i] * e[j]) @ transform for j in neighbours])
            heads.append(scores.softmax(0) @ products)
        out.append(layer.norm(torch.relu(torch.cat(heads) + torch.relu(layer.residual.weight @ e[i]))))
    return torch.stack(out)


@pytest.mark.parametrize("layer_norm", [True, False])
@torch.no_grad()
def test_logit_is_the_linear_part_and_a_linear_layer_of_the_means(
    layer_norm: bool, make: Make, mixed: Batch, field_vectors: Vectors
) -> None:
    model = make("graphfm", graph_sizes=[6, 4], n_neighbours=[4, 2], layer_norm=layer_norm).eval()
    assert all(isinstance(layer.norm, nn.LayerNorm) is layer_norm for layer in model.layers)
    nn.init.constant_(model.linear.bias, -0.4)
    logits = []
    for row in range(len(mixed)):
        e, means = torch.stack(field_vectors(model.embed, mixed, row)), []
        for layer in model.layers:
            e = aggregated(layer, e)
            means.append(e.mean(0))
        linear = model.linear.bias + sum(field_vectors(model.linear.weights, mixed, row))
        logits.append(linear + model.output.weight @ torch.cat(means))
    torch.testing.assert_close(model(mixed).logits, torch.cat(logits))


@pytest.mark.parametrize(("n_neighbours", "n_kept"), [(1, 1), (3, 3), (5, 5), (100, 5)])
def test_each_field_keeps_so_many_edges(n_neighbours: int, n_kept: int, make: Make) -> None:
    layer = make("graphfm", graph_sizes=[8], n_neighbours=[n_neighbours]).layers[0]
    weights = layer.weights(torch.randn(4, 5, 16))
    assert (weights > 0).sum(3).eq(n_kept).all()
    torch.testing.assert_close(weights.sum(3), torch.ones(4, 2, 5))


def test_field_that_is_dropped_has_no_gradient(make: Make) -> None:
    layer = make("graphfm", graph_sizes=[8], n_neighbours=[2]).layers[0]
    e = torch.randn(1, 5, 16, requires_grad=True)
    kept = layer.weights(e)[0].sum(0) > 0  # (F, F)
    for i in range(5):
        (gradient,) = torch.autograd.grad(layer(e)[0, i].square().sum(), e)
        others = torch.arange(5) != i
        assert torch.equal(gradient[0].any(1)[others], kept[i][others])


@torch.no_grad()
def test_permuted_fields_give_permuted_fields(make: Make) -> None:
    layer, order = make("graphfm", n_neighbours=[3, 3]).layers[0], torch.tensor([3, 0, 4, 1, 2])
    e = torch.randn(3, 5, 16)
    torch.testing.assert_close(layer(e[:, order]), layer(e)[:, order])


def test_mistaken_options_are_told_in_one_line(make: Make) -> None:
    with pytest.raises(ConfigError, match=r"^model\.n_neighbours = \[3\]: must be as many as graph_sizes \[32, 32\]"):
        make("graphfm", n_neighbours=[3])
    with pytest.raises(ConfigError, match=r"^model\.graph_sizes = \[32, 31\]: must be multiples of n_heads = 2"):
        make("graphfm", graph_sizes=[32, 31])
