"""The multi-layer perceptron that nearly every model ends in."""

from collections.abc import Sequence

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from recexp.layer.activation import Activation, BatchNorm, Dice, activation
from recexp.layer.kernel import kernels
from recexp.layer.lookup import on_cpu
from recexp.layer.product import Linear


DEEPEST = 4  # hidden layers of kernel.c's tail
SLOPES = {nn.ReLU: 0, nn.LeakyReLU: 1}  # activations that it knows, by their slope below 0 in percent


def linear(n_in: int, n_out: int, bias: bool = True) -> Linear:
    """A Linear drawn Xavier-uniformly, its bias 0."""
    layer = Linear(n_in, n_out, bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def dropped(*dropouts: nn.Dropout) -> tuple[int, ...]:
    """What kernels drop at each, of 2^32, and a seed that torch's generator gives; all 0 outside training."""
    shares = [min(round(each.p * 2**32), 2**32 - 1) if each.training else 0 for each in dropouts]
    return *shares, int(torch.randint(2**31, ())) if any(shares) else 0


class MLP(nn.Module):
    """For each hidden size Linear, BatchNorm if asked, activation, dropout; then, given n_out, a bare Linear.

    The module's own `n_out` is the size of its output's last axis, given or not.
    """

    def __init__(
        self,
        n_in: int,
        hidden_sizes: Sequence[int],
        activation: Activation,
        dropout: float = 0.0,
        n_out: int | None = None,
        batch_norm: bool = False,
    ):
        super().__init__()
        sizes = [n_in, *hidden_sizes] if n_out is None else [n_in, *hidden_sizes, n_out]
        self.linears = nn.ModuleList(map(linear, sizes[:-1], sizes[1:]))
        self.hidden = nn.ModuleList(Hidden(size, activation, dropout, batch_norm) for size in hidden_sizes)
        self.n_out = sizes[-1]

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (..., n_in), mask (...) bool: the positions that count in batch statistics -> (..., n_out)."""
        return self.after_first(self.linears[0](x), mask) if len(self.linears) else x

    def slope(self) -> int | None:
        """Of its only hidden layer's activation below 0, in percent; None where it does more than relu and leaky relu."""
        if len(self.hidden) != 1 or len(self.linears) != 2:
            return None
        hidden = self.hidden[0]
        if hidden.norm is not None:
            return None
        return SLOPES.get(type(hidden.activation))

    @property
    def first(self) -> nn.Linear:
        """Its weight and bias, for callers that compute its product in a cheaper way."""
        layer = self.linears[0]
        assert isinstance(layer, nn.Linear)
        return layer

    def after_first(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """All that follows the product x (..., n_hidden) of the first Linear."""
        if self.by_kernel(x):
            return self.tail(x)
        for i, hidden in enumerate(self.hidden, start=1):
            x = hidden(x, mask, self.linears[i] if i < len(self.linears) else None)
        return x

    def by_kernel(self, x: Tensor) -> bool:
        """Whether _Tail does what follows the first Linear."""
        if not on_cpu(x) or not 1 <= len(self.hidden) <= DEEPEST or len(self.linears) != len(self.hidden) + 1:
            return False
        if any(each.norm is not None or type(each.activation) not in SLOPES for each in self.hidden):
            return False
        widths = [each.weight.shape[1] for each in self.linears[1:]] + [0 if self.n_out == 1 else self.n_out]
        return kernels(x, *widths) is not None

    def tail(self, x: Tensor) -> Tensor:
        hidden, linears = self.hidden[0], self.linears[1:]
        options = SLOPES[type(hidden.activation)], *dropped(hidden.dropout)
        out = _Tail.apply(
            x.flatten(0, -2), options, *(each.weight for each in linears), *(each.bias for each in linears)
        )
        return out.view(*x.shape[:-1], self.n_out)


class _Tail(torch.autograd.Function):
    """What follows the first product x (N, C_0) of an MLP, of the weights and biases of its other layers."""

    @staticmethod
    def forward(ctx: Any, x, options: tuple[int, int, int], *parameters):
        n_layers = len(parameters) // 2
        weights, biases = parameters[:n_layers], parameters[n_layers:]
        x, out = x.contiguous(), x.new_empty(len(x), len(weights[-1]))
        transposed = [each.t().contiguous() for each in weights]
        ctx.save_for_backward(x, *transposed, *biases, *weights)
        ctx.options = options
        widths = [each.shape[1] for each in weights] + [out.shape[1]]
        sizes = len(x), n_layers, *options, *filled(widths, DEEPEST + 1)
        ctx.sizes = sizes
        _Tail.run(x, widths)(
            "tail", x, out, None, *sizes, *filled(transposed), *filled(biases), *filled([]), *filled([]), *filled([])
        )
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout):
        x, *rest = ctx.saved_tensors
        n_layers = len(rest) // 3
        transposed, biases, weights = rest[:n_layers], rest[n_layers : 2 * n_layers], rest[2 * n_layers :]
        widths = [each.shape[1] for each in weights] + [dout.shape[1]]
        run, dx = _Tail.run(x, widths), x.new_empty(x.shape)
        dweights = [x.new_zeros(run.shares, *each.shape) for each in weights]
        dbiases = [x.new_zeros(run.shares, *each.shape) for each in biases]
        arrays = (transposed, biases, weights, dweights, dbiases)
        run("tail_back", x, dout, dx, *ctx.sizes, *(each for array in arrays for each in filled(array)))
        return dx, None, *(each.sum(0) for each in (*dweights, *dbiases))

    @staticmethod
    def run(x, widths):
        return kernels(x, *widths[:-1], 0 if widths[-1] == 1 else widths[-1])


def filled(values: Sequence[Any], size: int = DEEPEST) -> list[Any]:
    return [*values, *[None] * (size - len(values))]


class Hidden(nn.Module):
    """What a hidden layer does to the product of its Linear."""

    def __init__(self, n_channels: int, kind: Activation, dropout: float, batch_norm: bool):
        super().__init__()
        self.norm = BatchNorm(n_channels) if batch_norm else None
        self.activation = activation(kind, n_channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None, following: nn.Linear | None) -> Tensor:
        """x (..., n_channels) -> the same, or what the Linear that follows makes of it."""
        dice = self.activation if isinstance(self.activation, Dice) else None
        alone = self.norm is None and not self.dropout.p
        if dice and alone and following is not None and self.training and on_cpu(x):
            return dice.then(x, mask, following)  # less time than one after the other
        x = x if self.norm is None else self.norm(x, mask)
        x = dice(x, mask) if dice else self.activation(x)
        x = self.dropout(x)
        return x if following is None else following(x)
