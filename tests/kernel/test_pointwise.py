"""Pointwise attention over packed sequences equals a loop over them in 64 bits."""

import pytest
import torch
import torch.nn.functional as F
from both_ways import assert_close, leaf, results
from torch import Tensor

from recexp.kernel.pointwise import attend_pointwise

D, SCALE, P, K = 32, 7, 120, 9
LENGTHS = [[], [1], [17, 16, 1], [120, 49, 48, 25, 2, 1, 1], [5] * 31]


def one(x: Tensor, age: Tensor, position: Tensor, time: Tensor, n_heads: int) -> Tensor:
    """One sequence by the equations: x (l, 3 D) -> (l, D)."""
    v, q, k = (part.double().unflatten(1, (n_heads, -1)).transpose(0, 1) for part in x.chunk(3, 1))  # (h, l, d)
    step = torch.arange(len(x))
    distance = step[:, None] - step
    bucket = (1 + (age - age[:, None]).clamp(min=0)).double().log2().floor().long().clamp(max=K - 1)
    bias = position[distance.clamp(min=0), 0] + time[bucket, 0]
    weights = F.silu(q @ k.transpose(1, 2) + bias.double()) / SCALE * (distance >= 0)
    return (weights @ v).transpose(0, 1).flatten(1).float()


def ages(lengths: list[int]) -> Tensor:
    """Falling to 0 within each sequence, with ties, and beyond the last bucket."""
    ordered = [torch.randint(0, 1000, (n,)).sort(descending=True).values for n in lengths]
    return torch.cat([torch.zeros(0), *(age - age[-1] for age in ordered)]).float()


def missing() -> Tensor:
    raise AssertionError("no kernel took these")


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("n_heads", [1, 2])
def test_events_attend_as_in_a_loop(n_heads, last, lengths, library, threads, used):
    length, n = torch.tensor(lengths, dtype=torch.long), sum(lengths)
    start, x, age = length.cumsum(0) - length, leaf(n, 3 * D), ages(lengths)
    position, time = leaf(P, 1), leaf(K, 1)

    def loop() -> Tensor:
        parts = zip(x.split(lengths), age.split(lengths), strict=True)
        heads = [one(*part, position, time, n_heads) for part in parts]
        return torch.cat([x.new_zeros(0, D), *((of_one[-1:] if last else of_one) for of_one in heads)])

    def kernel() -> Tensor:
        return attend_pointwise(x, age, position, time, start, length, n_heads, SCALE, last, missing)

    mine, theirs = results(kernel, [x, position, time]), results(loop, [x, position, time])
    torch.testing.assert_close(mine[0], theirs[0], rtol=1e-5, atol=1e-5)
    assert_close(mine[1:], theirs[1:])
    assert set(used) == {"attend_pointwise", "attend_pointwise_back"}
    assert all(map(torch.equal, mine, results(kernel, [x, position, time])))


@pytest.mark.parametrize(
    ("dim", "dtype", "longest"), [(6, torch.float32, 2), (32, torch.float64, 2), (32, torch.float32, 3)]
)
def test_what_no_kernel_takes_is_left_to_the_reference(dim, dtype, longest, library, used):
    found = torch.zeros(longest, dim)
    x, length = torch.randn(longest, 3 * dim, dtype=dtype), torch.tensor([longest])
    biases = torch.zeros(2, 1), torch.zeros(K, 1)
    start = length - longest
    assert attend_pointwise(x, torch.zeros(longest), *biases, start, length, 2, 1, False, lambda: found) is found
    assert not used
