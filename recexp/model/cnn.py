"""Convolutions over the field vectors. Along the fields: CCPM, Liu et al., CIKM 2015.

B batch, F fields, D embedding size, C channels of a layer, k kernel size; e is 0 outside its axis
            logit = MLP(the last layer's x)
axis=dim    x_cd = f(b_c + sum_{i,j} W_cij e_i,d+j)         fields are channels; that d + 1 follows d means nothing
axis=field  y_cid = b_c + sum_j W_cj e_{i-j},d              i = 1 ... F + k - 1; kernels (k, 1), the same for all d
            x_cd = f(the p largest of y_cd, in their order) flexible p-max pooling
            p_l = (1 - (l/n)^(n-l)) F, p_n = 3              of layer l of n; rounded up, F at the most
The paper's kernels have weights of their own for each d; shared ones are what its implementations have.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

from torch import Tensor, nn

from recexp.config import ModelConfig, above, at_least, fraction, layer_sizes, require
from recexp.dataset.batch import Batch
from recexp.dataset.schema import Schema
from recexp.layer.activation import Activation, activation
from recexp.layer.embedding import FeatureEmbedding, require_fields
from recexp.layer.loss import bce
from recexp.layer.mlp import MLP
from recexp.model import Output
from recexp.registry import register


class Axis(Enum):
    dim = "along the numbers of a vector, fields as channels"
    field = "along the fields, with p-max pooling (CCPM)"


@register("cnn")
class CNN(nn.Module):
    reads_history = False

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        embedding_dim: int = at_least(1)
        embedding_std: float = above(0)
        embedding_l2: float = at_least(0)
        axis: Axis
        channels: list[int]
        kernel_size: int
        hidden_sizes: list[int] = layer_sizes()
        activation: Activation
        dropout: float = fraction()

        def __post_init__(self) -> None:
            super().__post_init__()
            sizes = bool(self.channels) and min(self.channels) >= 1
            require(sizes, "model.channels", self.channels, "a list of one size or more, each 1 or more")
            require(self.kernel_size >= 1, "model.kernel_size", self.kernel_size, "1 or more")

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        require_fields(schema, config.name)
        self.embed = FeatureEmbedding(schema, config.embedding_dim, config.embedding_std)
        n_fields = self.embed.n_fields
        along = AlongDim if config.axis is Axis.dim else AlongFields
        self.convolve = along(n_fields, config.embedding_dim, config.channels, config.kernel_size, config.activation)
        self.mlp = MLP(self.convolve.n_out, config.hidden_sizes, config.activation, config.dropout, n_out=1)

    def forward(self, batch: Batch) -> Output:
        e = self.embed.fields(batch)  # (B, F, D)
        return Output(logits=self.mlp(self.convolve(e))[:, 0])  # (B,)

    def losses(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        return {"target": bce(output.logits, batch.label)}


class AlongDim(nn.Module):
    """e (B, F, D) -> (B, C D). Zeros on both sides, of an even kernel one more on the right, keep the length D."""

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
    """e (B, F, D) -> (B, D C p). Zeros on both sides: every position of a kernel that touches a field counts."""

    def __init__(self, n_fields: int, dim: int, channels: Sequence[int], kernel_size: int, kind: Activation):
        super().__init__()
        self.padding = kernel_size - 1, kernel_size - 1
        self.convolutions = convolutions([1, *channels], kernel_size)
        self.activations = nn.ModuleList(activation(kind, size) for size in channels)
        self.kept = kept(n_fields, len(channels), kernel_size)
        self.n_out = dim * channels[-1] * self.kept[-1]

    def forward(self, e: Tensor) -> Tensor:
        x = e.transpose(1, 2).reshape(-1, 1, e.shape[1])  # (B D, 1, F): d shares kernels as samples do
        for convolution, act, p in zip(self.convolutions, self.activations, self.kept, strict=True):
            x = p_max(convolution(nn.functional.pad(x, self.padding)), p)  # (B D, C, p)
            x = channelwise(act, x)
        return x.reshape(len(e), self.n_out)


def convolutions(sizes: Sequence[int], kernel_size: int) -> nn.ModuleList:
    """Conv1d layers from each size to the next, drawn Xavier-uniformly, biases 0."""
    layers = [nn.Conv1d(n_in, n_out, kernel_size) for n_in, n_out in pairwise(sizes)]
    for layer in layers:
        nn.init.xavier_uniform_(layer.weight)
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)
    return nn.ModuleList(layers)


def channelwise(act: nn.Module, x: Tensor) -> Tensor:
    """An activation of x (B, C, N); those that learn something for each channel look for it on the last axis."""
    return act(x.transpose(1, 2)).transpose(1, 2)


def kept(n_fields: int, n_layers: int, kernel_size: int) -> list[int]:
    """p of each layer. In integers: as floats, (1 - 2/3) 9 is above 3 and would be rounded up to 4."""
    n = n_layers
    counts = [n_fields - n_fields * layer ** (n - layer) // n ** (n - layer) for layer in range(1, n)]
    counts.append(min(3, n_fields))
    found, length = [], n_fields
    for count in counts:
        length = min(count, length + kernel_size - 1)  # a narrow kernel may have left fewer
        found.append(length)
    return found


def p_max(x: Tensor, p: int) -> Tensor:
    """The p largest along the last axis in their order, of equal ones the first: x (..., N) -> (..., p)."""
    largest = x.argsort(dim=-1, descending=True, stable=True)[..., :p]
    return x.gather(-1, largest.sort(-1).values)
