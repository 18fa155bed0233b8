"""Pairs of fields: their sums in linear time, and one by one.

B batch, F fields, P = F (F - 1) / 2 pairs, D embedding size; S = sum_i e_i
Rendle, ICDM 2010, lemma 3.1   sum_{i<j} <e_i, e_j> = 1/2 sum_d (S_d^2 - sum_i e_id^2)
He & Chua, NFM, SIGIR 2017, eq. 4   the same before the sum over d
"""

import torch
from torch import Tensor


def bi_interaction(e: Tensor) -> Tensor:
    """Elementwise products of all pairs, summed: e (B, F, D) -> (B, D)."""
    return pairs(moments(e))


def moments(e: Tensor) -> Tensor:
    """S and sum_i e_i^2 side by side: e (B, F, D) -> (B, 2 D). Those of disjoint sets of fields add up.

    In fp32 at least: the difference of two large sums has no correct digit left in bfloat16.
    """
    e = e.to(torch.promote_types(e.dtype, torch.float32))
    return torch.cat([e.sum(1), e.square().sum(1)], 1)


def pairs(moments: Tensor) -> Tensor:
    """Elementwise products of all pairs, summed, of the fields' moments (B, 2 D) -> (B, D)."""
    total, squares = moments.chunk(2, 1)
    return (total.square() - squares) / 2


def pair_products(e: Tensor) -> Tensor:
    """Elementwise products of the pairs (0, 1), (0, 2), ..., (F - 2, F - 1): e (B, F, D) -> (B, P, D)."""
    first, second = torch.triu_indices(e.shape[1], e.shape[1], offset=1, device=e.device)
    return e.index_select(1, first) * e.index_select(1, second)
