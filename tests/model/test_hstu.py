"""HSTU: a unit by its equations, and what order means to it without biases."""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recexp.dataset.batch import Batch
from recexp.dataset.window import packed
from recexp.layer.packed import Layout
from recexp.model.hstu import Block

Make = Callable[..., nn.Module]
LENGTHS = torch.tensor([5, 3, 1])


def unit(block: Block, x: Tensor, age: Tensor) -> Tensor:
    """One sequence (L, D), from the equations."""
    u, v, q, k = F.silu(block.project(block.norm(x))).chunk(4, 1)
    attended = torch.zeros_like(x)
    for s in range(len(x)):
        for r in range(s + 1):
            bucket = math.floor(math.log2(1 + float(age[r] - age[s])))
            b = block.position.table.weight[s - r, 0] + block.time.table.weight[bucket, 0]
            for head in torch.arange(x.shape[1]).chunk(block.n_heads):
                attended[s, head] += F.silu(q[s, head] @ k[r, head] + b) / block.n_positions * v[r, head]
    return x + block.output(block.attended_norm(attended) * u)


def test_unit_is_that_of_the_equations_for_all_and_for_the_last_event() -> None:
    torch.manual_seed(0)
    block = Block(16, 2, 20, 0.3, 0.0).eval()
    x, age = torch.randn(9, 16), torch.cat([(1000.0 ** torch.rand(n)).sort(descending=True).values for n in LENGTHS])
    parts = zip(x.split(LENGTHS.tolist()), age.split(LENGTHS.tolist()), strict=True)
    expected, layout = torch.cat([unit(block, *part) for part in parts]), Layout(LENGTHS, age=age)
    torch.testing.assert_close(block(x, layout, last=False), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(block(x, layout, last=True), expected[layout.last], rtol=1e-4, atol=1e-5)


def test_without_biases_the_order_of_earlier_events_does_not_matter(make: Make, mixed: Batch) -> None:
    model = make("hstu", n_layers=1).eval()
    (block,) = model.encoder.blocks
    events, _ = packed(mixed)
    length = int(events.length[0])
    item, age = events.item.clone(), events.age.clone()
    item[: length - 1], age[: length - 1] = item[: length - 1].flip(0), age[: length - 1].flip(0)
    other = replace(events, item=item, age=age)
    assert (model.states(other)[length - 1] - model.states(events)[length - 1]).abs().max() > 1e-4
    nn.init.zeros_(block.position.table.weight)
    nn.init.zeros_(block.time.table.weight)
    torch.testing.assert_close(model.states(other)[length - 1], model.states(events)[length - 1])


def test_a_query_is_the_last_state(make: Make, mixed: Batch) -> None:
    model = make("hstu", n_heads=2).eval()
    events, order = packed(mixed)
    last = (events.length.cumsum(0) - 1)[events.length > 0]
    query = model.query(mixed)
    torch.testing.assert_close(query[order[: len(last)]], model.states(events)[last], rtol=1e-4, atol=1e-5)
