"""Runs of layers as one operation each on a CPU, by kernels: the attention and the sublayers of a Transformer, an MLP.

Each takes what its kernel in kernel.c takes and gives what torch's layers would. Callers ask `kernels` first.

N rows, B batch, L length of what is attended to, M of what attends, D model size, H hidden units
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from recexp.kernel.library import Kernels, known_kernels
from recexp.layer.lookup import pair, scattered

DEEPEST = 4  # hidden layers of an MLP
SLOPES: dict[type[nn.Module], int] = {nn.ReLU: 0, nn.LeakyReLU: 1}  # activations, by their slope below 0 in percent


def dropped(*dropouts: nn.Dropout) -> tuple[int, ...]:
    """What kernels drop at each, of 2^32, and a seed that torch's generator gives; all 0 outside training."""
    shares = [min(round(each.p * 2**32), 2**32 - 1) if each.training else 0 for each in dropouts]
    return *shares, int(torch.randint(2**31, ())) if any(shares) else 0


def attend(
    q: Tensor | None,
    tables: Sequence[Tensor],
    places: Sequence[Tensor | None],
    seen: Tensor,
    n_heads: int,
    dropout: nn.Dropout,
) -> Tensor:
    """softmax(q k^T / sqrt(d)) v of heads side by side, 0 for a query that sees nothing: (B, M, D).

    Where positions are their own queries, and seen is (B, L), those that are not seen get 0.

    Each position is the sum of a row of one table or two (n, W) at its places (B, L), or its own row (B L, W) without
    places. It holds [k, v] beside q (B, M, D), or [q, k, v] without it. seen (B, L) or (B, M, L).
    """
    seen = seen if seen.dim() == 3 else seen[:, None]
    return _Attend.apply(q, seen, n_heads, dropped(dropout), places, *tables)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q, seen, n_heads: int, drop: tuple[int, int], places: Sequence[Tensor | None], *tables):
        length, width = seen.shape[2], tables[0].shape[1]
        dim, n_queries = (width // 3, length) if q is None else (q.shape[2], q.shape[1])
        ctx.size, ctx.places = dim // n_heads, places
        ctx.sizes = len(seen), n_queries, length, dim, n_heads, width, int(seen.shape[1] > 1), *drop
        ctx.save_for_backward(q, seen, *tables)
        out = tables[0].new_empty(len(seen), n_queries, dim)
        run = known_kernels(out, ctx.size)
        run("attend", q, *pair(tables), *pair(places), seen, out, *ctx.sizes, None, None)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout):
        q, seen, *tables = ctx.saved_tensors
        dq = None if q is None else q.new_empty(q.shape)
        dpositions = dout.new_empty(seen.shape[2] * len(seen), tables[0].shape[1])
        run = known_kernels(dout, ctx.size)
        run("attend_back", q, *pair(tables), *pair(ctx.places), seen, dout, *ctx.sizes, dq, dpositions)
        if ctx.places[0] is None:
            return dq, None, None, None, None, dpositions
        dtables = scattered(run, dpositions, ctx.places, [table.shape for table in tables])
        return dq, None, None, None, None, *dtables


def sublayer(
    x: Tensor,
    z: Tensor | None,
    mask: Tensor,
    linears: Sequence[nn.Linear],
    percent: int,
    drop: tuple[int, ...],
    norm: nn.LayerNorm,
) -> Tensor:
    """LayerNorm(x + F(z)), 0 where the mask is false: x (..., D), z (..., K) or None for x, mask (...) -> (..., D).

    F(z) = W_2 f(W_1 z + b_1) + b_2 of two linears, or W_2 z of one without a bias, whose z is given; f is a relu with a
    slope below 0.
    drop: of the hidden units and of F(z), and a seed, as `dropped` gives them.
    """
    if len(linears) == 1:
        assert z is not None
        parameters = [None, None, linears[0].weight, None]
    else:
        parameters = [each for linear in linears for each in (linear.weight, linear.bias)]
    options = (percent, *drop, norm.eps)
    return _Sublayer.apply(x, z, mask, *parameters, norm.weight, norm.bias, options, torch.is_grad_enabled())


class _Sublayer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x, z, mask, weight_1, bias_1, weight_2, bias_2, scale, shift, options, differentiable: bool):
        x, y = x.contiguous(), x.new_empty(x.shape)
        dim, n_u = weight_2.shape
        n_in, hidden = (n_u, 0) if weight_1 is None else (weight_1.shape[1], n_u)
        ctx.sizes, ctx.beside = (x.numel() // dim, dim, n_in, hidden, *options), z is not None
        normal, rate = (x.new_empty(x.shape), x.new_empty(mask.shape)) if differentiable else (None, None)
        parameters, z = (weight_1, bias_1, weight_2, bias_2, scale, shift, mask), x if z is None else z
        ctx.save_for_backward(z, *parameters, normal, rate)
        run, outcome = known_kernels(x, dim, n_in, hidden), (y, normal, rate)
        run("sublayer", x, z, *_turned(*parameters), *outcome, *ctx.sizes, *[None] * 4)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy):
        z, *parameters, normal, rate = ctx.saved_tensors
        weight_1, _, weight_2, *_ = parameters
        dim, n_in, hidden = ctx.sizes[1:4]
        run = known_kernels(dy, dim, n_in, hidden)
        dx, dz = dy.new_empty(dy.shape), z.new_empty(z.shape) if ctx.beside else None
        sums = [None if each is None else each.new_empty(each.shape) for each in parameters[:-1]]  # not of the mask
        turned = _turned(*parameters)
        run("sublayer_back", None, z, *turned, dy, normal, rate, *ctx.sizes, weight_1, weight_2, dx, dz, sums=sums)
        return dx, dz, None, *sums, None, None


def _turned(weight_1, bias_1, weight_2, bias_2, *rest):
    """What the kernel sees of them: weights as (inputs, outputs)."""
    return None if weight_1 is None else weight_1.t(), bias_1, weight_2.t(), bias_2, *rest


def tail(x: Tensor, linears: Sequence[nn.Linear], activation: nn.Module, dropout: nn.Dropout) -> Tensor:
    """For each linear f, dropout and its product: x (..., C_0) -> (..., C_n). f is one of SLOPES, for all the same."""
    options = SLOPES[type(activation)], *dropped(dropout)
    weights, biases = [each.weight for each in linears], [each.bias for each in linears]
    out = _Tail.apply(x.flatten(0, -2), options, *weights, *biases)
    return out.view(*x.shape[:-1], out.shape[1])


class _Tail(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x, options: tuple[int, int, int], *parameters: Tensor):
        n_layers = len(parameters) // 2
        weights, biases = parameters[:n_layers], parameters[n_layers:]
        ctx.widths = [each.shape[1] for each in weights] + [len(weights[-1])]
        ctx.sizes = len(x), n_layers, *options, *_filled(ctx.widths, DEEPEST + 1)
        ctx.save_for_backward(x, *parameters)
        out = x.new_empty(len(x), ctx.widths[-1])
        transposed = [each.t() for each in weights]
        _tail_kernels(x, ctx.widths)(
            "tail", x, out, None, *ctx.sizes, *_filled(transposed), *_filled(biases), *_filled([])
        )
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout):
        x, *parameters = ctx.saved_tensors
        n_layers = len(parameters) // 2
        weights, biases = parameters[:n_layers], parameters[n_layers:]
        run, dx = _tail_kernels(x, ctx.widths), x.new_empty(x.shape)
        dweights, dbiases = ([each.new_empty(each.shape) for each in array] for array in (weights, biases))
        transposed = [each.t() for each in weights]
        arrays = (*_filled(transposed), *_filled(biases), *_filled(weights))
        run("tail_back", x, dout, dx, *ctx.sizes, *arrays, sums=[*_filled(dweights), *dbiases])
        return dx, None, *dweights, *dbiases


def _tail_kernels(x: Tensor, widths: Sequence[int]) -> Kernels:
    return known_kernels(x, *widths[:-1], 0 if widths[-1] == 1 else widths[-1])


def _filled(values: Sequence[Any], size: int = DEEPEST) -> list[Any]:
    return [*values, *[None] * (size - len(values))]
