"""Deep & Cross Network v2. Wang et al., WWW 2021.

B batch, N = F D size of all fields side by side, r rank, K experts
x_0 = [e_1, ..., e_F]
x_l+1 = x_0 * (W x_l + b) + x_l                                     eq. 1, cross=full
x_l+1 = sum_k G_k(x_l) x_0 * (U_k g(C_k g(V_k^T x_l)) + b) + x_l    cross=mixture; g tanh, G a softmax over k
logit = Linear(MLP(x_L))                                            structure=stacked
logit = Linear([x_L; MLP(x_0)])                                     structure=parallel
"""

from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor, nn

from recexp.config import ModelConfig
from recexp.dataset.batch import Batch
from recexp.dataset.schema import Schema
from recexp.kernel.cross import crosses
from recexp.kernel.linear import product
from recexp.layer.activation import Activation
from recexp.layer.embedding import EmbeddingInit, FeatureEmbedding
from recexp.layer.mlp import MLP, WeightInit, linear, matrices
from recexp.model import Inputs, Needs, Output
from recexp.option import above, at_least, between, fraction, layer_sizes, read_if, size
from recexp.registry import register


class Cross(Enum):
    full = "by a matrix"
    mixture = "by experts of low rank, weighted by a gate"


class Structure(Enum):
    stacked = "crosses, then an MLP on them"
    parallel = "crosses beside an MLP"


@register("dcnv2")
class DCNv2(nn.Module):
    needs = Needs(Inputs.fields, n_fields=2)

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        embedding_dim: int = size()
        embedding_std: float = above(0)
        embedding_init: EmbeddingInit
        embedding_l2: float = at_least(0)
        structure: Structure
        cross: Cross
        n_layers: int = between(1, 256, "each takes its own memory and time")
        rank: int = read_if("model.cross", "mixture", allowed=size())
        n_experts: int = read_if("model.cross", "mixture", allowed=size())
        hidden_sizes: list[int] = layer_sizes()
        activation: Activation
        batch_norm: bool
        dropout: float = fraction()
        weight_init: WeightInit

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        self.embed = FeatureEmbedding(schema, config.embedding_dim, config.embedding_std, config.embedding_init)
        dim, init = self.embed.n_fields * config.embedding_dim, config.weight_init
        if config.cross is Cross.full:
            self.crosses: nn.Module = FullCrosses(config.n_layers, dim, init)
        else:
            self.crosses = MixtureCrosses(config.n_layers, dim, config.rank, config.n_experts, init)
        self.deep = MLP.of(config, dim, n_out=None)
        self.parallel = config.structure is Structure.parallel
        self.output = linear(dim + self.deep.n_out if self.parallel else self.deep.n_out, 1, init=init)

    def forward(self, batch: Batch) -> Output:
        x0, (weight, bias) = self.embed.fields(batch).flatten(1), (self.output.weight, self.output.bias)  # (B, N)
        if not self.parallel:
            return Output(logits=self.deep.followed_by(weight, bias, self.crosses(x0))[:, 0])  # (B,)
        last, of_deep = weight.split([x0.shape[1], self.deep.n_out], 1)  # a sum of two products needs no copies
        return Output(logits=(self.crosses(x0, last) + self.deep.followed_by(of_deep, bias, x0))[:, 0])


class FullCrosses(nn.ModuleList):
    """Eq. 1, cross after cross."""

    def __init__(self, n_layers: int, dim: int, init: WeightInit) -> None:
        super().__init__(nn.ModuleDict({"linear": linear(dim, dim, init=init)}) for _ in range(n_layers))

    def forward(self, x0: Tensor, last: Tensor | None = None) -> Tensor:
        """x_L (B, N), or x_L last^T (B, 1): x_0 (B, N), last (1, N)."""
        weights, biases = ([cross.get_parameter(f"linear.{kind}") for cross in self] for kind in ("weight", "bias"))
        return crosses(x0, weights, biases, last)


class MixtureCrosses(nn.ModuleList):
    """The mixture, cross after cross."""

    def __init__(self, n_layers: int, dim: int, rank: int, n_experts: int, init: WeightInit) -> None:
        super().__init__(MixtureCross(dim, rank, n_experts, init) for _ in range(n_layers))

    def forward(self, x0: Tensor, last: Tensor | None = None) -> Tensor:
        """x_L (B, N), or x_L last^T (B, 1): x_0 (B, N), last (1, N)."""
        x = x0
        for cross in self:
            x = cross(x0, x)
        return x if last is None else product(x, last)


class MixtureCross(nn.Module):
    """The mixture. The gates sum to 1, so b stands outside of the sum, which is then one product for all experts."""

    def __init__(self, dim: int, rank: int, n_experts: int, init: WeightInit) -> None:
        super().__init__()
        self.gate = linear(dim, n_experts, bias=False, init=init)
        self.down = matrices(n_experts, rank, dim, init)  # V^T
        self.inner = matrices(n_experts, rank, rank, init)  # C^T
        self.up = matrices(n_experts, rank, dim, init)  # U^T
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x0: Tensor, x: Tensor) -> Tensor:
        """x_0, x (B, N) -> (B, N)."""
        low = torch.tanh(product(x, self.down.flatten(0, 1))).unflatten(1, self.down.shape[:2])  # (B, K, r)
        low = torch.tanh(torch.einsum("bkr,krs->bks", low, self.inner))
        gates = self.gate(x).float().softmax(1)  # (B, K)
        mixed = (gates[:, :, None] * low).flatten(1)  # (B, K r)
        return torch.addcmul(x, x0, torch.addmm(self.bias, mixed, self.up.flatten(0, 1)))
