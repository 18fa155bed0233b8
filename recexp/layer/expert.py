"""Mixtures of experts.

B batch, K experts, n size of the input, H size of an expert's output
    sum_k g(x)_k E_k(x),  g(x) = softmax(G x)
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recexp.layer.activation import Activation
from recexp.layer.mlp import MLP


class Experts(nn.Module):
    """K MLPs of one input."""

    def __init__(
        self, n_experts: int, n_in: int, hidden_sizes: Sequence[int], activation: Activation, dropout: float
    ) -> None:
        super().__init__()
        self.of = nn.ModuleList(MLP(n_in, hidden_sizes, activation, dropout) for _ in range(n_experts))
        self.n_out = hidden_sizes[-1] if hidden_sizes else n_in

    def forward(self, x: Tensor) -> Tensor:
        """x (B, n) -> (B, K, H)."""
        return torch.stack([expert(x) for expert in self.of], 1)


class Gate(nn.Module):
    """g(x), in 32 bits. Its weights start at 0, so that every expert has the same share at first."""

    def __init__(self, n_in: int, n_experts: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n_in, n_experts, bias=False)
        nn.init.zeros_(self.linear.weight)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, n) -> (B, K)."""
        return self.linear(x).float().softmax(1)
