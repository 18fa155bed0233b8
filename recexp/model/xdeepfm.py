"""xDeepFM. Lian et al., KDD 2018.

B batch, F fields, D embedding size, H_k feature maps of layer k
eq. 6     X^k_h = sum_i sum_j W^k_hij X^(k-1)_i * e_j,  X^0 = [e_1, ..., e_F]    compressed interaction network (CIN)
eq. 7     p = [sum_d X^k_hd for each k and h]
          split: all layers but the last give one half of their maps to p, the other to the next layer
eq. 9     logit = w0 + sum_i w_i + Linear(p) + MLP([e_1, ..., e_F])
"""

from dataclasses import dataclass

from torch import Tensor, nn

from recexp.config import ModelConfig
from recexp.dataset.batch import Batch
from recexp.dataset.schema import Schema
from recexp.kernel.cin import Part, interactions, reference
from recexp.layer.activation import Activation
from recexp.layer.chunk import in_chunks
from recexp.layer.embedding import EmbeddingInit, FeatureEmbedding, Linear
from recexp.layer.mlp import MLP, WeightInit, linear
from recexp.model import Inputs, Needs, Output
from recexp.option import above, at_least, fraction, layer_sizes, option, size
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
        parts = [part for layer in zip(weights, [*self.n_passed, 0], strict=True) for part in self.parts(*layer)]
        per_row = dim * max(min(part.weight.shape[1], n_fields * len(part.weight)) for part in parts)
        return interactions(e, parts, lambda: in_chunks(lambda e: reference(e, parts), per_row, (e,)))

    def parts(self, weight: Tensor, n_passed: int) -> list[Part]:
        """The maps of a layer by where they go."""
        if not n_passed:
            return [Part(weight, kept=False, summed=True)]
        if not self.split:
            return [Part(weight, kept=True, summed=True)]
        n_summed = len(weight) - n_passed
        return [Part(weight[:n_summed], kept=False, summed=True), Part(weight[n_summed:], kept=True, summed=False)]
