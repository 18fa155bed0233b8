"""Attention over packed sequences equals a loop over them in 64 bits, dropout included."""

import pytest
import torch
from both_ways import assert_close, kept, leaf, results, seeds
from torch import Tensor

from recexp.kernel.packed import attend_packed

D, P = 64, 0.3
LENGTHS = [[], [0, 0], [1], [17, 16, 1, 0], [200, 50, 48, 25, 24, 2, 1, 1, 0], [5] * 61]


def one(q: Tensor, k: Tensor, v: Tensor, n_heads: int, causal: bool, factors: Tensor) -> Tensor:
    """Eq. 1 for one sequence: q (m, D), k and v (n, D), dropout's factors (m, h, n or more) -> (m, D)."""
    q, k, v = (x.double().unflatten(1, (n_heads, -1)).transpose(0, 1) for x in (q, k, v))  # (h, m or n, d)
    scores = q @ k.transpose(1, 2) / q.shape[2] ** 0.5
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape).triu(1) > 0, -torch.inf)
    weights = scores.softmax(2) * factors[:, :, : k.shape[1]].transpose(0, 1)
    return (weights @ v).transpose(0, 1).flatten(1).float()


def check(kernel, loop, inputs, names, used) -> None:
    mine, theirs = results(kernel, inputs), results(loop, inputs)
    torch.testing.assert_close(mine[0], theirs[0], rtol=1e-5, atol=1e-5)
    assert_close(mine[1:], theirs[1:])
    assert set(used) == names
    assert all(map(torch.equal, mine, results(kernel, inputs)))


def missing() -> Tensor:
    raise AssertionError("no kernel took these")


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("p", [0.0, P])
@pytest.mark.parametrize(("n_heads", "gaps"), [(1, True), (4, False)])
def test_events_attend_as_in_a_loop(n_heads, gaps, p, causal, lengths, library, threads, used):
    length, n = torch.tensor(lengths, dtype=torch.long), sum(lengths)
    start, x = length.cumsum(0) - length, leaf(n, 3 * D, gaps=gaps)
    factors = kept(seeds(1)[0], (n, n_heads, max(lengths, default=0)), p)

    def loop() -> Tensor:
        parts = zip(x.split(lengths), factors.split(lengths), strict=True)
        return torch.cat([x.new_zeros(0, D), *(one(*qkv.chunk(3, 1), n_heads, causal, f) for qkv, f in parts)])

    kernel = lambda: attend_packed(None, x, start, length, n_heads, causal, p, missing)  # noqa: E731
    check(kernel, loop, [x], {"attend_packed", "attend_packed_back"}, used)


@pytest.mark.parametrize("lengths", [[], [1], [200, 50, 17, 16, 1, 1], [5] * 61], ids=str)
@pytest.mark.parametrize("p", [0.0, P])
@pytest.mark.parametrize("n_heads", [1, 4])
def test_a_query_of_each_sequence_attends_to_all_of_it(n_heads, p, lengths, library, threads, used):
    length, n = torch.tensor(lengths, dtype=torch.long), sum(lengths)
    q, x = leaf(len(lengths), D), leaf(n, 2 * D)
    factors = kept(seeds(1)[0], (len(lengths), n_heads, max(lengths, default=0)), p)

    def loop() -> Tensor:
        parts = zip(q[:, None].unbind(), x.split(lengths), factors[:, None].unbind(), strict=True)
        return torch.cat([x.new_zeros(0, D), *(one(a, *kv.chunk(2, 1), n_heads, False, f) for a, kv, f in parts)])

    kernel = lambda: attend_packed(q, x, length.cumsum(0) - length, length, n_heads, False, p, missing)  # noqa: E731
    check(kernel, loop, [q, x], {"attend_packed", "attend_packed_back"}, used)


@pytest.mark.parametrize(("dim", "dtype"), [(6, torch.float32), (64, torch.float64)])
def test_what_no_kernel_takes_is_left_to_the_reference(dim, dtype, library, used):
    found = torch.zeros(2, dim)
    x, length = torch.randn(2, 3 * dim, dtype=dtype), torch.tensor([2])
    assert attend_packed(None, x, length - 2, length, 2, True, 0.0, lambda: found) is found
    assert not used
