"""FinalMLP. Mao et al., AAAI 2023.

B batch, N = F D size of all fields side by side, e = [e_1, ..., e_F], H heads
g_k = 2 sigmoid(MLP'_k(fields chosen for k)),  k = 1, 2     embeddings of its own
o_k = MLP_k(g_k * e)                                        without gates: MLP_k(e)
logit = b + w_1 o_1 + w_2 o_2 + sum_h o_1h W_h o_2h,  o_kh one of H slices of o_k
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from recexp.config import ModelConfig
from recexp.dataset.batch import Batch
from recexp.dataset.schema import Schema, Side
from recexp.kernel.gated_linear import gated_linear
from recexp.layer.activation import Activation
from recexp.layer.embedding import EmbeddingInit, FeatureEmbedding
from recexp.layer.mlp import MLP, WeightInit, draw, linear
from recexp.model import Inputs, Needs, Output
from recexp.option import above, at_least, fraction, layer_sizes, option, require, size
from recexp.registry import register

FIELDS = "a list of fields, or null"


@register("finalmlp")
class FinalMLP(nn.Module):
    needs = Needs(Inputs.fields, n_fields=2)

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        embedding_dim: int = size()
        embedding_std: float = above(0)
        embedding_init: EmbeddingInit
        embedding_l2: float = at_least(0)
        gates: bool
        gate_fields: list[str] | None = option(lambda names: names, FIELDS)
        second_gate_fields: list[str] | None = option(lambda names: names, FIELDS)
        gate_hidden_sizes: list[int] = layer_sizes()
        hidden_sizes: list[int] = layer_sizes()
        second_hidden_sizes: list[int] = layer_sizes()
        activation: Activation
        batch_norm: bool
        dropout: float = fraction()
        n_heads: int = size()
        weight_init: WeightInit

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        self.embed = FeatureEmbedding(schema, config.embedding_dim, config.embedding_std, config.embedding_init)
        n_in, init = self.embed.n_fields * config.embedding_dim, config.weight_init
        chosen = gate_fields(config, schema) if config.gates else ()
        self.gates = nn.ModuleList(Gate(fields, n_in, config) for fields in chosen)
        self.first, self.second = (
            MLP(n_in, sizes, config.activation, config.dropout, None, config.batch_norm, init)
            for sizes in (config.hidden_sizes, config.second_hidden_sizes)
        )
        n_heads, n_first, n_second = config.n_heads, self.first.n_out, self.second.n_out
        are_whole = n_first % n_heads == n_second % n_heads == 0
        require(are_whole, "model.n_heads", n_heads, f"a divisor of both MLPs' last sizes {n_first} and {n_second}")
        self.weights = linear(n_first + n_second, 1, init=init)  # w_1, w_2, b
        self.fusion = nn.Parameter(torch.empty(n_heads, n_first // n_heads, n_second // n_heads))
        draw(self.fusion.view(1, -1), init)  # as one layer over all products

    def forward(self, batch: Batch) -> Output:
        e = self.embed.fields(batch).flatten(1)  # (B, N)
        first, second = self.outputs(e, batch)
        return Output(logits=self.weights(torch.cat([first, second], 1))[:, 0] + self.fused(first, second))

    def outputs(self, e: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """o_1 and o_2 of e (B, N)."""
        if not self.gates:
            return self.first(e), self.second(e)
        linears = [
            (mlp.first.weight, mlp.first.bias) if len(mlp.linears) else None for mlp in (self.first, self.second)
        ]
        first, second = gated_linear(e, [gate(batch) for gate in self.gates], linears)
        return self.first.after_first(first), self.second.after_first(second)

    def fused(self, first: Tensor, second: Tensor) -> Tensor:
        """The sum over the heads: o_1 (B, n), o_2 (B, m) -> (B,)."""
        first, second = (x.unflatten(1, (len(self.fusion), -1)) for x in (first, second))  # (B, H, .)
        left = torch.bmm(first.transpose(0, 1), self.fusion).transpose(0, 1)  # (B, H, m / H)
        return (left * second).sum((1, 2))


def gate_fields(config: FinalMLP.Config, schema: Schema) -> tuple[Schema, Schema]:
    """The fields that each gate reads: those named, or those of the user and of the item."""
    first, second = replace(schema, item=Side(), context=Side()), replace(schema, user=Side(), context=Side())
    if config.gate_fields is not None:
        first = schema.select(config.gate_fields, "model.gate_fields")
    if config.second_gate_fields is not None:
        second = schema.select(config.second_gate_fields, "model.second_gate_fields")
    return first, second


class Gate(nn.Module):
    """g_k. Without fields it reads a learnt vector, the same for all rows."""

    def __init__(self, fields: Schema, n_out: int, config: FinalMLP.Config) -> None:
        super().__init__()
        dim, std = config.embedding_dim, config.embedding_std
        embed = FeatureEmbedding(fields, dim, std, config.embedding_init)
        self.embed = embed if embed.n_fields else None
        self.vector = None if embed.n_fields else nn.Parameter(std * torch.randn(1, dim))
        n_in, sizes = max(1, embed.n_fields) * dim, config.gate_hidden_sizes
        self.mlp = MLP(n_in, sizes, Activation.relu, n_out=n_out, init=config.weight_init)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """sigmoid(MLP') (n, N) of unique rows, and the index (B,) that expands them."""
        if self.embed is None:
            assert self.vector is not None
            return torch.sigmoid(self.mlp(self.vector)), self.vector.new_zeros(len(batch), dtype=torch.long)
        fields, index = self.embed.unique_fields(batch)
        return torch.sigmoid(self.mlp(fields.flatten(1))), index
