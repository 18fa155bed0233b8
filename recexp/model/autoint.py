"""AutoInt. Song et al., CIKM 2019.

B batch, F fields, D embedding size, A attention size, h heads of size d = A / h
eq. 5, 6   head = softmax(<Q e_i, K e_j>) V e     over the fields j; scale divides the scores by sqrt(d)
eq. 7, 8   e_i <- relu([head_1, ..., head_h]_i + R e_i)              R the identity where sizes are equal
eq. 9      logit = Linear([e_1, ..., e_F])        plus MLP([e_1, ..., e_F]) of the first e (there: AutoInt+)
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recexp.config import ModelConfig
from recexp.dataset.batch import Batch
from recexp.dataset.schema import Schema
from recexp.kernel.field_attention import attend_fields
from recexp.layer.activation import Activation
from recexp.layer.embedding import EmbeddingInit, FeatureEmbedding
from recexp.layer.mlp import MLP, WeightInit, drop_probability, linear
from recexp.model import Inputs, Needs, Output
from recexp.option import above, at_least, between, fraction, layer_sizes, read_if, require, size
from recexp.registry import register


@register("autoint")
class AutoInt(nn.Module):
    needs = Needs(Inputs.fields, n_fields=2)

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        embedding_dim: int = size()
        embedding_std: float = above(0)
        embedding_init: EmbeddingInit
        embedding_l2: float = at_least(0)
        n_layers: int = between(1, 256, "each takes its own memory and time")
        n_heads: int = size()
        attention_size: int = size()
        scale: bool
        layer_norm: bool
        attention_dropout: float = fraction()
        hidden_sizes: list[int] = layer_sizes()
        activation: Activation = read_if("model.hidden_sizes")
        batch_norm: bool = read_if("model.hidden_sizes")
        dropout: float = read_if("model.hidden_sizes", allowed=fraction())
        weight_init: WeightInit

        def __post_init__(self) -> None:
            super().__post_init__()
            is_whole = self.attention_size % self.n_heads == 0
            require(is_whole, "model.attention_size", self.attention_size, f"a multiple of n_heads = {self.n_heads}")

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        self.embed = FeatureEmbedding(schema, config.embedding_dim, config.embedding_std, config.embedding_init)
        n_fields, dim, init = self.embed.n_fields, config.embedding_dim, config.weight_init
        sizes = [dim] + [config.attention_size] * (config.n_layers - 1)
        self.layers = nn.ModuleList(Interacting(size, config) for size in sizes)
        self.output = linear(n_fields * config.attention_size, 1, init=init)
        self.deep = MLP.of(config, n_fields * dim) if config.hidden_sizes else None

    def forward(self, batch: Batch) -> Output:
        x = e = self.embed.fields(batch)  # (B, F, D)
        for layer in self.layers:
            x = layer(x)  # (B, F, A)
        logits = self.output(x.flatten(1))[:, 0]  # (B,), eq. 9
        return Output(logits=logits if self.deep is None else logits + self.deep(e.flatten(1))[:, 0])


class Interacting(nn.Module):
    """Eq. 5 to 8."""

    def __init__(self, n_in: int, config: AutoInt.Config) -> None:
        super().__init__()
        size, init = config.attention_size, config.weight_init
        self.query, self.key, self.value = (linear(n_in, size, bias=False, init=init) for _ in range(3))
        self.residual = nn.Identity() if n_in == size else linear(n_in, size, bias=False, init=init)
        self.norm = nn.LayerNorm(size) if config.layer_norm else nn.Identity()
        self.dropout = nn.Dropout(config.attention_dropout)  # of the weights
        self.n_heads = config.n_heads
        self.scale = (size / config.n_heads) ** -0.5 if config.scale else 1.0

    def forward(self, x: Tensor) -> Tensor:
        """x (B, F, N) -> (B, F, A)."""
        weights = self.query.weight, self.key.weight, self.value.weight
        residual = None if isinstance(self.residual, nn.Identity) else self.residual.weight
        is_last = isinstance(self.norm, nn.Identity)
        x = attend_fields(x, weights, residual, self.n_heads, self.scale, is_last, drop_probability(self.dropout))
        return x if is_last else torch.relu(self.norm(x))
