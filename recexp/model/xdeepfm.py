"""xDeepFM. Lian et al., KDD 2018.

B batch, F fields, D embedding size, H_k feature maps of layer k
eq. 6     X^k_h = sum_i sum_j W^k_hij X^(k-1)_i * e_j,  X^0 = [e_1, ..., e_F]    compressed interaction network (CIN)
eq. 7     p = [sum_d X^k_hd for each k and h]
          split: all layers but the last give one half of their maps to p, the other to the next layer
eq. 9     logit = w0 + sum_i w_i + Linear(p) + MLP([e_1, ..., e_F])
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recexp.config import ModelConfig, above, at_least, fraction, layer_sizes, option, size
from recexp.dataset.batch import Batch
from recexp.dataset.schema import Schema
from recexp.layer.activation import Activation
from recexp.layer.chunk import in_chunks
from recexp.layer.embedding import EmbeddingInit, FeatureEmbedding, Linear
from recexp.layer.mlp import MLP, WeightInit, linear
from recexp.model import Inputs, Needs, Output
from recexp.registry import register


@register("xdeepfm")
class XDeepFM(nn.Module):
    needs = Needs(Inputs.fields, n_fields=2)

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        embedding_dim: int = size()
        embedding_std: float = above(0)
        embedding_init: EmbeddingInit
        linear_std: float = at_least(0)
        embedding_l2: float = at_least(0)
        cin_sizes: list[int] = option(
            lambda sizes: sizes and min(sizes) >= 2, "a list of one size or more, each 2 or more"
        )
        split: bool
        hidden_sizes: list[int] = layer_sizes()
        activation: Activation
        batch_norm: bool
        dropout: float = fraction()
        weight_init: WeightInit

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        self.linear = Linear(schema, config.linear_std)
        self.embed = FeatureEmbedding(schema, config.embedding_dim, config.embedding_std, config.embedding_init)
        n_fields, init = self.embed.n_fields, config.weight_init
        self.cin = CIN(n_fields, config.cin_sizes, config.split, init)
        self.output = linear(self.cin.n_out, 1, bias=False, init=init)
        self.deep = MLP.of(config, n_fields * config.embedding_dim)

    def forward(self, batch: Batch) -> Output:
        e = self.embed.fields(batch)  # (B, F, D)
        explicit, implicit = self.output(self.cin(e))[:, 0], self.deep(e.flatten(1))[:, 0]  # (B,) each
        return Output(logits=self.linear(batch) + explicit + implicit)  # (B,), eq. 9


class CIN(nn.Module):
    """Compressed interaction network, eq. 6 and 7."""

    def __init__(self, n_fields: int, sizes: list[int], split: bool, init: WeightInit) -> None:
        super().__init__()
        self.n_passed = [size // 2 if split else size for size in sizes[:-1]]  # maps that a layer gives to the next
        self.split = split
        inputs = [n_fields, *self.n_passed]
        self.layers = nn.ModuleList(
            linear(n * n_fields, size, bias=False, init=init) for n, size in zip(inputs, sizes, strict=True)
        )
        self.n_out = sum(sizes) - (sum(self.n_passed) if split else 0)

    def forward(self, e: Tensor) -> Tensor:
        """e (B, F, D) -> p (B, n_out)."""
        n_fields, dim = e.shape[1:]
        weights: list[Tensor] = [layer.weight for layer in self.layers]  # type: ignore[misc]  # (H, G F)
        per_row = dim * max(min(weight.shape[1], n_fields * len(weight)) for weight in weights)
        return in_chunks(self.compress, per_row, (e,), *weights)

    def compress(self, e: Tensor, *weights: Tensor) -> Tensor:
        """As forward. The samples stand on the last axis, the longest, where products are fastest."""
        x = x0 = e.transpose(0, 1).flatten(1)  # (F, B D)
        sums = []
        for weight, n_passed in zip(weights, [*self.n_passed, 0], strict=True):
            maps = compressed(x, x0, weight)  # (H, B D)
            n_summed = len(maps) - n_passed if self.split else len(maps)
            sums.append(maps[:n_summed].unflatten(1, (e.shape[0], -1)).sum(2))  # (H, B)
            x = maps[len(maps) - n_passed :]
        return torch.cat(sums).t()


def compressed(x: Tensor, x0: Tensor, weight: Tensor) -> Tensor:
    """The double sum of eq. 6, by the smaller tensor on the way: x (G, N), x0 (F, N), weight (H, G F) -> (H, N)."""
    if len(x) <= len(weight):
        return weight @ (x[:, None] * x0).flatten(0, 1)
    weight = weight.unflatten(1, (len(x), len(x0))).transpose(1, 2)  # (H, F, G)
    return ((weight.flatten(0, 1) @ x).unflatten(0, weight.shape[:2]) * x0).sum(1)
