"""HSTU: hierarchical sequential transduction units. Zhai et al., ICML 2024.

T events of all sequences, D model size, h heads, n the longest history that there may be, t time; o elementwise
    u, v, q, k = silu(W1 LN(x))
    A_sr = silu(<q_s, k_r> + b_pos(s - r) + b_time(bucket(t_s - t_r))) / n        for r <= s, else 0; for each head
    x <- x + W2 (LN(A v) o u)
    score of item i after event s = <LN x_s, E_i>
There is no softmax: how often something is in a history counts. As in the authors' code n is the window, not the number
of events. Buckets are of the logarithm of the time between two events of the history; the authors' is that up to the
event after s. Positions come in by b_pos alone.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recexp.config import ModelConfig
from recexp.dataset.schema import Schema
from recexp.kernel.pointwise import attend_pointwise
from recexp.layer.dropout import Dropout
from recexp.layer.mlp import linear
from recexp.layer.packed import Encoder, Layout, split_heads
from recexp.layer.position import AgePosition, LearntPosition
from recexp.model import Inputs, Needs, require_divisor
from recexp.model.backbone import Backbone
from recexp.option import above, at_least, fraction, size
from recexp.registry import register

TIME_BUCKETS = 40  # the last begins at 2^39: beyond any history, in milliseconds too


class Block(nn.Module):
    """One unit."""

    def __init__(self, dim: int, n_heads: int, n_positions: int, std: float, dropout: float) -> None:
        super().__init__()
        self.n_heads, self.n_positions = n_heads, n_positions
        self.norm = nn.LayerNorm(dim)
        self.project, self.output = linear(dim, 4 * dim), linear(dim, dim)  # W1, W2
        self.position = LearntPosition(n_positions, 1, std)  # b_pos
        self.time = AgePosition(TIME_BUCKETS, 1, std)  # b_time
        self.attended_norm = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, layout: Layout, last: bool) -> Tensor:
        """x (T, D) -> (T, D), or (n, D) for only the last event of each sequence."""
        u, vqk = F.silu(self.project(self.norm(x))).split([x.shape[1], 3 * x.shape[1]], 1)
        attended = self.attend(vqk, layout, last)
        if last:
            x, u = x[layout.last], u[layout.last]
        return x + self.output(self.dropout(self.attended_norm(attended) * u))

    def attend(self, vqk: Tensor, layout: Layout, last: bool) -> Tensor:
        """A v, from v, q and k side by side (T, 3 D): (T, D) or (n, D)."""
        assert layout.age is not None
        if layout.padded:
            return self.attend_rectangles(vqk, layout, last)
        n = len(layout.last) if last else len(layout.length)  # those that have events come first
        biases = self.position.vectors, self.time.vectors
        sequences = layout.start[:n], layout.length[:n]
        return attend_pointwise(
            vqk, layout.age, *biases, *sequences, self.n_heads, self.n_positions, last,
            lambda: self.attend_rectangles(vqk, layout, last),
        )  # fmt: skip

    def attend_rectangles(self, vqk: Tensor, layout: Layout, last: bool) -> Tensor:
        """The same by torch, sequences of similar lengths at a time."""
        assert layout.age is not None
        outputs = []
        for index, mask in layout.rectangles:
            v, q, k = split_heads(vqk, index, 3, self.n_heads)  # (b, h, l, d)
            age, step = layout.age[index], torch.arange(index.shape[1], device=index.device)
            query_step = mask.sum(1, keepdim=True) - 1 if last else step.expand_as(index)  # (b, m)
            distance = query_step[:, :, None] - step  # (b, m, l)
            gap = (age[:, None] - age.gather(1, query_step)[:, :, None]).clamp(min=0)
            bias = self.position(distance.clamp(min=0)) + self.time(gap)  # (b, m, l, 1)
            q = q.gather(2, query_step[:, None, :, None].expand(*q.shape[:2], -1, q.shape[3]))
            weight = F.silu(q @ k.transpose(2, 3) + bias[..., 0][:, None]) / self.n_positions
            seen = (distance >= 0) & mask[:, None]
            out = (weight * seen[:, None]) @ v  # (b, h, m, d)
            outputs.append(out.flatten(1) if last else layout.events(out.transpose(1, 2).flatten(2), mask))
        return torch.cat(outputs) if outputs else vqk.new_zeros(0, vqk.shape[1] // 3)


@register("hstu")
class HSTU(Backbone):
    needs = Needs(Inputs.sequence, context=False, features=False)

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        embedding_dim: int = size()
        embedding_std: float = above(0)
        embedding_l2: float = at_least(0)
        n_layers: int = at_least(1)
        n_heads: int = at_least(1)
        dropout: float = fraction()
        item_dropout: float = fraction()

    def __init__(self, config: Config, schema: Schema) -> None:
        dim, std = config.embedding_dim, config.embedding_std
        require_divisor(config.n_heads, dim)
        blocks = (Block(dim, config.n_heads, schema.max_history, std, config.dropout) for _ in range(config.n_layers))
        super().__init__(schema, dim, std, Encoder(None, dim, config.dropout, blocks), config.item_dropout)
