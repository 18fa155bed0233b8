"""Vectors of the positions in a history. Vaswani et al., Attention Is All You Need, NeurIPS 2017.

B batch, L length, D size of a vector
sec. 3.5   PE(p, 2i) = sin(p / 10000^(2i/D)),  PE(p, 2i+1) = cos(p / 10000^(2i/D))
"""

from enum import Enum

import torch
from torch import Tensor, nn

from recexp.kernel.device import traced
from recexp.layer.lookup import Table

AGE_BUCKETS = 40  # the last begins at 2^39: beyond any history, in milliseconds too


def distance(mask: Tensor) -> Tensor:
    """How many events follow each position, 0 at the last event: mask (B, L) -> (B, L) int64.

    Positions are counted from the end because histories of any length end at the target.
    """
    return mask.sum(1, keepdim=True) - mask.cumsum(1)


def sinusoid(n: int, dim: int) -> Tensor:
    """The table PE: (n, D). An odd D lacks the last cosine."""
    frequency = 10000 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)  # (ceil(D / 2),)
    angle = torch.arange(n, dtype=torch.float64)[:, None] * frequency
    return torch.stack([angle.sin(), angle.cos()], 2).flatten(1)[:, :dim].float()


class Position(Enum):
    learnt = "a learnt vector, added"
    sinusoid = "a fixed vector, added"
    none = "no position"


class Sinusoid(nn.Module):
    """Fixed vectors of positions."""

    table: Tensor

    def __init__(self, n_positions: int, dim: int):
        super().__init__()
        self.register_buffer("table", sinusoid(n_positions, dim), persistent=False)

    @property
    def vectors(self) -> Tensor:
        """(n_positions, D)."""
        return self.table

    def forward(self, position: Tensor) -> Tensor:
        """position (...), from 0 to n_positions - 1 -> (..., D)."""
        return self.table[position]


class LearntPosition(nn.Module):
    """A learnt vector for each position."""

    def __init__(self, n_positions: int, dim: int, std: float):
        super().__init__()
        self.table = Table(n_positions, dim)
        nn.init.normal_(self.table.weight, std=std)

    @property
    def vectors(self) -> Tensor:
        """(n_positions, D)."""
        return self.table.weight

    def forward(self, position: Tensor) -> Tensor:
        """position (...), from 0 to n_positions - 1 -> (..., D)."""
        return self.table(position)


def position(kind: str, n_positions: int, dim: int, std: float) -> LearntPosition | Sinusoid | None:
    """The vectors of a kind of Position, given by its name."""
    match Position[kind]:
        case Position.learnt:
            return LearntPosition(n_positions, dim, std)
        case Position.sinusoid:
            return Sinusoid(n_positions, dim)
        case Position.none:
            return None


class AgePosition(nn.Module):
    """A learnt vector for each bucket of the time since an event: the position of Chen et al., BST, DLP-KDD 2019.

    Bucket k holds ages from 2^k - 1 to below 2^(k+1) - 1, the last bucket all older ones.
    """

    def __init__(self, n_buckets: int, dim: int, std: float):
        super().__init__()
        self.n_buckets = n_buckets
        self.table = Table(n_buckets, dim)
        nn.init.normal_(self.table.weight, std=std)

    @property
    def vectors(self) -> Tensor:
        """(n_buckets, D)."""
        return self.table.weight

    def forward(self, age: Tensor) -> Tensor:
        """age (...) float, 0 or more -> (..., D)."""
        return self.table(self.bucket(age))

    def bucket(self, age: Tensor) -> Tensor:
        """floor(log2(1 + age)), at most n_buckets - 1: age (...) -> (...) int64."""
        if traced():  # ONNX has no frexp
            powers = 2.0 ** torch.arange(1, self.n_buckets, device=age.device)
            return (1 + age[..., None] >= powers).sum(-1)
        exponent = torch.frexp(1 + age)[1]  # exact where log2 rounds: 1 + age = m 2^exponent, 1/2 <= m < 1
        return (exponent - 1).clamp(0, self.n_buckets - 1).long()
