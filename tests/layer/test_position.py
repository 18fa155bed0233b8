import math

import pytest
import torch

from recexp.layer.position import AgePosition, LearntPosition, Sinusoid, distance, sinusoid

B, L, D = 4, 6, 8
MASK = torch.arange(L) < torch.tensor([6, 1, 0, 3])[:, None]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def test_distance_counts_the_events_after_each_one():
    assert distance(MASK)[MASK].tolist() == [5, 4, 3, 2, 1, 0, 0, 2, 1, 0]
    assert (distance(MASK)[~MASK] == 0).all()
    assert distance(MASK[:, :0]).shape == (B, 0)


def test_distance_counts_from_a_target_behind_the_padding():
    with_target = torch.cat([MASK, torch.ones(B, 1, dtype=torch.bool)], 1)
    assert (distance(with_target)[:, -1] == 0).all()
    assert torch.equal(distance(with_target)[:, :-1][MASK], distance(MASK)[MASK] + 1)


@pytest.mark.parametrize("dim", [1, 2, 7, 8])
def test_sinusoid_equals_the_formula(dim):
    expected = [
        [(math.cos if j % 2 else math.sin)(position / 10000 ** ((j - j % 2) / dim)) for j in range(dim)]
        for position in range(50)
    ]
    torch.testing.assert_close(sinusoid(50, dim), torch.tensor(expected))
    assert sinusoid(0, dim).shape == (0, dim)


def test_sinusoids_of_a_sum_are_rotations():
    n, dim, step = 20, 8, 7
    table = sinusoid(n + step, dim).double()
    rotation = torch.zeros(dim, dim, dtype=torch.float64)
    for i in range(dim // 2):
        angle = step / 10000 ** (2 * i / dim)
        sine, cosine = math.sin(angle), math.cos(angle)
        block = torch.tensor([[cosine, sine], [-sine, cosine]], dtype=torch.float64)
        rotation[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = block
    torch.testing.assert_close(table[step:], table[:n] @ rotation.T, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(table.square().sum(1), torch.full((n + step,), dim / 2, dtype=torch.float64))


def test_sinusoid_of_far_positions_keeps_its_digits():
    assert sinusoid(10002, 2)[-1].tolist() == pytest.approx([math.sin(10001), math.cos(10001)], abs=1e-6)


def test_positions_look_their_vectors_up():
    positions = distance(MASK)
    fixed, learnt = Sinusoid(L, D), LearntPosition(L, D, 0.1)
    assert torch.equal(fixed(positions)[0, 1], sinusoid(L, D)[4])
    assert torch.equal(learnt(positions)[3, 0], learnt.table.weight[2])
    assert fixed(positions).shape == learnt(positions).shape == (B, L, D)
    assert not fixed.state_dict() and not list(fixed.parameters())
    assert fixed.double()(positions).dtype == torch.float64  # a buffer, so it moves with the module


def test_age_buckets_are_powers_of_2():
    bucket = AgePosition(31, D, 0.1).bucket
    for k in range(24):
        first, final = float(2**k - 1), float(2 ** (k + 1) - 2)
        assert bucket(torch.tensor([first, final, 0.5 * (first + final)])).tolist() == [k, k, k]
    assert bucket(torch.tensor([0.0, 0.99, 1.0, 2.99, 3.0])).tolist() == [0, 0, 1, 1, 2]


def test_the_last_age_bucket_holds_all_above():
    module = AgePosition(3, D, 0.1)
    ages = torch.tensor([[0.0, 3.0, 7.0, 1e9, 3e38]])
    assert module.bucket(ages).tolist() == [[0, 2, 2, 2, 2]]
    assert torch.equal(module(ages)[0], module.table.weight[[0, 2, 2, 2, 2]])
    assert AgePosition(1, D, 0.1).bucket(ages).tolist() == [[0] * 5]


def test_learnt_vectors_are_drawn_with_the_std():
    for module in (LearntPosition(500, 50, 0.3), AgePosition(500, 50, 0.3)):
        assert module.table.weight.std().item() == pytest.approx(0.3, rel=0.05)
