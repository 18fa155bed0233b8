"""The fields of a row and the inner products of all their pairs, for an MLP's first layer. Qu et al., PNN, ICDM 2016.

n rows, F fields, D embedding size, P = F (F - 1) / 2 pairs (0, 1), (0, 2), ..., (F - 2, F - 1)
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from recexp.kernel.device import on_cpu
from recexp.kernel.library import Library, library
from recexp.kernel.linear import product

WIDEST = 16  # a multiple of it fills the registers of every library


def reference(e: Tensor) -> Tensor:
    """[e_1, ..., e_F, p]: e (n, F, D) -> (n, F D + P)."""
    return torch.cat([e.flatten(1), inner_products(e)], 1)


def inner_products(e: Tensor) -> Tensor:
    """Inner products of all pairs, from the matrix of all: e (n, F, D) -> (n, P)."""
    first, second = pairs(e)
    return torch.bmm(e, e.transpose(1, 2)).flatten(1).index_select(1, first * e.shape[1] + second)


def pairs(e: Tensor) -> tuple[Tensor, Tensor]:
    """First and second field (P,) of each pair of e (n, F, D), in the order of itertools.combinations."""
    first, second = torch.triu_indices(e.shape[1], e.shape[1], offset=1, device=e.device)
    return first, second


def inner_products_linear(e: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """W [e_1, ..., e_F, p] + b: e (n, F, D), weight (H, F D + P), bias (H,) -> (n, H)."""
    kernels = library(e, e.shape[2]) if on_cpu(e) else None
    if kernels is None:
        return product(reference(e), weight, bias)
    missing = -weight.shape[1] % WIDEST
    return product(_InnerProducts.apply(kernels, e, weight.shape[1] + missing), F.pad(weight, (0, missing)), bias)


class _InnerProducts(torch.autograd.Function):
    """`reference` by a kernel, with zeros up to a width that products like."""

    @staticmethod
    def forward(ctx: Any, kernels: Library, e: Tensor, width: int) -> Tensor:
        n, n_fields, dim = e.shape
        ctx.kernels, ctx.sizes = kernels, {"n": n, "n_fields": n_fields, "dim": dim, "width": width}
        ctx.save_for_backward(e)
        out = e.new_empty(n, width)
        kernels["inner_products"](e=e, out=out, **ctx.sizes)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        (e,) = ctx.saved_tensors
        de = e.new_empty(e.shape)
        ctx.kernels["inner_products_back"](e=e, dout=dout, de=de, **ctx.sizes)
        return None, de, None
