"""Convolutions over the field vectors. Along the fields: CCPM, Liu et al., CIKM 2015.

B batch, F fields, D embedding size, C channels of a layer, k kernel size; e is 0 outside its axis
            logit = MLP(the last layer's x)
axis=dim    x_cd = f(b_c + sum_{i,j} W_cij e_i,d+j)         fields are channels; the order of d means nothing
axis=field  y_cid = b_c + sum_j W_cj e_{i-j},d              i = 1 ... F + k - 1; kernels (k, 1), the same for all d
            x_cd = f(the p largest of y_cd, in their order) flexible p-max pooling
            p_l = (1 - (l/n)^(n-l)) F, p_n = 3              of layer l of n; rounded up, at most F
The paper's kernels have different weights for each d; its implementations share them, as here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

from torch import Tensor, nn

from recexp.config import ModelConfig
from recexp.dataset.batch import Batch
from recexp.dataset.schema import Schema
from recexp.layer.activation import Activation, activation
from recexp.layer.embedding import FeatureEmbedding
from recexp.layer.mlp import MLP
from recexp.model import Inputs, Needs, Output
from recexp.option import above, at_least, fraction, layer_sizes, option, size
from recexp.registry import register

CHANNELS = "a list of one size or more, each 1 or more"


class Axis(Enum):
    dim = "along the numbers of a vector, fields as channels"
    field = "along the fields, with p-max pooling (CCPM)"


@register("cnn")
class CNN(nn.Module):
    needs = Needs(Inputs.fields, n_fields=2)

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        embedding_dim: int = size()
        embedding_std: float = above(0)
        embedding_l2: float = at_least(0)
        axis: Axis
        channels: list[int] = option(lambda sizes: sizes and min(sizes) >= 1, CHANNELS)
        kernel_size: int = size()
        hidden_sizes: list[int] = layer_sizes()
        activation: Activation
        dropout: float = fraction()

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        self.embed = FeatureEmbedding(schema, config.embedding_dim, config.embedding_std)
        along = AlongDim if config.axis is Axis.dim else AlongFields
        shape = self.embed.n_fields, config.embedding_dim
        self.convolve = along(*shape, config.channels, config.kernel_size, config.activation)
        self.mlp = MLP(self.convolve.n_out, config.hidden_sizes, config.activation, config.dropout, n_out=1)

    def forward(self, batch: Batch) -> Output:
        e = self.embed.fields(batch)  # (B, F, D)
        return Output(logits=self.mlp(self.convolve(e))[:, 0])  # (B,)


class AlongDim(nn.Module):
    """e (B, F, D) -> (B, C D). Zeros on both sides, one more on the right for an even kernel, keep the length D."""

    def __init__(self, n_fields: int, dim: int, channels: Sequence[int], kernel_size: int, kind: Activation):
        super().__init__()
        self.padding = (kernel_size - 1) // 2, kernel_size // 2
        self.convolutions = convolutions([n_fields, *channels], kernel_size)
        self.activations = nn.ModuleList(activation(kind, size) for size in channels)
        self.n_out = channels[-1] * dim

    def forward(self, e: Tensor) -> Tensor:
        x = e  # (B, F, D), fields as channels
        for convolution, act in zip(self.convolutions, self.activations, strict=True):
            x = convolution(nn.functional.pad(x, self.padding))  # (B, C, D)
            x = channelwise(act, x)
        return x.flatten(1)


class AlongFields(nn.Module):
    """e (B, F, D) -> (B, D C p). Zeros on both sides keep every position of a kernel that touches a field."""

    def __init__(self, n_fields: int, dim: int, channels: Sequence[int], kernel_size: int, kind: Activation):
        super().__init__()
        self.padding = kernel_size - 1, kernel_size - 1
        self.convolutions = convolutions([1, *channels], kernel_size)
        self.activations = nn.ModuleList(activation(kind, size) for size in channels)
        self.pool_sizes = pool_sizes(n_fields, len(channels), kernel_size)
        self.n_out = dim * channels[-1] * self.pool_sizes[-1]

    def forward(self, e: Tensor) -> Tensor:
        x = e.transpose(1, 2).reshape(-1, 1, e.shape[1])  # (B D, 1, F): all d share the kernels
        for convolution, act, p in zip(self.convolutions, self.activations, self.pool_sizes, strict=True):
            x = p_max(convolution(nn.functional.pad(x, self.padding)), p)  # (B D, C, p)
            x = channelwise(act, x)
        return x.reshape(e.shape[0], self.n_out)


def convolutions(sizes: Sequence[int], kernel_size: int) -> nn.ModuleList:
    """Conv1d layers from each size to the next, with Xavier-uniform weights and biases of 0."""
    layers = [nn.Conv1d(n_in, n_out, kernel_size) for n_in, n_out in pairwise(sizes)]
    for layer in layers:
        nn.init.xavier_uniform_(layer.weight)
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)
    return nn.ModuleList(layers)


def channelwise(act: nn.Module, x: Tensor) -> Tensor:
    """An activation of x (B, C, N): activations with parameters per channel expect channels on the last axis."""
    return act(x.transpose(1, 2)).transpose(1, 2)


def pool_sizes(n_fields: int, n_layers: int, kernel_size: int) -> list[int]:
    """p of each layer. Computed in integers: in floats, (1 - 2/3) 9 is above 3 and would be rounded up to 4."""
    n = n_layers
    counts = [n_fields - n_fields * layer ** (n - layer) // n ** (n - layer) for layer in range(1, n)]
    counts.append(min(3, n_fields))
    lengths = [n_fields]
    for count in counts:
        lengths.append(min(count, lengths[-1] + kernel_size - 1))  # a narrow kernel may leave fewer
    return lengths[1:]


def p_max(x: Tensor, p: int) -> Tensor:
    """The p largest along the last axis in their order, the first if equal: x (..., N) -> (..., p)."""
    largest = x.argsort(dim=-1, descending=True, stable=True)[..., :p]
    return x.gather(-1, largest.sort(-1).values)
