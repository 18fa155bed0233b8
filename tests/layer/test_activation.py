import copy

import pytest
import torch
from torch import nn

from recexp.layer.activation import Activation, BatchNorm, Dice, PReLU, activation


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def lengths(*n: int, size: int) -> torch.Tensor:
    return torch.arange(size) < torch.tensor(n)[:, None]


def plain_dice(x: torch.Tensor, mean: torch.Tensor, var: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    p = torch.sigmoid((x - mean) / (var + 1e-8).sqrt())
    return p * x + (1 - p) * alpha * x


@pytest.mark.parametrize("kind", Activation)
@pytest.mark.parametrize("shape", [(0, 3), (1, 3), (5, 3), (2, 4, 3), (2, 0, 3)])
def test_every_activation_keeps_the_shape_and_a_finite_gradient(kind, shape):
    x = draw(*shape).requires_grad_()
    out = activation(kind, 3)(x)
    out.sum().backward()
    assert out.shape == x.shape and out.isfinite().all() and x.grad.isfinite().all()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Activation.relu, [0.0, 2.0]),
        (Activation.identity, [-2.0, 2.0]),
        (Activation.leaky_relu, [-0.02, 2.0]),
        (Activation.prelu, [-0.5, 2.0]),
        (Activation.rrelu, [-2 * 11 / 48, 2.0]),
        (Activation.tanh, [-0.9640276, 0.9640276]),
        (Activation.sigmoid, [0.1192029, 0.8807971]),
    ],
)
def test_values_computed_by_hand(kind, expected):
    module = activation(kind, 1).eval()
    torch.testing.assert_close(module(torch.tensor([[-2.0], [2.0]]))[:, 0], torch.tensor(expected))


def test_prelu_learns_a_slope_for_each_last_axis_channel():
    module = PReLU(3)
    module.slope.data = torch.tensor([0.0, 0.5, 1.0])
    expected = [[[0.0, -0.5, -1.0]] * 4] * 2  # torch's own would take the axis of size 4
    assert module(-torch.ones(2, 4, 3)).tolist() == expected


def test_dice_in_training_equals_its_formula():
    module, x = Dice(4), draw(6, 5, 4)
    module.alpha.data = draw(4, seed=1)
    rows = x.reshape(-1, 4)
    expected = plain_dice(x, rows.mean(0), rows.var(0, unbiased=False), module.alpha)
    torch.testing.assert_close(module(x), expected)


def test_dice_in_evaluation_uses_the_running_statistics_alone():
    module, x = Dice(4), draw(8, 4)
    module(x)
    module.eval()
    expected = plain_dice(x, 0.1 * x.mean(0), 0.9 + 0.1 * x.var(0), module.alpha)
    torch.testing.assert_close(module(x), expected)
    torch.testing.assert_close(torch.cat([module(x[i : i + 1]) for i in range(8)]), expected)


def test_dice_with_alpha_1_is_the_identity():
    module, x = Dice(4), draw(8, 4)
    module.alpha.data.fill_(1)
    torch.testing.assert_close(module(x), x)


def test_dice_alpha_starts_at_0_and_is_trained():
    module = Dice(4)
    assert torch.equal(module.alpha, torch.zeros(4))
    module(draw(8, 4)).sum().backward()
    assert (module.alpha.grad != 0).all()


@pytest.mark.parametrize("kind", [Dice, BatchNorm])
@pytest.mark.parametrize(
    ("x", "mask"),
    [
        (torch.full((5, 3), 7.7), None),
        (torch.full((1, 3), 7.7), None),
        (torch.full((2, 4, 3), 1e4), lengths(4, 2, size=4)),
        (draw(2, 4, 3), lengths(1, 0, size=4)),
        (draw(2, 4, 3), lengths(0, 0, size=4)),
        (draw(2, 0, 3), lengths(0, 0, size=0)),
        (1e8 * draw(6, 3), None),
    ],
    ids=["equal rows", "one row", "equal events", "one event", "no event", "no length", "huge"],
)
def test_degenerate_batches_train_finite(kind, x, mask):
    module, x = kind(3), x.clone().requires_grad_()
    out = module(x, mask)
    out.square().mean().nan_to_num().backward()  # the mean of nothing is NaN
    assert out.isfinite().all() and x.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())
    assert all(buffer.isfinite().all() for buffer in module.buffers())


@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_equals_torch(affine):
    ours, theirs = BatchNorm(3, affine=affine), nn.BatchNorm1d(3, affine=affine)
    for step in range(3):
        x = draw(6, 3, seed=step)
        torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_masked_batch_norm_equals_batch_norm_of_the_valid_rows():
    masked, plain = BatchNorm(3).double(), BatchNorm(3).double()
    mask, x = lengths(4, 0, 2, size=4), draw(3, 4, 3).double()
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    one, other = masked(a, mask)[mask], plain(b[mask])
    torch.testing.assert_close(one, other)
    one.pow(3).sum().backward()
    other.pow(3).sum().backward()
    torch.testing.assert_close(a.grad, b.grad)
    for name, buffer in masked.named_buffers():
        torch.testing.assert_close(buffer, plain.get_buffer(name))


def test_dice_statistics_ignore_what_padding_holds():
    mask, x = lengths(4, 0, 2, size=4), draw(3, 4, 3)
    dirty = torch.where(mask[:, :, None], x, 1e30)
    clean, other = Dice(3), Dice(3)
    assert torch.equal(clean(x, mask)[mask], other(dirty, mask)[mask])
    assert torch.equal(clean.norm.running_var, other.norm.running_var)


@pytest.mark.parametrize(
    ("x", "mask"), [(draw(1, 3), None), (draw(2, 4, 3), lengths(1, 0, size=4))], ids=["one row", "one event"]
)
def test_a_batch_without_variance_uses_and_leaves_the_running_statistics(x, mask):
    module = BatchNorm(3)
    module(draw(9, 3))
    before = module.running_mean.clone()
    valid = torch.ones(x.shape[:-1], dtype=torch.bool) if mask is None else mask
    torch.testing.assert_close(module(x, mask)[valid], module.eval()(x)[valid])
    assert torch.equal(module.running_mean, before)


@pytest.mark.parametrize("kind", Activation)
def test_every_activation_runs_under_bfloat16_autocast(kind):
    module = activation(kind, 3)
    with torch.autocast("cpu", torch.bfloat16):
        x = nn.Linear(3, 3)(draw(4, 2, 3))
        assert x.dtype == torch.bfloat16
        out = module(x, lengths(2, 0, 1, 1, size=2)) if kind is Activation.dice else module(x)
    out.float().sum().backward()
    assert out.isfinite().all()


def test_dice_gradient_equals_that_of_its_formula_over_the_valid_rows():
    mask, x = lengths(4, 0, 2, size=4), draw(3, 4, 3).double()
    dice = Dice(3).double()
    with torch.no_grad():
        dice.alpha.copy_(torch.tensor([0.2, -0.5, 1.5]))
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    dice(a, mask)[mask].pow(3).sum().backward()
    by_function, dice.alpha.grad = dice.alpha.grad, None
    rows = b[mask]
    p = torch.sigmoid((rows - rows.mean(0)) / (rows.var(0, unbiased=False) + dice.norm.eps).sqrt())
    (p * rows + (1 - p) * dice.alpha * rows).pow(3).sum().backward()
    torch.testing.assert_close(a.grad, b.grad)
    torch.testing.assert_close(by_function, dice.alpha.grad)


@pytest.mark.parametrize("n_rows", [3, 5000])  # one block, and several
@pytest.mark.parametrize("masked", [True, False])
def test_dice_together_with_a_linear_equals_one_after_the_other_gradients_included(masked, n_rows):
    mask = torch.rand(n_rows) < 0.7 if masked else None
    dice, linear = Dice(3).double(), torch.nn.Linear(3, 2).double()
    with torch.no_grad():
        dice.alpha.copy_(torch.tensor([0.2, -0.5, 1.5]))
    apart = copy.deepcopy(dice)
    x = torch.randn(n_rows, 3, dtype=torch.float64, requires_grad=True)
    valid = slice(None) if mask is None else mask
    together, expected = dice.then(x, mask, linear)[valid], linear(apart(x, mask))[valid]
    torch.testing.assert_close(together, expected)
    cotangent = torch.randn_like(together)
    for one, other in zip(
        torch.autograd.grad(together, [x, dice.alpha, *linear.parameters()], cotangent),
        torch.autograd.grad(expected, [x, apart.alpha, *linear.parameters()], cotangent),
        strict=True,
    ):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(dice.norm.running_var, apart.norm.running_var)
