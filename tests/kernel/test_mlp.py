"""The tail of an MLP by the kernel is what torch's layers give one after another."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from both_ways import agree, both_ways, kept, leaf, seeds, stirred

from recexp.kernel.mlp import tail
from recexp.layer.activation import Activation
from recexp.layer.mlp import MLP

D, H = 32, 48
KERNELS = ["tail", "tail_back"]


@pytest.mark.parametrize("slope", [0.0, 0.01, 0.25])
@pytest.mark.parametrize("widths", [[16, 1], [32, 16, 16], [48, 16, 32, 16, 1]])
@pytest.mark.parametrize("n_rows", [0, 1, 49, 97])
@pytest.mark.parametrize("gaps", [False, True])
def test_tail_equals_its_layers(gaps, n_rows, widths, slope, library, used):
    x = leaf(n_rows, widths[0], gaps=gaps)
    weights = [leaf(n_out, n_in, gaps=gaps) for n_in, n_out in itertools.pairwise(widths)]
    biases = [leaf(n_out, gaps=gaps) for n_out in widths[1:]]

    def layers():
        out = x
        for weight, bias in zip(weights, biases, strict=True):
            out = F.linear(torch.where(out > 0, out, slope * out), weight, bias)
        return out

    inputs = [x, *weights, *biases]
    both_ways(lambda: tail(x, weights, biases, slope, 0.0), inputs, used, *KERNELS, reference=layers)


@pytest.mark.parametrize("activation", [Activation.relu, Activation.leaky_relu])
@pytest.mark.parametrize("sizes", [[H], [H, 16], [H, 16, 32, 48]])
@pytest.mark.parametrize("n_out", [1, 16])
def test_tail_of_an_mlp(n_out, sizes, activation, library, threads, used):
    mlp, x = stirred(MLP(D, sizes, activation, n_out=n_out)), leaf(3, 70, H)
    inputs = [x, *(parameter for layer in mlp.linears[1:] for parameter in layer.parameters())]
    both_ways(lambda: mlp.after_first(x), inputs, used, *KERNELS)


@pytest.mark.parametrize("sizes", [[H, 16, 16, 16, 16], [H, 7]])
def test_what_no_kernel_takes_is_left_to_torch(sizes, library, used):
    assert MLP(D, sizes, Activation.relu, n_out=1)(leaf(50, D)).shape == (50, 1) and not used


def test_dropout_hits_its_share_and_follows_the_seed():
    mlp, x = stirred(MLP(D, [H], Activation.relu, 0.3, n_out=16)), torch.ones(4000, H)
    with torch.no_grad():
        mlp.linears[1].weight.copy_(torch.eye(16, H))
        mlp.linears[1].bias.zero_()
    torch.manual_seed(5)
    first, second = mlp.after_first(x), mlp.after_first(x)
    torch.manual_seed(5)
    assert torch.equal(first, mlp.after_first(x)) and not torch.equal(first, second)
    values = first.unique()
    torch.testing.assert_close(values, torch.tensor([0, 1 / 0.7]))
    kept = (first > 0).double()
    assert kept.mean().item() == pytest.approx(0.7, abs=0.006)  # 64,000 of them: 3 standard deviations
    assert kept.mean(0).sub(0.7).abs().max() < 0.03 and kept.T.corrcoef().fill_diagonal_(0).abs().max() < 0.07
    assert (kept[1:] * kept[:-1]).mean().item() == pytest.approx(0.49, abs=0.01)  # of neighbours too


def test_gradient_through_dropout_in_an_mlp(library):
    mlp, x = stirred(MLP(D, [H, 32], Activation.leaky_relu, 0.4, n_out=16)), leaf(150, H)
    (seed,) = seeds(1)
    first, second = mlp.linears[1:]

    def by_torch():
        hidden = first(F.leaky_relu(x) * kept(seed, (150, H), 0.4))
        return second(F.leaky_relu(hidden) * kept(seed + 1, (150, 32), 0.4))

    agree(lambda: mlp.after_first(x), by_torch, [x, *first.parameters(), *second.parameters()])


def test_dropout_draws_a_seed_only_if_something_is_dropped(library):
    mlp, x = MLP(D, [H], Activation.relu, 0.0, n_out=16), torch.ones(5, D)
    before = torch.get_rng_state()
    mlp(x)
    assert torch.equal(torch.get_rng_state(), before)
