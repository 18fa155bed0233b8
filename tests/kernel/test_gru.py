"""GRU, AUGRU and AGRU by the kernel and by torch are the recurrences one step at a time."""

import pytest
import torch
from both_ways import agree, both_ways, indices, leaf, lengths, stirred
from torch import Tensor

from recexp.kernel import gru as kernel
from recexp.kernel.gru import attention_gru, gru, reference
from recexp.layer.lookup import Events
from recexp.layer.recurrent import AttentionGRU, Cell, GRUType, Recurrent

B, L, D, H, N_ITEMS = 61, 21, 32, 48, 90
MASK = lengths(B, L)
KERNELS = ["recurrence", "recurrence_back"]


def parameters(n_in: int, n_hidden: int, gaps: bool = False) -> tuple[Tensor, ...]:
    shapes = (n_in,), (n_hidden,), (), ()
    return tuple(leaf(3 * n_hidden, *shape, gaps=gaps, seed=n, std=0.3) for n, shape in enumerate(shapes))


@pytest.mark.parametrize("n_in", [7, 16])
@pytest.mark.parametrize(("n_rows", "length"), [(0, 3), (4, 0), (1, 1), (49, 5), (97, 2)])
@pytest.mark.parametrize("gaps", [False, True])
def test_gru_equals_its_reference(gaps, n_rows, length, n_in, library, used):
    x, weights, mask = leaf(n_rows, length, n_in, gaps=gaps), parameters(n_in, 16, gaps), lengths(n_rows, length)
    valid = mask[:, :, None]
    both_ways(
        lambda: gru(x, weights, mask) * valid,
        [x, *weights],
        used,
        *KERNELS,
        reference=lambda: reference(x, weights) * valid,
    )


@pytest.mark.parametrize("update", [True, False])
@pytest.mark.parametrize(("n_rows", "length"), [(0, 3), (4, 0), (1, 1), (49, 5), (97, 2)])
def test_attention_gru_equals_its_reference(n_rows, length, update, library, threads, used):
    x, weights, mask = leaf(n_rows, length, 16), parameters(16, 16), lengths(n_rows, length)
    attention = leaf(n_rows, length, gaps=True)

    def by_reference():
        states = reference(x, weights, attention.sigmoid() * mask, update)
        return states[:, -1] if length else x.new_zeros(n_rows, 16)

    both_ways(
        lambda: attention_gru(x, attention.sigmoid() * mask, mask, weights, update),
        [x, attention, *weights],
        used,
        *KERNELS,
        reference=by_reference,
    )


def test_gru_of_looked_up_vectors(library, threads, used):
    vectors, weights, index = leaf(N_ITEMS, D), parameters(D, H), indices(B, L, n=N_ITEMS)
    valid = MASK[:, :, None]
    both_ways(
        lambda: gru(vectors, weights, MASK, index) * valid,
        [vectors, *weights],
        used,
        *KERNELS,
        "scatter",
        reference=lambda: reference(vectors[index], weights) * valid,
        atol=1e-4,
    )


@pytest.mark.parametrize("bad", [-1, N_ITEMS])
def test_an_index_out_of_range_is_an_error(bad, library):
    index = indices(B, L, n=N_ITEMS)
    index[3, 4] = bad
    with pytest.raises(IndexError, match=rf"{bad}.* {N_ITEMS} rows"):
        gru(leaf(N_ITEMS, D), parameters(D, H), torch.ones_like(MASK), index)


def test_gru_layer_over_unique_events(library, threads, used):
    cell, vectors = stirred(Recurrent(Cell.gru, D, H)), leaf(N_ITEMS, D)
    events, valid = Events(vectors, indices(B, L, n=N_ITEMS)), MASK[:, :, None]
    both_ways(lambda: cell.over(events, MASK) * valid, [vectors, *cell.parameters()], used, "scatter", *KERNELS)


def test_gru_of_inputs_of_a_width_that_no_kernel_takes(library, threads, used):
    cell, x = stirred(Recurrent(Cell.gru, 7, H)), leaf(B, L, 7)
    both_ways(lambda: cell(x), [x, *cell.parameters()], used, *KERNELS)


def test_gru_of_what_no_mask_ends(library, threads, used):
    cell, x = stirred(Recurrent(Cell.gru, D, H)), leaf(B, L, D)
    both_ways(lambda: cell(x), [x, *cell.parameters()], used, *KERNELS)
    torch.testing.assert_close(cell(x), cell.cell(x)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", GRUType)
def test_attention_gru_layer(kind, library, threads, used):
    cell, x, weights = stirred(AttentionGRU(kind, D, H)), leaf(B, L, D), leaf(B, L)
    both_ways(lambda: cell(x, weights.sigmoid(), MASK), [x, weights, *cell.parameters()], used, *KERNELS)


@pytest.mark.parametrize("length", [0, 5])
def test_attention_gru_without_events(length, library, used):
    cell, x = stirred(AttentionGRU(GRUType.augru, D, H)), leaf(B, length, D)
    weights = torch.rand(B, length).requires_grad_()
    nothing = torch.zeros(B, length, dtype=torch.bool)
    with torch.no_grad():
        x[:] = 1e30  # padding may hold anything
    state = cell(x, weights, nothing)
    assert not state.any() and used == ["recurrence"]
    for grad in torch.autograd.grad(state.sum(), [x, weights, *cell.parameters()]):
        assert not grad.any()


def test_gradients_twice(library):
    cell, x = stirred(Recurrent(Cell.gru, D, H)), leaf(B, L, D)
    aim = cell(x).square().sum()
    first = torch.autograd.grad(aim, [x, *cell.parameters()], retain_graph=True)
    assert all(map(torch.equal, first, torch.autograd.grad(aim, [x, *cell.parameters()])))


def test_recurrence_under_autocast_is_in_32_bits(library):
    cell, x, weights = stirred(AttentionGRU(GRUType.augru, D, H)), leaf(B, L, D), leaf(B, L).sigmoid()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = cell(x, weights, MASK)
    assert torch.equal(rounded, cell(x, weights, MASK))


@pytest.mark.parametrize("looked_up", [True, False])
def test_what_a_gpu_does_gives_the_same(looked_up, monkeypatch):
    weights, index = parameters(D, H), indices(B, L, n=N_ITEMS)
    vectors = leaf(N_ITEMS, D)
    inputs = [vectors, *weights]

    def states() -> Tensor:
        if looked_up:
            return gru(vectors, weights, MASK, index, lambda: vectors[index])
        return gru(vectors[index], weights, MASK)

    monkeypatch.setattr(kernel, "waits", lambda x: True)
    agree(states, lambda: reference(vectors[index], weights), inputs)
