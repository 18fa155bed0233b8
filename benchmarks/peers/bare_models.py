"""The four models in plain PyTorch, configured like recexp's experiments; the bare loop trains them.

B batch, L history length, D embedding size, F fields
"""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def build(model: str, settings: dict[str, Any]) -> nn.Module:
    """A model with the settings that data.py wrote; its forward takes the ids of a batch.

    deepfm, dcnv2: ids (B, F); the others: user (B,), target (B,), history (B, L), padded with 0. All return logits
    (B,).
    """
    vocabulary, dim, hidden = settings["vocabulary"], settings["embedding_dim"], settings["hidden_sizes"]
    if model == "deepfm":
        return DeepFM(list(vocabulary.values()), dim, hidden)
    if model == "dcnv2":
        return DCNv2(list(vocabulary.values()), dim, hidden, settings["n_layers"])
    embed = Items(vocabulary["user"], vocabulary["item"], dim)
    if model == "din":
        return DIN(embed, dim, settings["attention_hidden_sizes"], hidden)
    if model == "dien":
        return DIEN(embed, dim, hidden)
    return BST(embed, dim, hidden, settings["n_heads"], settings["feedforward_size"], settings["max_history"] + 1)


def mlp(n_in: int, hidden_sizes: list[int]) -> nn.Sequential:
    sizes = [n_in, *hidden_sizes]
    layers = [layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], 1))


def embedding(n: int, dim: int) -> nn.Embedding:
    table = nn.Embedding(n, dim, padding_idx=0)
    nn.init.normal_(table.weight, std=0.01)
    return table


def offsets(sizes: list[int]) -> Tensor:
    """Where the rows of each field begin in one table that serves all."""
    return torch.tensor([0, *sizes[:-1]]).cumsum(0)


class Cross(nn.Module):
    """Crosses and an MLP beside them: x_{l+1} = x_0 * (W x_l + b) + x_l."""

    def __init__(self, n: int, hidden_sizes: list[int], n_layers: int) -> None:
        super().__init__()
        self.crosses = nn.ModuleList(nn.Linear(n, n) for _ in range(n_layers))
        self.mlp = mlp(n, hidden_sizes)[:-1]
        self.output = nn.Linear(n + hidden_sizes[-1], 1)

    def forward(self, x: Tensor) -> Tensor:
        crossed = x
        for cross in self.crosses:
            crossed = x * cross(crossed) + crossed
        return self.output(torch.cat([crossed, self.mlp(x)], 1))[:, 0]


class DCNv2(nn.Module):
    def __init__(self, sizes: list[int], dim: int, hidden_sizes: list[int], n_layers: int) -> None:
        super().__init__()
        self.register_buffer("offset", offsets(sizes))
        self.vectors = embedding(sum(sizes), dim)
        self.cross = Cross(len(sizes) * dim, hidden_sizes, n_layers)

    def forward(self, ids: Tensor) -> Tensor:
        return self.cross(self.vectors(ids + self.offset).flatten(1))


def pairs(e: Tensor) -> Tensor:
    """The sum of the products of all pairs of fields (B, F, D): (B,)."""
    return (e.sum(1).square() - e.square().sum(1)).sum(1) / 2


class DeepFM(nn.Module):
    def __init__(self, sizes: list[int], dim: int, hidden_sizes: list[int]) -> None:
        super().__init__()
        self.register_buffer("offset", offsets(sizes))
        self.vectors = embedding(sum(sizes), dim)
        self.weights = embedding(sum(sizes), 1)
        self.mlp = mlp(len(sizes) * dim, hidden_sizes)

    def forward(self, ids: Tensor) -> Tensor:
        ids = ids + self.offset
        e = self.vectors(ids)  # (B, F, D)
        return self.weights(ids).sum((1, 2)) + pairs(e) + self.mlp(e.flatten(1))[:, 0]


class Items(nn.Module):
    """Vectors of user (B, D), target (B, D) and history (B, L, D)."""

    def __init__(self, n_users: int, n_items: int, dim: int) -> None:
        super().__init__()
        self.user, self.item = embedding(n_users, dim), embedding(n_items, dim)

    def forward(self, user: Tensor, target: Tensor, history: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.user(user), self.item(target), self.item(history)


class Dice(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(n, affine=False)
        self.alpha = nn.Parameter(torch.zeros(n))

    def forward(self, x: Tensor) -> Tensor:
        p = torch.sigmoid(self.norm(x))
        return x * (self.alpha + p * (1 - self.alpha))


class DIN(nn.Module):
    def __init__(self, embed: Items, dim: int, attention_sizes: list[int], hidden_sizes: list[int]) -> None:
        super().__init__()
        self.embed = embed
        first, second = attention_sizes
        self.first = nn.Linear(4 * dim, first)
        self.rest = nn.Sequential(Dice(first), nn.Linear(first, second), Dice(second), nn.Linear(second, 1))
        self.mlp = mlp(3 * dim, hidden_sizes)

    def forward(self, user: Tensor, target: Tensor, history: Tensor) -> Tensor:
        u, t, h = self.embed(user, target, history)
        # W [t, h, t - h, t * h] without the (B, L, 4D) copy
        w1, w2, w3, w4 = self.first.weight.chunk(4, 1)
        x = F.linear(h, w2 - w3) + F.linear(t[:, None] * h, w4) + F.linear(t, w1 + w3, self.first.bias)[:, None]
        scores = self.rest(x.flatten(0, 1)).view_as(history) * (history > 0)  # (B, L)
        interest = torch.bmm(scores[:, None], h)[:, 0]
        return self.mlp(torch.cat([interest, t, u], 1))[:, 0]


class DIEN(nn.Module):
    def __init__(self, embed: Items, dim: int, hidden_sizes: list[int]) -> None:
        super().__init__()
        self.embed = embed
        self.extract = nn.GRU(dim, dim, batch_first=True)
        self.project = nn.Linear(dim, dim, bias=False)
        self.evolve = nn.GRUCell(dim, dim)  # holds the parameters; AUGRU is written out below
        self.mlp = mlp(3 * dim, hidden_sizes)

    def forward(self, user: Tensor, target: Tensor, history: Tensor) -> Tensor:
        u, t, h = self.embed(user, target, history)
        states, _ = self.extract(h)  # (B, L, D)
        mask = history > 0
        scores = torch.bmm(states, self.project(t)[:, :, None])[:, :, 0]
        weights = scores.masked_fill(~mask, -1e9).softmax(1) * mask  # (B, L)
        return self.mlp(torch.cat([self.augru(states, weights), t, u], 1))[:, 0]

    def augru(self, states: Tensor, weights: Tensor) -> Tensor:
        """The state (B, D) after the last event; steps on padding have weight 0 and keep it."""
        inputs = F.linear(states, self.evolve.weight_ih, self.evolve.bias_ih).transpose(0, 1)  # (L, B, 3D)
        state = torch.zeros_like(states[:, 0])
        for x, weight in zip(inputs, weights.t()[:, :, None], strict=True):
            y = F.linear(state, self.evolve.weight_hh, self.evolve.bias_hh)
            (xr, xz, xn), (yr, yz, yn) = x.chunk(3, 1), y.chunk(3, 1)
            candidate = torch.tanh(xn + torch.sigmoid(xr + yr) * yn)
            state = torch.lerp(state, candidate, weight * torch.sigmoid(-xz - yz))
        return state


class BST(nn.Module):
    def __init__(
        self, embed: Items, dim: int, hidden_sizes: list[int], n_heads: int, feedforward_size: int, n_positions: int
    ) -> None:
        super().__init__()
        self.embed = embed
        self.position = nn.Embedding(n_positions, dim)
        nn.init.normal_(self.position.weight, std=0.01)
        self.encoder = nn.TransformerEncoderLayer(dim, n_heads, feedforward_size, dropout=0, batch_first=True)
        self.mlp = mlp(3 * dim, hidden_sizes)

    def forward(self, user: Tensor, target: Tensor, history: Tensor) -> Tensor:
        u, t, h = self.embed(user, target, history)
        mask = F.pad(history > 0, (0, 1), value=True)  # (B, L + 1), the target behind the padding
        events = torch.cat([h, t[:, None]], 1)
        after = mask.sum(1, keepdim=True) - mask.cumsum(1)  # how many events follow each
        encoded = self.encoder(events + self.position(after), src_key_padding_mask=~mask)
        mean = (encoded * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        return self.mlp(torch.cat([mean, t, u], 1))[:, 0]
