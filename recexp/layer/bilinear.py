"""Bilinear products of all pairs of fields. Huang et al., FiBiNET, RecSys 2019.

B batch, F fields, P = F (F - 1) / 2 pairs, D embedding size
eq. 5   p_ij = (e_i W) * e_j          kind=all
eq. 6   p_ij = (e_i W_i) * e_j        kind=each
eq. 7   p_ij = (e_i W_ij) * e_j       kind=interaction
"""

from enum import Enum

import torch
from torch import Tensor, nn

from recexp.kernel.bilinear import linear_of_products
from recexp.kernel.inner_product import pairs
from recexp.kernel.linear import product
from recexp.layer.mlp import WeightInit, matrices


class Kind(Enum):
    all = "one matrix"
    each = "a matrix for each field"
    interaction = "a matrix for each pair of fields"


class Bilinear(nn.Module):
    """p of the pairs (0, 1), (0, 2), ..., (F - 2, F - 1)."""

    def __init__(self, kind: Kind, n_fields: int, dim: int, init: WeightInit) -> None:
        super().__init__()
        self.kind = kind
        n_pairs = n_fields * (n_fields - 1) // 2
        n = {Kind.all: 1, Kind.each: n_fields, Kind.interaction: n_pairs}[kind]
        self.weight = matrices(n, dim, dim, init)

    def forward(self, e: Tensor) -> Tensor:
        """e (B, F, D) -> (B, P, D)."""
        first, second = pairs(e)
        if self.kind is Kind.all:
            left = (e @ self.weight[0]).index_select(1, first)
        elif self.kind is Kind.each:
            left = multiply_each(e, self.weight).index_select(1, first)
        else:
            left = multiply_each(e.index_select(1, first), self.weight)
        return left * e.index_select(1, second)

    def times(self, weight: Tensor, e: Tensor, scale: Tensor | None = None) -> Tensor:
        """p W^T for the weight (H, P D) of a Linear, p of a_i e_i: e (B, F, D), scale a (B, F) -> (B, H)."""

        def by_torch() -> Tensor:
            return product(self(e if scale is None else scale[:, :, None] * e).flatten(1), weight)

        by_field, by_pair = self.kind is Kind.each, self.kind is Kind.interaction
        return linear_of_products(e, scale, self.weight, weight, by_field, by_pair, by_torch)


def multiply_each(e: Tensor, weight: Tensor) -> Tensor:
    """e_n W_n for each n: e (B, n, D), weight (n, D, D) -> (B, n, D)."""
    return torch.bmm(e.transpose(0, 1), weight).transpose(0, 1)
