"""Field-aware pairs. Juan et al., Field-aware Factorization Machines, RecSys 2016.

B batch, F fields, P = F (F - 1) / 2 pairs, D embedding size; e_i^(j) the vector of field i for its pair with field j
    <e_i^(j), e_j^(i)>  of all pairs i < j
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from recexp.dataset.batch import Batch
from recexp.dataset.schema import Schema
from recexp.layer.embedding import FeatureEmbedding


class FieldAwarePairs(nn.Module):
    """Each field has F - 1 vectors, one for each other field, side by side in a row of its table."""

    def __init__(self, schema: Schema, embedding_dim: int, std: float) -> None:
        super().__init__()
        n_fields = sum(len(side.fields) for side in (schema.user, schema.item, schema.context))
        self.shape = n_fields - 1, embedding_dim
        self.n_pairs = n_fields * (n_fields - 1) // 2
        self.embed = FeatureEmbedding(schema, (n_fields - 1) * embedding_dim, std)

    def forward(self, batch: Batch) -> Tensor:
        """Inner products (B, P) of the pairs (0, 1), (0, 2), ..., (F - 2, F - 1)."""
        return _Pairs.apply(self.embed.fields(batch).unflatten(2, self.shape))


class _Pairs(torch.autograd.Function):
    """x (B, F, F - 1, D), e_i^(j) at [i, j - 1] if j > i and at [i, j] if not -> (B, P).

    Keeps only x, and makes one tensor of its size for the gradient.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.cat([torch.linalg.vecdot(x[:, i, i:], x[:, i + 1 :, i]) for i in range(x.shape[2])], 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        dx, n_fields = torch.empty_like(x), x.shape[1]
        for i, dpairs in enumerate(dout[:, :, None].split(list(range(n_fields - 1, 0, -1)), 1)):
            torch.mul(dpairs, x[:, i + 1 :, i], out=dx[:, i, i:])
            torch.mul(dpairs, x[:, i, i:], out=dx[:, i + 1 :, i])
        return dx
