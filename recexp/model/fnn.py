"""Factorisation-machine supported Neural Network. Zhang, Du & Wang, ECIR 2016.

B batch, F fields, D embedding size
stage 1   logit = w0 + sum_i w_i + sum_{i<j} <e_i, e_j>           a factorization machine
stage 2   logit = MLP([w0; w_1, e_1; ...; w_F, e_F])              with w and e of stage 1, tuned or frozen
"""

from dataclasses import dataclass

import torch
from torch import nn

from recexp.config import ModelConfig
from recexp.dataset.batch import Batch
from recexp.dataset.schema import Schema
from recexp.layer.activation import Activation
from recexp.layer.mlp import MLP
from recexp.model import Inputs, Needs, Output, Stage, Train, part_config
from recexp.model.fm import FM
from recexp.option import above, at_least, fraction, layer_sizes, size
from recexp.registry import register


@register("fnn")
class FNN(nn.Module):
    needs = Needs(Inputs.fields, n_fields=2)

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        embedding_dim: int = size()
        embedding_std: float = above(0)
        embedding_l2: float = at_least(0)
        fm_epochs: int = at_least(1)
        freeze: bool
        hidden_sizes: list[int] = layer_sizes()
        activation: Activation
        dropout: float = fraction()

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        self.fm_epochs, self.freeze = config.fm_epochs, config.freeze
        self.fm = FM(part_config(FM.Config, config, linear_std=0.01), schema)
        n_in = 1 + self.fm.embed.n_fields * (1 + config.embedding_dim)
        self.mlp = MLP(n_in, config.hidden_sizes, config.activation, config.dropout, n_out=1)

    def forward(self, batch: Batch) -> Output:
        w0 = self.fm.linear.bias.expand(batch.user.shape[0], 1)  # (B, 1)
        w = self.fm.linear.weights.fields(batch)  # (B, F, 1)
        e = self.fm.embed.fields(batch)  # (B, F, D)
        fields = torch.cat([w, e], 2).flatten(1)  # (B, F (1 + D))
        return Output(logits=self.mlp(torch.cat([w0, fields], 1))[:, 0])  # (B,)

    def stages(self) -> list[Stage]:
        return [
            Train(name="fm", model=self.fm, epochs=self.fm_epochs),
            Train(name="train", model=self, trained=("mlp.",) if self.freeze else ("",)),
        ]
