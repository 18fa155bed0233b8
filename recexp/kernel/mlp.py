"""What follows the first product of an MLP: activation, dropout and a linear layer, repeated.

N rows, C_i sizes of the hidden layers, C_n that of the output
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from recexp.kernel.device import on_cpu
from recexp.kernel.dropout import dropped
from recexp.kernel.library import Library, library
from recexp.kernel.linear import product

DEEPEST = 4  # the most hidden layers that the kernel takes


def reference(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], slope: float, p: float) -> Tensor:
    """`tail` layer by layer."""
    for weight, bias in zip(weights, biases, strict=True):
        x = product(F.dropout(relu(x, slope), p), weight, bias)
    return x


def relu(x: Tensor, slope: float) -> Tensor:
    return F.leaky_relu(x, slope) if slope else F.relu(x)


def tail(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], slope: float, p: float) -> Tensor:
    """W_i dropout(f(x)) + b_i for each layer: x (..., C_0), weights (C_i+1, C_i), biases (C_i+1,) -> (..., C_n).

    f is a relu whose slope below 0 is `slope`, p the dropout probability.
    """
    widths = [weight.shape[1] for weight in weights]
    n_out = len(weights[-1])
    kernels = library(x, *widths, 0 if n_out == 1 else n_out) if on_cpu(x) and len(weights) <= DEEPEST else None
    if kernels is None:
        return reference(x, weights, biases, slope, p)
    threshold, seed = dropped(p)
    options = {"slope": slope, "dropped": threshold, "seed": seed, "n_layers": len(weights), "width": [*widths, n_out]}
    return _Tail.apply(kernels, options, x.flatten(0, -2), *weights, *biases).view(*x.shape[:-1], n_out)


class _Tail(torch.autograd.Function):
    """`tail` by a kernel: x (N, C_0) -> (N, C_n)."""

    @staticmethod
    def forward(ctx: Any, kernels: Library, options: dict[str, Any], x: Tensor, *parameters: Tensor) -> Tensor:
        n_layers = options["n_layers"]
        ctx.kernels, ctx.options = kernels, options
        ctx.save_for_backward(x, *parameters)
        weights, biases = [weight.t() for weight in parameters[:n_layers]], parameters[n_layers:]
        out = x.new_empty(len(x), options["width"][-1])
        kernels["tail"](x=x, weight=weights, bias=biases, out=out, n=len(x), **options)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        x, *parameters = ctx.saved_tensors
        n_layers = ctx.options["n_layers"]
        weights, biases = parameters[:n_layers], parameters[n_layers:]
        dx = x.new_empty(x.shape)
        dweights, dbiases = ([array.new_empty(array.shape) for array in arrays] for arrays in (weights, biases))
        given = {"x": x, "weight": [weight.t() for weight in weights], "bias": biases, "back": weights, "dout": dout}
        ctx.kernels["tail_back"](**given, dx=dx, dweight=dweights, dbias=dbiases, n=len(x), **ctx.options)
        return None, None, dx, *dweights, *dbiases
