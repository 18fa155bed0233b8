import pytest
import torch
import torch.nn.functional as F

from recexp.layer.activation import Activation
from recexp.layer.mlp import MLP


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def test_forward_equals_a_plain_loop():
    mlp, x = MLP(3, [5, 4], Activation.tanh, n_out=1), torch.randn(6, 3)
    out = x
    for layer in mlp.linears[:-1]:
        out = torch.tanh(out @ layer.weight.T + layer.bias)
    torch.testing.assert_close(mlp(x), out @ mlp.linears[-1].weight.T + mlp.linears[-1].bias)


def test_identity_activation_is_one_linear_map():
    mlp, x = MLP(3, [5, 4], Activation.identity, n_out=2), torch.randn(6, 3)
    product = mlp.linears[2].weight @ mlp.linears[1].weight @ mlp.linears[0].weight
    torch.testing.assert_close(mlp(x), x @ product.T)


@pytest.mark.parametrize(("sizes", "n_out", "width"), [([5, 4], 1, 1), ([5, 4], None, 4), ([], 2, 2), ([], None, 3)])
def test_n_out_tells_the_size_of_the_output(sizes, n_out, width):
    mlp = MLP(3, sizes, Activation.relu, n_out=n_out)
    assert mlp(torch.randn(2, 7, 3)).shape == (2, 7, width)
    assert mlp.n_out == width


def test_the_output_is_neither_squashed_nor_dropped():
    mlp = MLP(3, [], Activation.sigmoid, dropout=0.9, n_out=1)
    x = torch.randn(50, 3)
    assert torch.equal(mlp(x), F.linear(x, mlp.first.weight, mlp.first.bias))


def test_without_n_out_the_last_layer_is_a_hidden_one():
    assert (MLP(3, [5, 4], Activation.relu)(torch.randn(50, 3)) >= 0).all()


def test_weights_are_xavier_and_biases_0():
    mlp = MLP(300, [200], Activation.relu, n_out=1)
    bound = (6 / 500) ** 0.5
    assert mlp.first.weight.abs().max() <= bound
    assert mlp.first.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
    assert all((layer.bias == 0).all() for layer in mlp.linears)


def test_dropout_acts_in_training_alone():
    mlp, x = MLP(3, [400], Activation.sigmoid, dropout=0.25), torch.randn(9, 3)
    out = mlp(x)
    assert (out == 0).float().mean() == pytest.approx(0.25, abs=0.05)
    plain = mlp.eval()(x)
    torch.testing.assert_close(out[out != 0], plain[out != 0] / 0.75)
    assert torch.equal(plain, mlp(x))


@pytest.mark.parametrize("options", [{"batch_norm": True}, {}], ids=["batch norm", "dice"])
def test_padding_changes_no_valid_position(options):
    mlp, x = MLP(3, [5, 4], Activation.dice, n_out=1, **options), torch.randn(2, 6, 3)
    mask = torch.tensor([[True] * 6, [True] * 2 + [False] * 4])
    dirty = torch.where(mask[:, :, None], x, 1e6)
    assert torch.equal(mlp(x, mask)[mask], mlp(dirty, mask)[mask])
    torch.testing.assert_close(mlp(x, mask)[mask], mlp(x[mask]), atol=1e-5, rtol=1e-4)


def test_batch_norm_stands_before_the_activation():
    mlp = MLP(3, [64], Activation.relu, batch_norm=True)
    assert (mlp(10 + torch.randn(200, 3)) == 0).float().mean() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("n", [0, 1])
@pytest.mark.parametrize("kind", [Activation.relu, Activation.dice])
def test_batch_norm_trains_on_fewer_than_two_rows(n, kind):
    mlp = MLP(3, [5], kind, n_out=1, batch_norm=True)
    mlp(torch.randn(n, 3)).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in mlp.parameters())


@pytest.mark.parametrize("activation", [Activation.relu, Activation.tanh])
@pytest.mark.parametrize("sizes", [[], [16], [16, 32]])
def test_followed_by_another_linear(sizes: list[int], activation: Activation):
    mlp = MLP(16, sizes, activation)
    x, weight, bias = torch.randn(5, 16), torch.randn(3, mlp.n_out), torch.randn(3)
    torch.testing.assert_close(mlp.followed_by(weight, bias, x), F.linear(mlp(x), weight, bias))
