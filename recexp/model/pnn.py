"""Product-based Neural Network. Qu et al., ICDM 2016; with kernels: Qu et al., TOIS 2018.

B batch, F fields, P pairs of fields, D embedding size, S = sum_i e_i
logit = MLP([e_1, ..., e_F, p])
p = <e_i, e_j> of all pairs i < j          product=inner
p = S S^T = sum_i sum_j e_i e_j^T          product=outer; symmetric, so its upper triangle
p = e_i K_ij e_j of all pairs i < j        product=kernel
"""

from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor, nn

from recexp.config import ModelConfig
from recexp.dataset.batch import Batch
from recexp.dataset.schema import Schema
from recexp.kernel.inner_product import inner_products_linear
from recexp.layer.activation import Activation
from recexp.layer.bilinear import Bilinear, Kind
from recexp.layer.embedding import EmbeddingInit, FeatureEmbedding
from recexp.layer.mlp import MLP, WeightInit
from recexp.model import Inputs, Needs, Output
from recexp.option import above, at_least, fraction, layer_sizes, size
from recexp.registry import register


class Product(Enum):
    inner = "inner products of pairs"
    outer = "the outer product of the sum of all fields with itself"
    kernel = "inner products of pairs, each with a matrix of its own between"


@register("pnn")
class PNN(nn.Module):
    needs = Needs(Inputs.fields, n_fields=2)

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        embedding_dim: int = size()
        embedding_std: float = above(0)
        embedding_init: EmbeddingInit
        embedding_l2: float = at_least(0)
        product: Product
        hidden_sizes: list[int] = layer_sizes()
        activation: Activation
        batch_norm: bool
        dropout: float = fraction()
        weight_init: WeightInit

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        self.product = config.product
        self.embed = FeatureEmbedding(schema, config.embedding_dim, config.embedding_std, config.embedding_init)
        n_fields, dim, init = self.embed.n_fields, config.embedding_dim, config.weight_init
        is_kernel = config.product is Product.kernel
        self.kernel = Bilinear(Kind.interaction, n_fields, dim, init) if is_kernel else None
        n_products = dim * (dim + 1) // 2 if config.product is Product.outer else n_fields * (n_fields - 1) // 2
        self.mlp = MLP.of(config, n_fields * dim + n_products)

    def forward(self, batch: Batch) -> Output:
        e = self.embed.fields(batch)  # (B, F, D)
        if self.product is Product.inner:
            hidden = inner_products_linear(e, self.mlp.first.weight, self.mlp.first.bias)
            return Output(logits=self.mlp.after_first(hidden)[:, 0])  # (B,)
        p = self.outer(e) if self.kernel is None else self.kernel(e).sum(2)
        return Output(logits=self.mlp(torch.cat([e.flatten(1), p], 1))[:, 0])

    def outer(self, e: Tensor) -> Tensor:
        """S S^T: e (B, F, D) -> (B, D (D + 1) / 2)."""
        total = e.sum(1)  # (B, D)
        first, second = torch.triu_indices(e.shape[2], e.shape[2], device=e.device)
        return total.index_select(1, first) * total.index_select(1, second)
