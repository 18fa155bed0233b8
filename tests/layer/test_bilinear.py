from itertools import combinations

import pytest
import torch

from recexp.layer.bilinear import Bilinear, Kind
from recexp.layer.mlp import WeightInit


@torch.no_grad()
@pytest.mark.parametrize("kind", Kind)
def test_products_are_those_of_a_loop_over_pairs(kind: Kind) -> None:
    e = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    bilinear = Bilinear(kind, 4, 5, WeightInit.xavier_normal)
    wanted = []
    for pair, (i, j) in enumerate(combinations(range(4), 2)):
        weight = bilinear.weight[{Kind.all: 0, Kind.each: i, Kind.interaction: pair}[kind]]
        wanted.append((e[:, i] @ weight) * e[:, j])
    torch.testing.assert_close(bilinear(e), torch.stack(wanted, 1))


@torch.no_grad()
@pytest.mark.parametrize("kind", Kind)
def test_matrices_of_the_identity_leave_the_products_of_pairs(kind: Kind) -> None:
    e = torch.randn(3, 4, 5)
    bilinear = Bilinear(kind, 4, 5, WeightInit.xavier_normal)
    bilinear.weight.copy_(torch.eye(5))
    torch.testing.assert_close(bilinear(e), torch.stack([e[:, i] * e[:, j] for i, j in combinations(range(4), 2)], 1))


@torch.no_grad()
@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("dim", [5, 16])
@pytest.mark.parametrize("scaled", [True, False])
def test_times_is_the_product_of_a_linear(scaled: bool, dim: int, kind: Kind) -> None:
    e, weight, scale = torch.randn(3, 4, dim), torch.randn(16, 6 * dim), torch.rand(3, 4) if scaled else None
    bilinear = Bilinear(kind, 4, dim, WeightInit.xavier_normal)
    v = e if scale is None else e * scale[:, :, None]
    wanted = bilinear(v).flatten(1) @ weight.t()
    torch.testing.assert_close(bilinear.times(weight, e, scale), wanted, rtol=1e-4, atol=1e-5)
