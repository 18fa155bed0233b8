"""Attention over packed sequences equals a loop over the sequences."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recexp.kernel import library
from recexp.layer.packed import Layout, PackedAttention, attend, attend_last

LENGTHS = torch.tensor([70, 9, 8, 8, 3, 2, 1, 1, 0])
D, HEADS = 16, 2


@pytest.fixture(params=["by kernels", "by rectangles"], autouse=True)
def way(request, monkeypatch):
    if request.param == "by rectangles":
        monkeypatch.setattr(library, "installed", lambda: [])


def alone(qkv: Tensor, length: int, causal: bool = True) -> Tensor:
    """One sequence (T, 3 D) -> (T, D)."""
    q, k, v = (x.unflatten(1, (HEADS, -1)).transpose(0, 1) for x in qkv.chunk(3, 1))
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(0, 1).flatten(1)


@pytest.mark.parametrize("causal", [True, False])
def test_each_event_attends_to_itself_and_those_before_or_to_all(causal: bool) -> None:
    qkv = torch.randn(int(LENGTHS.sum()), 3 * D, generator=torch.Generator().manual_seed(0))
    one, other = qkv.clone().requires_grad_(), qkv.clone().requires_grad_()
    packed = attend(one, Layout(LENGTHS), HEADS, 0.0, causal)
    parts = [alone(part, len(part), causal) for part in other.split(LENGTHS.tolist())]
    torch.testing.assert_close(packed, torch.cat(parts))
    packed.square().sum().backward()
    torch.cat(parts).square().sum().backward()
    torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)


def test_the_last_events_alone_are_those_of_all() -> None:
    qkv, layout = torch.randn(int(LENGTHS.sum()), 3 * D), Layout(LENGTHS)
    every = attend(qkv, layout, HEADS, 0.0)[layout.last]
    last = attend_last(qkv[layout.last, :D], qkv[:, D:].contiguous(), layout, HEADS)
    torch.testing.assert_close(last, every)


@pytest.mark.parametrize("causal", [True, False])
def test_keys_of_the_queries_themselves_are_those_of_equal_events(causal: bool) -> None:
    attention, x, layout = PackedAttention(D, HEADS, 0.0, causal), torch.randn(int(LENGTHS.sum()), D), Layout(LENGTHS)
    torch.nn.init.normal_(attention.query.bias)
    torch.nn.init.normal_(attention.key_value.bias)
    torch.testing.assert_close(attention(x, x, layout, False), attention(x, x.clone(), layout, False))


def test_positions_are_counted_from_the_last_event() -> None:
    assert Layout(torch.tensor([3, 1, 0])).from_end.tolist() == [2, 1, 0, 0]


def test_no_events_at_all() -> None:
    assert attend(torch.zeros(0, 3 * D), Layout(torch.tensor([0, 0])), HEADS, 0.0).shape == (0, D)


@pytest.mark.parametrize("causal", [True, False])
def test_padded_sequences_give_what_packed_ones_do(causal: bool) -> None:
    length, width = torch.tensor([3, 0, 5, 1]), 6
    qkv, mask = torch.randn(4, width, 3 * D), torch.arange(6) < length[:, None]
    padded = Layout(length, padded_to=width)
    every = attend(qkv.flatten(0, 1), padded, HEADS, 0.0, causal).unflatten(0, (4, width))
    for row, n in enumerate(length.tolist()):
        torch.testing.assert_close(every[row, :n], alone(qkv[row, :n], n, causal))
        assert padded.from_end.view(4, width)[row, :n].tolist() == list(range(n))[::-1]
    flat = qkv.flatten(0, 1)
    last = attend_last(flat[padded.last, :D], flat[:, D:].contiguous(), padded, HEADS)
    torch.testing.assert_close(last[length > 0], every[mask & (padded.from_end.view(4, width) == 0)])
