"""Matrix products of 32-bit floats on a CPU: by a kernel, by oneDNN if no kernel takes their widths, or by torch.

MKL, which torch uses, has no AVX-512 kernels for AMD's processors, so oneDNN takes half its time or less there
(docs/performance.md); every torch for x86 has both. Elsewhere, and for small products, torch decides.

M rows, K inputs, N outputs
"""

import platform
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from recexp.kernel.device import on_cpu
from recexp.kernel.library import Library, library

ONEDNN = (
    platform.machine() in ("x86_64", "AMD64")
    and torch.backends.mkldnn.is_available()
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)
# The fewest multiplications for which a kernel, or oneDNN without a gradient, pays; and oneDNN with a gradient.
SMALL, LARGE = 2**21, 2**23


def reference(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b: x (..., K), weight (N, K), bias (N,) -> (..., N)."""
    out = x @ weight.t()
    return out if bias is None else out + bias


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b, as torch's linear: x (..., K), weight (N, K), bias (N,) -> (..., N)."""
    if not (on_cpu(x) and (_library(x, weight) or _by_onednn(x, weight, LARGE))):
        return F.linear(x, weight, bias)
    return _Product.apply(x.reshape(-1, x.shape[-1]), weight, bias).view(*x.shape[:-1], len(weight))


def times(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b without a gradient: x (M, K), weight (N, K), bias (N,) -> (M, N)."""
    if not _by_onednn(x, weight, SMALL):
        return F.linear(x, weight, bias)
    # oneDNN reads a non-contiguous array one number at a time.
    return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight.contiguous(), bias, "none", [], "")


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """The gradient of W in x W^T: grad (M, N), x (M, K) -> (N, K).

    Computed as the gradient of a convolution of width 1 along the rows, which torch gives to oneDNN from 2 threads on.
    """
    n = len(x) // 16 * 16  # oneDNN takes twice the time if 4 does not divide the number of rows
    if not _by_onednn(x, grad.t(), LARGE) or torch.get_num_threads() == 1:
        return torch.mm(grad.t(), x)
    signal, change = (rows[:n].contiguous()[None, :, None].permute(0, 3, 1, 2) for rows in (x, grad))  # (1, ., n, 1)
    weight = x.new_empty(grad.shape[1], x.shape[1], 1, 1)  # only its shape is read
    none, one, wanted = (0, 0), (1, 1), (False, True, False)
    _, dweight, _ = torch.ops.aten.convolution_backward(
        change, signal, weight, None, one, none, one, False, none, 1, wanted
    )
    return torch.addmm(dweight[:, :, 0, 0], grad[n:].t(), x[n:])


def _library(x: Tensor, weight: Tensor) -> Library | None:
    n_out, n_in = weight.shape
    return library(x, n_in, 0 if n_out == 1 else n_out) if x.numel() * n_out >= SMALL else None


def _by_onednn(x: Tensor, weight: Tensor, least: int) -> bool:
    fits = ONEDNN and x.device.type == "cpu" and x.dtype is torch.float32 and weight.dtype is torch.float32
    return fits and x.numel() * len(weight) >= least


class _Product(torch.autograd.Function):
    """x (M, K), weight (N, K), bias (N,) -> (M, N)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.kernels = _library(x, weight)
        if ctx.kernels is None:
            return times(x, weight, bias)
        n_out, n_in = weight.shape
        out = x.new_empty(len(x), n_out)
        ctx.kernels["linear"](x=x, weight=weight.t(), bias=bias, out=out, n=len(x), n_in=n_in, n_out=n_out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        if ctx.kernels is not None:
            *gradients, dbias = _product_back(ctx.kernels, x, weight, grad)
            return *gradients, dbias if wants_bias else None
        grad = grad.contiguous()
        of_x = times(grad, weight.t()) if wants_x else None
        of_weight = weight_gradient(grad, x) if wants_weight else None
        return of_x, of_weight, grad.sum(0) if wants_bias else None


def _product_back(kernels: Library, x: Tensor, weight: Tensor, dout: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    n_out, n_in = weight.shape
    dx, dweight, dbias = x.new_empty(x.shape), weight.new_empty(weight.shape), weight.new_empty(n_out)
    grads = {"dout": dout, "dx": dx, "dweight": dweight, "dbias": dbias}
    kernels["linear_back"](x=x, weight=weight, **grads, n=len(x), n_in=n_in, n_out=n_out)
    return dx, dweight, dbias
