"""Factors of alternating least squares, then an MLP on them.

B batch, D embedding size; x_u, y_t factors of user and target
stage 1  als, without biases: the second stage sees only the factors; the factors of users, and those of items, are
         scaled to a root mean square of 0.1
stage 2  dot      logit = <MLP_u(x_u), MLP_i(y_t)> + b,  the last layer of each linear and of size D
         concat   logit = MLP([x_u; y_t])
"""

import math
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor, nn

from recexp.config import ModelConfig
from recexp.dataset.batch import Batch
from recexp.dataset.schema import Schema
from recexp.layer.activation import Activation
from recexp.layer.mlp import MLP
from recexp.model import Fit, Inputs, Needs, Output, Stage, Train, part_config
from recexp.model.als import ALS, Feedback
from recexp.option import Labels, above, at_least, fraction, layer_sizes, needs_labels, read_if, size
from recexp.registry import register

SIZE = 0.1  # root mean square of the scaled factors, as in other models' initial embeddings


class Combine(Enum):
    dot = "<MLP_u(x_u), MLP_i(y_t)>"
    concat = "MLP([x_u; y_t])"


@register("als_mlp")
class ALSMLP(nn.Module):
    needs = Needs(Inputs.ids, features=False)

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        embedding_dim: int = size()
        feedback: Feedback = needs_labels(Labels.both, when=Feedback.explicit)
        iterations: int = at_least(1)
        regularisation: float = above(0)
        alpha: float = read_if("model.feedback", "implicit", allowed=above(0))
        combine: Combine
        freeze: bool
        embedding_l2: float = at_least(0)
        hidden_sizes: list[int] = layer_sizes()
        activation: Activation
        dropout: float = fraction()

    scale: Tensor

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        self.freeze = config.freeze
        # Infinite smoothing keeps biases at 0.
        self.als = ALS(part_config(ALS.Config, config, smoothing=math.inf), schema)
        self.register_buffer("scale", torch.ones(2, 1))  # of users and items
        self.head = HEADS[config.combine](config.embedding_dim, config.hidden_sizes, config.activation, config.dropout)

    def forward(self, batch: Batch) -> Output:
        x, y = (self.als.embed.fields(batch) * self.scale).unbind(1)  # (B, D) each
        return Output(logits=self.head(x, y))

    def stages(self) -> list[Stage]:
        return [
            Fit(name="als", model=self.als, fit=self.fit),
            Train(name="train", model=self, trained=("head.",) if self.freeze else ("",)),
        ]

    @torch.no_grad()
    def fit(self, training: Batch) -> None:
        self.als.fit(training)
        for n, side in enumerate(self.als.embed.sides.values()):
            factors = side.table.weight
            fitted = factors[factors.any(1)]  # rows without observations are 0, all rows if labels do not vary
            if len(fitted):
                self.scale[n] = SIZE / fitted.square().mean().sqrt()


class Dot(nn.Module):
    """<MLP_u(x), MLP_i(y)> + b."""

    def __init__(self, dim: int, hidden_sizes: list[int], activation: Activation, dropout: float):
        super().__init__()
        self.user = MLP(dim, hidden_sizes, activation, dropout, n_out=dim)
        self.item = MLP(dim, hidden_sizes, activation, dropout, n_out=dim)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (self.user(x) * self.item(y)).sum(1) + self.bias  # (B,)


class Concat(nn.Module):
    """MLP([x; y])."""

    def __init__(self, dim: int, hidden_sizes: list[int], activation: Activation, dropout: float):
        super().__init__()
        self.mlp = MLP(2 * dim, hidden_sizes, activation, dropout, n_out=1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.mlp(torch.cat([x, y], 1))[:, 0]  # (B,)


HEADS: dict[Combine, type[Dot] | type[Concat]] = {Combine.dot: Dot, Combine.concat: Concat}
