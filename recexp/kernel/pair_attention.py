"""Attention over the products of all pairs of fields. Xiao et al., AFM, IJCAI 2017.

B batch, F fields, P = F (F - 1) / 2 pairs, D embedding size, A attention size
eq. 2   p_ij = e_i * e_j,  i < j
eq. 5   a_ij = softmax_ij(h^T relu(W p_ij + b))
eq. 6   sum_ij a_ij p_ij
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from recexp.kernel.device import on_cpu
from recexp.kernel.dropout import dropped
from recexp.kernel.inner_product import pairs
from recexp.kernel.library import Library, library


def reference(e: Tensor, weight: Tensor, bias: Tensor, score: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """`attend_pairs` by torch."""
    first, second = pairs(e)
    products = e.index_select(1, first) * e.index_select(1, second)  # (B, P, D)
    scores = F.linear(torch.relu(F.linear(products, weight, bias)), score[None])[:, :, 0]  # (B, P)
    attention = scores.to(torch.promote_types(scores.dtype, torch.float32)).softmax(1)
    return (F.dropout(attention, p)[:, :, None] * products).sum(1), attention


def attend_pairs(e: Tensor, weight: Tensor, bias: Tensor, score: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Eq. 6 (B, D) and the weights a (B, P), which dropout of probability p does not touch; no gradient goes to these.

    e (B, F, D), weight W (A, D), bias b (A,), score h (A,).
    """
    kernels = library(e, len(weight)) if on_cpu(e) and e.shape[1] > 1 else None
    if kernels is None:
        pooled, attention = reference(e, weight, bias, score, p)
        return pooled, attention.detach()
    return _PairAttention.apply(kernels, p, e, weight, bias, score)


class _PairAttention(torch.autograd.Function):
    """`attend_pairs` by a kernel, which forms the products again in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, kernels: Library, p: float, e: Tensor, weight: Tensor, bias: Tensor, score: Tensor
    ) -> tuple[Tensor, Tensor]:
        (n, n_fields, dim), threshold, seed = e.shape, *dropped(p)
        sizes = {"n": n, "n_fields": n_fields, "dim": dim, "size": len(weight)}
        ctx.kernels, ctx.options = kernels, {**sizes, "dropped": threshold, "seed": seed}
        pooled, attention = e.new_empty(n, dim), e.new_empty(n, n_fields * (n_fields - 1) // 2)
        given = {"e": e, "weight": weight.t(), "bias": bias, "score": score}
        kernels["pair_attention"](**given, out=pooled, attention=attention, **ctx.options)
        ctx.save_for_backward(e, weight, bias, score, attention)
        ctx.mark_non_differentiable(attention)
        return pooled, attention

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        e, weight, bias, score, attention = ctx.saved_tensors
        de, dbias, dscore = e.new_empty(e.shape), bias.new_empty(bias.shape), score.new_empty(score.shape)
        dweight = weight.new_empty(weight.shape[::-1])  # (D, A)
        given = {"e": e, "weight": weight.t(), "bias": bias, "score": score, "attention": attention, "dout": dout}
        padded = F.pad(weight, (0, -weight.shape[1] % ctx.kernels.lanes))
        grads = {"de": de, "dweight": dweight, "dbias": dbias, "dscore": dscore}
        ctx.kernels["pair_attention_back"](**given, turned=padded, **grads, **ctx.options)
        return None, None, de, dweight.t(), dbias, dscore
