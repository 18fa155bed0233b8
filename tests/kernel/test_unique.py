"""Unique values of an index, and gradients that hold the rows looked up alone: by kernels and by torch."""

import pytest
import torch
from both_ways import by_torch, indices, leaf

from recexp.kernel.unique import coalesced, grouped, lookup_grouped, reference, sum_reference, summed

N = 90
each_size = pytest.mark.parametrize("shape", [(0, 3), (1, 1), (7, 7), (61, 21)])


@each_size
@pytest.mark.parametrize("n_rows", [1, 2, 90, 5000, 2**24, 2**30])
def test_groups_are_those_of_torch(n_rows, shape, library, used):
    index = indices(*shape, n=n_rows)
    found, wanted = grouped(index, torch.empty(n_rows, 0)), reference(index)
    for name, value in vars(wanted).items():
        assert torch.equal(getattr(found, name), value), name
    assert torch.equal(found.rows[found.inverse()], index.flatten())
    assert used == ["group"]


@each_size
@pytest.mark.parametrize("width", [1, 5, 16, 37])
def test_rows_of_equal_values_are_summed(width, shape, library, threads, used):
    index = indices(*shape, n=N)
    x, groups = leaf(index.numel(), width).detach(), reference(index)
    torch.testing.assert_close(summed(x, groups), sum_reference(x, groups))
    assert used == ["sum_groups"]


@pytest.mark.parametrize("width", [1, 5, 32])
@pytest.mark.parametrize("padding", [None, 0])
def test_gradient_holds_the_rows_looked_up_once_each(padding, width, library, threads):
    index, table, whole = indices(61, 21, n=N) // 2, leaf(N, width), leaf(N, width)
    direction = torch.randn(61, 21, width)
    out = lookup_grouped(table, index, grouped(index, table), padding)
    assert torch.equal(out, table[index])
    out.backward(direction)
    torch.nn.functional.embedding(index, whole, padding).backward(direction)
    grad = coalesced(table.grad)
    assert grad.indices()[0].tolist() == sorted(set(index.flatten().tolist()) - {padding})
    torch.testing.assert_close(grad.to_dense(), whole.grad, rtol=1e-4, atol=1e-4)


def test_gradients_of_two_look_ups_add_up():
    table, first, second = leaf(N, 16), indices(61, n=40), 20 + indices(61, n=40)
    out = [lookup_grouped(table, index, grouped(index, table)) for index in (first, second)]
    sum((each * n).sum() for n, each in enumerate(out, 1)).backward()
    grad = coalesced(table.grad)
    rows = grad.indices()[0]
    assert torch.equal(rows, torch.cat([first, second]).unique())
    times = torch.bincount(first, minlength=N) + 2 * torch.bincount(second, minlength=N)
    assert torch.equal(grad.values(), times[rows, None].float().expand(-1, 16))


def test_torch_gives_the_same_without_kernels(library):
    index, table = indices(61, 21, n=N), leaf(N, 16)

    def looked_up():
        return lookup_grouped(table, index, grouped(index, table), 0)

    mine, theirs = looked_up(), by_torch(looked_up, [table])[0]
    assert torch.equal(mine, theirs)


@pytest.mark.parametrize("bad", [-1, N])
def test_an_index_out_of_range_is_an_error(bad, library):
    index = indices(61, 21, n=N)
    index[3, 4] = bad
    with pytest.raises(IndexError, match=rf"{bad}.* {N} rows"):
        grouped(index, torch.empty(N, 16))
