"""A sublayer of a Transformer with its residual and LayerNorm.

Vaswani et al., NeurIPS 2017, sec. 5.4   y = LayerNorm(x + dropout(F(z)))
F(z) = W z, or eq. 2   W_2 dropout(f(W_1 z + b_1)) + b_2 with f a relu with a slope below 0

D model size, K size of z, H hidden units; N rows, over all leading axes
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from recexp.kernel.device import on_cpu, waits
from recexp.kernel.dropout import dropped
from recexp.kernel.library import Library, library
from recexp.kernel.linear import product
from recexp.kernel.mlp import relu

Linears = Sequence[tuple[Tensor, Tensor | None]]  # the weight and bias of one linear layer or two
LayerNorm = tuple[Tensor, Tensor, float]  # scale (D,), shift (D,), eps


def reference(
    x: Tensor, z: Tensor, mask: Tensor, linears: Linears, norm: LayerNorm, slope: float, p_hidden: float, p: float
) -> Tensor:
    """`sublayer` operation by operation."""
    z = product(z, *linears[0])
    if len(linears) == 2:
        z = product(F.dropout(relu(z, slope), p_hidden), *linears[1])
    scale, shift, eps = norm
    return hide(F.layer_norm(x + F.dropout(z, p), scale.shape, scale, shift, eps), mask)


def sublayer(
    x: Tensor,
    z: Tensor,
    mask: Tensor,
    linears: Linears,
    norm: LayerNorm,
    slope: float = 0.0,
    p_hidden: float = 0.0,
    p: float = 0.0,
) -> Tensor:
    """y, 0 where the mask is false: x (B, L, D), z (B, L, K), which may be x itself, mask (B, L) -> (B, L, D).

    p_hidden, p: dropout probabilities of the hidden units and of F(z).
    """
    sizes = [size for weight, _ in linears for size in weight.shape]
    kernels = library(x, *sizes) if on_cpu(x) else None
    if kernels is None:
        return reference(x, z, mask, linears, norm, slope, p_hidden, p)
    parameters: list[Tensor | None] = [None, None] if len(linears) == 1 else []  # of the hidden layer
    parameters += [parameter for linear in linears for parameter in linear]
    scale, shift, eps = norm
    options = {"slope": slope, "eps": eps}
    options |= zip(("dropped_hidden", "dropped", "seed"), dropped(p_hidden, p), strict=True)
    itself = z is x and len(linears) == 2
    return _Sublayer.apply(
        kernels, options, torch.is_grad_enabled(), mask, x, None if itself else z, *parameters, scale, shift
    )


def hide(x: Tensor, mask: Tensor) -> Tensor:
    """x (B, L, D) with zeros where mask (B, L) is false."""
    if waits(x):
        return x.masked_fill(~mask[:, :, None], 0)
    padding = (~mask).flatten().nonzero()[:, 0]  # takes a quarter of the time on a CPU
    return x.flatten(0, 1).index_fill(0, padding, 0).view_as(x)


NAMES = ("weight_1", "bias_1", "weight_2", "bias_2", "scale", "shift")


class _Sublayer(torch.autograd.Function):
    """`sublayer` by a kernel. z is None if it is x."""

    @staticmethod
    def forward(ctx: Any, kernels: Library, options: dict[str, float], differentiable: bool, mask, x, z, *parameters):
        x, y = x.contiguous(), x.new_empty(x.shape)
        normal, rate = (x.new_empty(x.shape), x.new_empty(mask.shape)) if differentiable else (None, None)
        weight_1, _, weight_2, *_ = parameters
        (dim, n_in), hidden = weight_2.shape, 0
        if weight_1 is not None:
            hidden, n_in = weight_1.shape
        ctx.kernels, ctx.itself = kernels, z is None
        ctx.options = {"n": x.numel() // dim, "dim": dim, "n_in": n_in, "hidden": hidden, **options}
        z = x if z is None else z
        ctx.save_for_backward(z, mask, normal, rate, *parameters)
        given = {"x": x, "z": z, "mask": mask, **_by_name(parameters)}
        kernels["sublayer"](**given, y=y, normal=normal, rate=rate, **ctx.options)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        z, mask, normal, rate, *parameters = ctx.saved_tensors
        weight_1, _, weight_2, *_ = parameters
        dx, dz = dy.new_empty(dy.shape), None if ctx.itself else z.new_empty(z.shape)
        grads = [None if parameter is None else parameter.new_empty(parameter.shape) for parameter in parameters]
        given = {"z": z, "mask": mask, "normal": normal, "rate": rate, "dy": dy, **_by_name(parameters)}
        sums = {f"d{name}": grad for name, grad in zip(NAMES, grads, strict=True)}
        ctx.kernels["sublayer_back"](**given, back_1=weight_1, back_2=weight_2, dx=dx, dz=dz, **sums, **ctx.options)
        return None, None, None, None, dx, dz, *grads


def _by_name(parameters: Sequence[Tensor | None]) -> dict[str, Tensor | None]:
    """The parameters by name, weights transposed to (inputs, outputs)."""
    return {
        name: parameter.t() if parameter is not None and parameter.dim() == 2 else parameter
        for name, parameter in zip(NAMES, parameters, strict=True)
    }
