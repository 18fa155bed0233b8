"""The multi-layer perceptron that nearly every model ends in."""

from collections.abc import Sequence
from enum import Enum
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn

from recexp.kernel.linear import product
from recexp.kernel.mlp import tail
from recexp.layer.activation import Activation, BatchNorm, Dice, activation
from recexp.layer.product import Linear


class WeightInit(Enum):
    xavier_uniform = "uniform, with variance 2 / (inputs + outputs) (Glorot & Bengio 2010)"
    xavier_normal = "normal, with the same variance"


def linear(n_in: int, n_out: int, bias: bool = True, init: WeightInit = WeightInit.xavier_uniform) -> Linear:
    """A Linear with a bias of 0."""
    layer = Linear(n_in, n_out, bias)
    draw(layer.weight, init)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def matrices(n: int, n_in: int, n_out: int, init: WeightInit = WeightInit.xavier_uniform) -> nn.Parameter:
    """n matrices (n, n_in, n_out), each initialised by itself."""
    weight = nn.Parameter(torch.empty(n, n_in, n_out))
    for matrix in weight:
        draw(matrix, init)
    return weight


def draw(weight: Tensor, init: WeightInit) -> None:
    """Draws the initial values of a matrix."""
    if init is WeightInit.xavier_uniform:
        nn.init.xavier_uniform_(weight)
    else:
        nn.init.xavier_normal_(weight)


class Options(Protocol):
    """The options of a model's MLP, as its Config holds them."""

    @property
    def hidden_sizes(self) -> Sequence[int]: ...

    @property
    def activation(self) -> Activation: ...

    @property
    def dropout(self) -> float: ...

    @property
    def batch_norm(self) -> bool: ...

    @property
    def weight_init(self) -> WeightInit: ...


class MLP(nn.Module):
    """For each hidden size: Linear, BatchNorm if configured, activation, dropout; then, given n_out, a bare Linear.

    The attribute `n_out` is the size of the output's last axis, whether n_out is given or not.
    """

    def __init__(
        self,
        n_in: int,
        hidden_sizes: Sequence[int],
        activation: Activation,
        dropout: float = 0.0,
        n_out: int | None = None,
        batch_norm: bool = False,
        init: WeightInit = WeightInit.xavier_uniform,
    ):
        super().__init__()
        sizes = [n_in, *hidden_sizes] if n_out is None else [n_in, *hidden_sizes, n_out]
        linears = [linear(n_in, n_out, init=init) for n_in, n_out in pairwise(sizes)]
        self.linears: Sequence[Linear] = nn.ModuleList(linears)  # type: ignore[assignment]
        self.hidden: Sequence[Hidden] = nn.ModuleList(  # type: ignore[assignment]  # sequences in all but name
            Hidden(size, activation, dropout, batch_norm) for size in hidden_sizes
        )
        self.n_out = sizes[-1]

    @classmethod
    def of(cls, options: Options, n_in: int, n_out: int | None = 1) -> "MLP":
        """The MLP that a model's options describe."""
        return cls(
            n_in, options.hidden_sizes, options.activation, options.dropout, n_out, options.batch_norm,
            options.weight_init,
        )  # fmt: skip

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (..., n_in), mask (...) bool: the positions that count in batch statistics -> (..., n_out)."""
        return self.after_first(self.linears[0](x), mask) if len(self.linears) else x

    @property
    def slope(self) -> float | None:
        """The slope below 0 that all activations share; None if one is no relu or comes after a BatchNorm."""
        slopes = {None if hidden.norm is not None else relu_slope(hidden.activation) for hidden in self.hidden}
        return slopes.pop() if len(slopes) == 1 else None

    @property
    def first(self) -> nn.Linear:
        """The first Linear, for callers that compute its product in a cheaper way."""
        return self.linears[0]

    def after_first(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """All that follows the first Linear, given its output x (..., n_hidden)."""
        following = self.linears[1:]
        if self.slope is not None and len(following) == len(self.hidden):
            return self._tail(x, [(linear.weight, linear.bias) for linear in following])
        for i, hidden in enumerate(self.hidden):
            x = hidden(x, mask, following[i] if i < len(following) else None)
        return x

    def followed_by(self, weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
        """weight MLP(x) + bias, of an MLP without n_out: weight (N, n_out), bias (N,), x (..., n_in) -> (..., N)."""
        if self.slope is None:
            return product(self(x), weight, bias)
        inner = [(linear.weight, linear.bias) for linear in self.linears[1:]]
        return self._tail(self.linears[0](x), [*inner, (weight, bias)])

    def _tail(self, x: Tensor, following: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        weights, biases = zip(*following, strict=True)
        assert self.slope is not None
        return tail(x, weights, biases, self.slope, drop_probability(self.hidden[0].dropout))


def relu_slope(module: nn.Module) -> float | None:
    """The slope below 0 of a relu or a leaky relu, None for another activation."""
    match module:
        case nn.ReLU():
            return 0.0
        case nn.LeakyReLU():
            return module.negative_slope
        case _:
            return None


def drop_probability(dropout: nn.Dropout) -> float:
    """The dropout probability, 0 outside training."""
    return dropout.p if dropout.training else 0.0


class Hidden(nn.Module):
    """What follows the Linear of a hidden layer: BatchNorm, activation, dropout."""

    def __init__(self, n_channels: int, kind: Activation, dropout: float, batch_norm: bool):
        super().__init__()
        self.norm = BatchNorm(n_channels) if batch_norm else None
        self.activation = activation(kind, n_channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None, following: nn.Linear | None) -> Tensor:
        """x (..., n_channels) -> the same shape, or the output of the Linear that follows."""
        dice = self.activation if isinstance(self.activation, Dice) else None
        only_dice = self.norm is None and not self.dropout.p
        if dice and only_dice and following is not None and self.training:
            return dice.then(x, mask, following)  # faster than one after the other
        x = x if self.norm is None else self.norm(x, mask)
        x = dice(x, mask) if dice else self.activation(x)
        x = self.dropout(x)
        return x if following is None else following(x)
