"""FiBiNET against a loop over pairs, and what its gate and its matrices leave."""

from collections.abc import Callable
from itertools import combinations

import pytest
import torch
from torch import Tensor, nn

from recexp.dataset.batch import Batch
from recexp.kernel.inner_product import inner_products
from recexp.layer.mlp import WeightInit
from recexp.model.fibinet import Gate

Make = Callable[..., nn.Module]
Vectors = Callable[..., list[Tensor]]


@torch.no_grad()
@pytest.mark.parametrize("gate", [True, False])
def test_logit_is_the_linear_part_and_an_mlp_of_all_products(
    gate: bool, make: Make, mixed: Batch, field_vectors: Vectors
) -> None:
    model = make("fibinet", gate=gate, hidden_sizes=[8]).eval()
    nn.init.constant_(model.linear.bias, -0.4)
    first, last = model.mlp.linears
    logits = []
    for row in range(len(mixed)):
        e = field_vectors(model.embed, mixed, row)
        streams = [e]
        if gate:
            means = torch.stack([vector.mean() for vector in e])
            weights = torch.relu(model.gate.excite.weight @ torch.relu(model.gate.squeeze.weight @ means))
            streams.append([weight * vector for weight, vector in zip(weights, e, strict=True)])
        matrices = [bilinear.weight[0] for bilinear in model.bilinears]
        pairs = [
            (one @ matrix) * other
            for matrix, stream in zip(matrices, streams, strict=True)
            for one, other in combinations(stream, 2)
        ]
        hidden = torch.relu(first.weight @ torch.cat(pairs) + first.bias)
        linear = model.linear.bias + sum(field_vectors(model.linear.weights, mixed, row))
        logits.append(linear + last.weight @ hidden + last.bias)
    torch.testing.assert_close(model(mixed).logits, torch.cat(logits))


@torch.no_grad()
def test_gate_of_weights_1_and_one_hidden_unit_of_1_leaves_the_fields() -> None:
    gate = Gate(4, 4, WeightInit.xavier_normal)
    nn.init.ones_(gate.squeeze.weight)
    nn.init.ones_(gate.excite.weight)
    e = torch.rand(3, 4, 5)
    e = e / e.mean(2).sum(1)[:, None, None]  # the one hidden unit is then 1
    torch.testing.assert_close(gate(e), torch.ones(3, 4))


@torch.no_grad()
def test_matrices_of_the_identity_sum_to_inner_products(make: Make) -> None:
    bilinear = make("fibinet").bilinears[0]
    dim = bilinear.weight.shape[-1]
    bilinear.weight.copy_(torch.eye(dim).expand_as(bilinear.weight))
    e = torch.randn(3, 4, dim)
    torch.testing.assert_close(bilinear(e).sum(2), inner_products(e))


@pytest.mark.parametrize(("reduction", "n_hidden"), [(1, 7), (2, 3), (3, 2), (100, 1)])
def test_gate_has_a_hidden_unit_for_each_group_of_fields(reduction: int, n_hidden: int) -> None:
    assert Gate(7, reduction, WeightInit.xavier_normal).squeeze.out_features == n_hidden
