"""xDeepFM. Lian et al., KDD 2018.

B batch, F fields, D embedding size, H_k feature maps of layer k
eq. 6     X^k_h = f(sum_i sum_j W^k_hij X^(k-1)_i * e_j),  X^0 = [e_1, ..., e_F]        compressed interaction network
eq. 7     p = [sum_d X^k_hd for each k and h]
          split: all layers but the last give one half of their maps to p, the other to the next layer
eq. 9     logit = w0 + sum_i w_i + Linear(p) + MLP([e_1, ..., e_F])
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recexp.config import ModelConfig, above, at_least, fraction, layer_sizes, option
from recexp.dataset.batch import Batch
from recexp.dataset.schema import Schema
from recexp.kernel.linear import product
from recexp.layer.activation import Activation, activation
from recexp.layer.chunk import in_chunks
from recexp.layer.embedding import FeatureEmbedding, Linear
from recexp.layer.mlp import MLP, WeightInit, linear
from recexp.model import Inputs, Needs, Output
from recexp.registry import register


@register("xdeepfm")
class XDeepFM(nn.Module):
    needs = Needs(Inputs.fields, n_fields=2)

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        embedding_dim: int = at_least(1)
        embedding_std: float = above(0)
        linear_std: float = at_least(0)
        embedding_l2: float = at_least(0)
        cin_sizes: list[int] = option(
            lambda sizes: sizes and min(sizes) >= 2, "a list of one size or more, each 2 or more"
        )
        cin_activation: Activation
        split: bool
        hidden_sizes: list[int] = layer_sizes()
        activation: Activation
        batch_norm: bool
        dropout: float = fraction()
        weight_init: WeightInit

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        self.linear = Linear(schema, config.linear_std)
        self.embed = FeatureEmbedding(schema, config.embedding_dim, config.embedding_std)
        n_fields, init = self.embed.n_fields, config.weight_init
        self.cin = CIN(n_fields, config.cin_sizes, config.cin_activation, config.split, init)
        self.output = linear(self.cin.n_out, 1, bias=False, init=init)
        n_in, sizes = n_fields * config.embedding_dim, config.hidden_sizes
        self.deep = MLP(n_in, sizes, config.activation, config.dropout, 1, config.batch_norm, init)

    def forward(self, batch: Batch) -> Output:
        e = self.embed.fields(batch)  # (B, F, D)
        explicit, implicit = self.output(self.cin(e))[:, 0], self.deep(e.flatten(1))[:, 0]  # (B,) each
        return Output(logits=self.linear(batch) + explicit + implicit)  # (B,), eq. 9


class CIN(nn.Module):
    """Compressed interaction network, eq. 6 and 7."""

    def __init__(self, n_fields: int, sizes: list[int], kind: Activation, split: bool, init: WeightInit) -> None:
        super().__init__()
        # Of each layer but the last, so many maps go to p; with split, the others go to the next layer instead.
        self.n_summed = [size - size // 2 if split else size for size in sizes[:-1]] + sizes[-1:]
        passed = [size // 2 if split else size for size in sizes[:-1]]
        self.split = split
        inputs = [n_fields, *passed]
        self.compress = nn.ModuleList(Compress(n, n_fields, size, init) for n, size in zip(inputs, sizes, strict=True))
        self.activations = nn.ModuleList(activation(kind, size) for size in sizes)
        self.n_out = sum(self.n_summed)

    def forward(self, e: Tensor) -> Tensor:
        """e (B, F, D) -> p (B, n_out)."""
        x = x0 = e.transpose(1, 2)  # (B, D, F)
        sums = []
        for compress, act, n_summed in zip(self.compress, self.activations, self.n_summed, strict=True):
            maps = act(compress(x, x0))  # (B, D, H)
            sums.append(maps[:, :, :n_summed].sum(1))
            x = maps[:, :, n_summed:] if self.split else maps
        return torch.cat(sums, 1)


class Compress(nn.Module):
    """The double sum of eq. 6."""

    def __init__(self, n_maps: int, n_fields: int, n_out: int, init: WeightInit) -> None:
        super().__init__()
        self.linear = linear(n_maps * n_fields, n_out, bias=False, init=init)

    def forward(self, x: Tensor, x0: Tensor) -> Tensor:
        """X^(k-1) (B, D, G), X^0 (B, D, F) -> (B, D, H)."""
        return in_chunks(products, x.shape[1] * self.linear.in_features, (x, x0), self.linear.weight)


def products(x: Tensor, x0: Tensor, weight: Tensor) -> Tensor:
    """As Compress, of a weight (H, G F)."""
    return product((x[:, :, :, None] * x0[:, :, None]).flatten(2), weight)
