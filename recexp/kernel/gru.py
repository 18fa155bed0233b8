"""GRUs over right-padded sequences, and GRUs whose updates attention controls.

B batch, L steps, K input size, H state size; u = 1 - z is the weight of the candidate n in torch's GRU
    r, u = sigmoid(W_r x + b_r + U_r h + c_r), sigmoid(W_u x + b_u + U_u h + c_u)
    n = tanh(W_n x + b_n + r (U_n h + c_n))
    h' = h + k (n - h)
Cho et al., EMNLP 2014                                             GRU     k = u
Zhou et al., Deep Interest Evolution Network, AAAI 2019, eq. 10    AGRU    k = a
eq. 11, 12                                                         AUGRU   k = a u
"""

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from recexp.kernel.device import product_dtype, traced, waits
from recexp.kernel.library import Library, library
from recexp.kernel.linear import product, times, weight_gradient
from recexp.kernel.lookup import lookup, require_rows, scattered
from recexp.kernel.scan import State, scanned

sigmoid_backward, tanh_backward = torch.ops.aten.sigmoid_backward.grad_input, torch.ops.aten.tanh_backward.grad_input

Parameters = tuple[Tensor, Tensor, Tensor, Tensor]  # W (3H, K), U (3H, H), b (3H,), c (3H,): rows for r, z, n


def reference(x: Tensor, parameters: Parameters, attention: Tensor | None = None, update: bool = True) -> Tensor:
    """The states one step at a time, of AUGRU (update), AGRU, or GRU without attention: x (B, L, K) -> (B, L, H)."""
    weight_ih, weight_hh, bias_ih, bias_hh = parameters
    h, states = x.new_zeros(len(x), weight_hh.shape[1]), [x.new_zeros(len(x), 0, weight_hh.shape[1])]
    for step in range(x.shape[1]):
        x_r, x_z, x_n = F.linear(x[:, step], weight_ih, bias_ih).chunk(3, 1)
        h_r, h_z, h_n = F.linear(h, weight_hh, bias_hh).chunk(3, 1)
        u, n = 1 - torch.sigmoid(x_z + h_z), torch.tanh(x_n + torch.sigmoid(x_r + h_r) * h_n)
        h = h + candidate_weight(None if attention is None else attention[:, step, None], u, update) * (n - h)
        states.append(h[:, None])
    return torch.cat(states, 1)


def candidate_weight(attention: Tensor | None, u: Tensor, update: bool) -> Tensor:
    """k (B, H), from attention a (B, 1) and gates u (B, H)."""
    if attention is None:
        return u
    return attention * u if update else attention.expand_as(u)


def gru(
    x: Tensor,
    parameters: Parameters,
    mask: Tensor | None = None,
    index: Tensor | None = None,
    rows: Callable[[], Tensor] | None = None,
) -> Tensor:
    """The states of a GRU: x (B, L, K), or vectors (n, K) and their index (B, L) -> (B, L, H).

    Products are computed once per vector. States have no meaning where the mask (B, L) is false. rows: returns
    x[index], called if it is faster to work on these.
    """
    if traced() or not waits(x):  # where torch's GRU takes longer (docs/performance.md)
        return _recurrence(x, index, mask, parameters)[0]
    inputs = x if rows is None else rows()
    start = inputs.new_zeros(1, len(inputs), parameters[1].shape[1])
    return torch.gru(inputs, start, parameters, True, 1, 0.0, torch.is_grad_enabled(), False, True)[0]


def attention_gru(x: Tensor, attention: Tensor, mask: Tensor, parameters: Parameters, update: bool) -> Tensor:
    """The last state of AUGRU (update) or AGRU: x (B, L, K), attention and mask (B, L) -> (B, H).

    Attention must be 0 where the mask is false, so that the state stays as it is.
    """
    return _recurrence(x, None, mask, parameters, attention, update)[1]


def _recurrence(
    x: Tensor,
    index: Tensor | None,
    mask: Tensor | None,
    parameters: Parameters,
    attention: Tensor | None = None,
    update: bool = True,
) -> tuple[Tensor, Tensor]:
    """The states (B, L, H) and the last of them (B, H)."""
    weight_ih, weight_hh, bias_ih, bias_hh = parameters
    n_gates, n_hidden = 2 * len(bias_hh) // 3, weight_hh.shape[1]
    weight, bias = flipped(weight_ih), flipped(bias_ih + F.pad(bias_hh[:n_gates], (0, n_gates // 2)))
    if index is None:
        x = x.transpose(0, 1)  # (L, B, K)
    else:
        x, index = product(x, weight, bias).to(weight.dtype), index.t()
    kernels = library(x, n_hidden)
    inside = library(x, n_hidden, x.shape[2]) if kernels and index is None else None  # computes the input's product too
    if index is None and inside is None:
        x = product(x, weight, bias).to(weight.dtype)  # (L, B, 3H)
    if kernels is not None:
        of_x = (None, None) if inside is None else (weight, bias)
        states, last = _ByKernel.apply(inside or kernels, x, index, *of_x, attention, weight_hh, bias_hh, mask, update)
    else:
        x = x if index is None else lookup(x, index)  # (L, B, 3H)
        a = None if attention is None else attention.t()[:, :, None].contiguous()
        if traced():
            states, last = _scanned(x, a, weight_hh, bias_hh, update)
            return states.transpose(0, 1), last
        n_active = [x.shape[1]] * len(x) if mask is None else active(mask)
        states, last = _ByTorch.apply(x, a, weight_hh, bias_hh, update, n_active)
    return states.transpose(0, 1), last


def _scanned(x: Tensor, a: Tensor | None, weight_hh: Tensor, bias_hh: Tensor, update: bool) -> tuple[Tensor, Tensor]:
    """As `_ByTorch`, for any number of steps: x (L, B, 3H), a (L, B, 1) -> (L, B, H) and (B, H)."""
    n_hidden = weight_hh.shape[1]
    weight, bias = flipped(weight_hh), F.pad(bias_hh[2 * n_hidden :], (2 * n_hidden, 0))

    def step(state: State, products: Tensor, attention: Tensor | None = None) -> State:
        (h,) = state
        x_r, x_u, x_n = products.chunk(3, 1)
        h_r, h_u, h_n = F.linear(h, weight, bias).chunk(3, 1)
        u, n = torch.sigmoid(x_u + h_u), torch.tanh(x_n + torch.sigmoid(x_r + h_r) * h_n)
        return (h + candidate_weight(attention, u, update) * (n - h),)

    return scanned(step, (x.new_zeros(x.shape[1], n_hidden),), [x] if a is None else [x, a])


def flipped(weight: Tensor) -> Tensor:
    """Rows for r, z, n (3H, ...) as rows for r, u, n, or back: u = 1 - z = sigmoid(-z) is what a step needs."""
    r, z, n = weight.chunk(3)
    return torch.cat([r, -z, n])


class _ByKernel(torch.autograd.Function):
    """By a kernel, in fp32 even under autocast.

    x (L, B, K) with its product's weight (3H, K) and bias (3H,); or, without them, products (n, 3H) with an index
    (L, B), or products (L, B, 3H). a (B, L), mask (B, L). Returns the states (L, B, H) and the last of them (B, H).
    """

    @staticmethod
    def forward(ctx: Any, kernels: Library, x, index, weight_x, bias_x, a, weight_hh, bias_hh, mask, update: bool):
        n_steps, n_rows = x.shape[:2] if index is None else index.shape
        width = weight_hh.shape[1]
        ctx.kernels, ctx.shape = kernels, x.shape
        ctx.sizes = {"n_steps": n_steps, "n_rows": n_rows, "n_in": x.shape[-1], "width": width, "update": int(update)}
        ctx.set_materialize_grads(False)
        x, h = x.contiguous(), x.new_empty(n_steps + 1, n_rows, width)
        h[0] = 0
        gates, y_n = x.new_empty(n_steps, n_rows, 3 * width), x.new_empty(n_steps, n_rows, width)
        inputs = {"x": x, "weight_x": None if weight_x is None else weight_x.t(), "bias_x": bias_x, "index": index}
        given = {"a": a, "mask": mask, "weight": flipped(weight_hh).t(), "bias": bias_hh[2 * width :]}
        out_of_range = kernels["recurrence"](
            **inputs, **given, h=h, gates=gates, y_n=y_n, n_products=len(x), **ctx.sizes
        )
        if index is not None:
            require_rows(out_of_range, index, len(x))
        ctx.save_for_backward(None if weight_x is None else x, weight_x, index, a, weight_hh, mask, h, gates, y_n)
        return h[1:], h[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dstates, dlast):
        x, weight_x, index, a, weight_hh, mask, h, gates, y_n = ctx.saved_tensors
        n_gates, width = weight_hh.shape
        da, dx = None if a is None else a.new_empty(a.shape), gates.new_empty((gates if x is None else x).shape)
        dweight, dbias = h.new_empty(n_gates, width), h.new_empty(width)
        dweight_x, dbias_x = (None, None) if x is None else (h.new_empty(weight_x.shape), h.new_empty(n_gates))
        given = {"x": x, "weight_x": weight_x, "a": a, "weight": flipped(weight_hh), "mask": mask}
        states = {"h": h, "gates": gates, "y_n": y_n, "dstates": dstates, "dlast": dlast, "da": da, "dx": dx}
        sums = {"dweight": dweight, "dbias": dbias, "dweight_x": dweight_x, "dbias_x": dbias_x}
        ctx.kernels["recurrence_back"](**given, **states, **sums, **ctx.sizes)
        if index is not None:
            (dx,) = scattered(ctx.kernels, dx, [index], [ctx.shape])
        dbias = F.pad(dbias, (2 * width, 0))
        return None, dx, None, dweight_x, dbias_x, da, flipped(dweight), dbias, None, None


class _ByTorch(torch.autograd.Function):
    """By torch, with the gradient written out.

    x (L, B, 3H), the input's products, which it overwrites, and a (L, B, 1) -> the states (L, B, H) and the last of
    them (B, H). At step t rows from n_active[t] on keep their state.

    autograd would record some fifteen operations per step. With y = U h + c
        dh' reaches n through k, k through n - h, and the step before through 1 - k and through y
    A step takes one matrix product in forward and one in backward, rounded as autocast says; states and sums are not.
    Operations are so short that slicing arrays takes as long, so arrays are sliced once per span of steps.
    """

    @staticmethod
    def forward(ctx: Any, x, a, weight_hh, bias_hh, update: bool, n_active: list[int]):
        n_steps, n_rows, n_hidden = len(x), x.shape[1], weight_hh.shape[1]
        ctx.spans, ctx.update, ctx.dtype = spans(n_active), update, product_dtype(x)
        x, h = x.detach(), x.new_zeros(n_steps + 1, n_rows, n_hidden)
        ctx.set_materialize_grads(False)
        products, minus_one = [], x.new_full((), -1)
        with torch.autocast(x.device.type, enabled=False):
            weight, bias = flipped(weight_hh).to(ctx.dtype), F.pad(bias_hh[2 * n_hidden :], (2 * n_hidden, 0))
            for steps, n in ctx.spans:
                gates, before, after = x[steps, :n], h[steps, :n], h[1:][steps, :n]
                cut = (before, after, _cut(a, steps, n), gates[..., : 2 * n_hidden], *gates.chunk(3, 2))
                for old, new, weights, r_u, r, u, candidate in zip(*cut, strict=True):
                    y = times(old, weight, bias) if ctx.dtype is old.dtype else times(old.to(ctx.dtype), weight) + bias
                    y_gates, y_n = y.split([2 * n_hidden, n_hidden], 1)
                    r_u.add_(y_gates).sigmoid_()
                    # tanh(c) = 2 sigmoid(2 c) - 1; on a CPU torch's sigmoid takes a seventh of its tanh's time
                    candidate.addcmul_(r, y_n).mul_(2).sigmoid_()
                    torch.add(minus_one, candidate, alpha=2, out=candidate)
                    torch.lerp(old, candidate, candidate_weight(weights, u, update), out=new)
                    products.append(y_n)
                if n < n_rows:
                    h[1:][steps, n:] = h[steps.start, n:]
        ctx.save_for_backward(x, a, weight_hh, h, *products)
        return h[1:], h[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dstates, dlast):
        gates, a, weight_hh, h, *products = ctx.saved_tensors
        n_hidden = weight_hh.shape[1]
        # Gradients of gates and candidate before nonlinearities: dy for the hidden product, dx for the input's.
        dy, dx_n = torch.empty_like(gates), torch.empty_like(h[1:])
        da = None if a is None else torch.zeros_like(a)
        dh = torch.zeros_like(h[0]) if dlast is None else dlast.clone()
        with torch.autocast(dh.device.type, enabled=False):
            back = flipped(weight_hh).to(ctx.dtype).t().contiguous()
            for steps, n in reversed(ctx.spans):
                grad = dh[:n]
                given = zip(_cut(dstates, steps, len(dh)), h[steps, :n], products[steps], strict=True)
                attention = zip(_cut(a, steps, n), _cut(da, steps, n), strict=True)
                gate = zip(*gates[steps, :n].chunk(3, 2), strict=True)
                written = zip(dy[steps, :n], *dy[steps, :n].chunk(3, 2), dx_n[steps, :n], strict=True)
                each_step = list(zip(given, attention, gate, written, strict=True))
                for (dnew, old, y_n), (weights, dweights), (r, u, candidate), out in reversed(each_step):
                    dy_t, dr, du, dy_n, dn = out
                    if dnew is not None:
                        dh += dnew
                    through = grad * candidate_weight(weights, u, ctx.update)
                    tanh_backward(through, candidate, grad_input=dn)
                    torch.mul(dn, r, out=dy_n)
                    sigmoid_backward(dn * y_n, r, grad_input=dr)
                    dk = (candidate - old).mul_(grad)
                    if dweights is not None:
                        torch.sum(dk * u if ctx.update else dk, 1, keepdim=True, out=dweights)
                    if ctx.update:
                        sigmoid_backward(dk if weights is None else dk.mul_(weights), u, grad_input=du)
                    else:  # u is not used
                        du.zero_()
                    grad.sub_(through).add_(times(dy_t.to(ctx.dtype), back))
                dy[steps, n:] = dx_n[steps, n:] = 0
            before = h[:-1].flatten(0, 1)
            dweight = weight_gradient(dy.flatten(0, 1).to(ctx.dtype), before.to(ctx.dtype)).to(weight_hh.dtype)
        dy_n = dy[..., 2 * n_hidden :]
        dbias = F.pad(dy_n.sum((0, 1)), (2 * n_hidden, 0))
        dy_n.copy_(dx_n)
        return dy, da, flipped(dweight), dbias, None, None


def _cut(x: Tensor | None, steps: slice, n: int) -> Iterable[Any]:
    """The first n rows of x (L, B, .) at each of the steps, or None for each."""
    return [None] * (steps.stop - steps.start) if x is None else x[steps, :n]


def active(mask: Tensor, multiple: int = 128) -> list[int]:
    """For each step, the rows up to the last with an event: mask (B, L). Tight if the longest histories come first.

    Rounded up, because each new shape of a bfloat16 product is compiled and kept. All rows on a GPU, which would
    stall otherwise.
    """
    n_rows = len(mask)
    if waits(mask):
        return [n_rows] * mask.shape[1]
    row = torch.arange(1, n_rows + 1, device=mask.device)[:, None]
    last_row = (row * mask).amax(0) if n_rows else mask.new_zeros(mask.shape[1], dtype=torch.long)
    return (last_row + multiple - 1).div(multiple, rounding_mode="floor").mul(multiple).clamp(max=n_rows).tolist()


def spans(n_active: list[int]) -> list[tuple[slice, int]]:
    """Spans of steps with the same number of active rows, and that number."""
    result, start = [], 0
    for n, steps in itertools.groupby(n_active):
        stop = start + len(list(steps))
        result.append((slice(start, stop), n))
        start = stop
    return result
