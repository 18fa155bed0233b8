"""FiBiNET. Huang et al., RecSys 2019.

B batch, F fields, P pairs of fields, D embedding size, r reduction of the gate
eq. 2 to 4   v_i = a_i e_i,  a = relu(W_2 relu(W_1 z)),  z_i = mean_d(e_id)       the gate: squeeze and excitation
eq. 5 to 7   p_ij = (e_i W) * e_j,  q_ij = (v_i W') * v_j          layer/bilinear.py; W and W' may depend on i or (i, j)
             logit = w0 + sum_i w_i + MLP([p; q])                  without the gate: MLP(p)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recexp.config import ModelConfig
from recexp.dataset.batch import Batch
from recexp.dataset.schema import Schema
from recexp.layer.activation import Activation
from recexp.layer.bilinear import Bilinear, Kind
from recexp.layer.embedding import EmbeddingInit, FeatureEmbedding, Linear
from recexp.layer.mlp import MLP, WeightInit, linear
from recexp.model import Inputs, Needs, Output
from recexp.option import above, at_least, fraction, layer_sizes, size
from recexp.registry import register


@register("fibinet")
class FiBiNET(nn.Module):
    needs = Needs(Inputs.fields, n_fields=2)

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        embedding_dim: int = size()
        embedding_std: float = above(0)
        embedding_init: EmbeddingInit
        linear_std: float = at_least(0)
        embedding_l2: float = at_least(0)
        bilinear: Kind
        gate: bool
        reduction: int = at_least(1)
        hidden_sizes: list[int] = layer_sizes()
        activation: Activation
        batch_norm: bool
        dropout: float = fraction()
        weight_init: WeightInit

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        self.linear = Linear(schema, config.linear_std)
        self.embed = FeatureEmbedding(schema, config.embedding_dim, config.embedding_std, config.embedding_init)
        n_fields, dim, init = self.embed.n_fields, config.embedding_dim, config.weight_init
        self.gate = Gate(n_fields, config.reduction, init) if config.gate else None
        n_products = 2 if config.gate else 1
        bilinears = [Bilinear(config.bilinear, n_fields, dim, init) for _ in range(n_products)]
        self.bilinears: Sequence[Bilinear] = nn.ModuleList(bilinears)  # type: ignore[assignment]
        self.mlp = MLP.of(config, n_products * n_fields * (n_fields - 1) // 2 * dim)

    def forward(self, batch: Batch) -> Output:
        e = self.embed.fields(batch)  # (B, F, D)
        scales = [None] if self.gate is None else [None, self.gate(e)]
        first: nn.Linear = self.mlp.first
        weights = first.weight.chunk(len(scales), 1)  # (H, P D) each
        hidden: Tensor = first.bias
        for bilinear, weight, scale in zip(self.bilinears, weights, scales, strict=True):
            hidden = hidden + bilinear.times(weight, e, scale)  # (B, H)
        return Output(logits=self.linear(batch) + self.mlp.after_first(hidden)[:, 0])  # (B,)


class Gate(nn.Module):
    """Eq. 2 to 4."""

    def __init__(self, n_fields: int, reduction: int, init: WeightInit) -> None:
        super().__init__()
        n_hidden = max(1, n_fields // reduction)
        self.squeeze = linear(n_fields, n_hidden, bias=False, init=init)
        self.excite = linear(n_hidden, n_fields, bias=False, init=init)

    def forward(self, e: Tensor) -> Tensor:
        """e (B, F, D) -> a (B, F)."""
        return torch.relu(self.excite(torch.relu(self.squeeze(e.sum(2) / e.shape[2]))))
