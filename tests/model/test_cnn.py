"""Convolutions over the field vectors against loops, along either axis."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from math import ceil

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recexp.dataset.batch import Batch
from recexp.dataset.log import Dataset
from recexp.error import ConfigError
from recexp.layer.activation import Activation, PReLU
from recexp.model.cnn import AlongDim, AlongFields, Axis, channelwise, p_max, pool_sizes

Make = Callable[..., nn.Module]
Layers = type[AlongDim] | type[AlongFields]


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def layers(
    along: Layers, n_fields: int, dim: int, channels: list[int], kernel_size: int, kind: Activation = Activation.tanh
) -> nn.Module:
    """Convolutions whose biases are not 0."""
    torch.manual_seed(1)
    layers = along(n_fields, dim, channels, kernel_size, kind)
    for convolution in layers.convolutions:
        nn.init.normal_(convolution.bias)
    return layers


def parameters(convolution: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    """Weight (C, channels before, k) and bias (C,)."""
    return convolution.weight.detach().double().numpy(), convolution.bias.detach().double().numpy()


def along_dim_by_loop(model: nn.Module, e: Tensor) -> Tensor:
    """axis=dim of one sample (F, D), a number at a time: (C, D)."""
    x = e.double().numpy()
    for convolution in model.convolutions:
        weight, bias = parameters(convolution)
        n_out, n_in, k = weight.shape
        out = np.zeros((n_out, x.shape[1]))
        for c in range(n_out):
            for d in range(x.shape[1]):
                total = bias[c]
                for i in range(n_in):
                    for j in range(k):
                        at = d + j - (k - 1) // 2
                        total += weight[c, i, j] * x[i, at] if 0 <= at < x.shape[1] else 0
                out[c, d] = np.tanh(total)
        x = out
    return torch.from_numpy(x)


def along_fields_by_loop(model: nn.Module, e: Tensor) -> Tensor:
    """axis=field of one sample (F, D), a row d at a time: (D, C, p)."""
    n_fields, n_layers = len(e), len(model.convolutions)
    rows = []
    for row in e.double().numpy().T:
        x = row[None]  # (channels, length)
        for layer, convolution in enumerate(model.convolutions, start=1):
            weight, bias = parameters(convolution)
            n_out, n_in, k = weight.shape
            kept_fraction = 1 - Fraction(layer, n_layers) ** (n_layers - layer)
            p = ceil(kept_fraction * n_fields) if layer < n_layers else min(3, n_fields)
            out = []
            for c in range(n_out):
                y = [bias[c] + sum(weight[c, i, j] * x[i, at + j]
                                   for i in range(n_in) for j in range(k) if 0 <= at + j < x.shape[1])
                     for at in range(1 - k, x.shape[1])]  # fmt: skip
                largest = sorted(range(len(y)), key=lambda at: -y[at])[:p]
                out.append([np.tanh(y[at]) for at in sorted(largest)])
            x = np.array(out)
        rows.append(x)
    return torch.from_numpy(np.array(rows))


@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("channels", [[3], [4, 2, 3]])
def test_along_dim_equals_a_loop(channels: list[int], kernel_size: int) -> None:
    model, e = layers(AlongDim, 5, 4, channels, kernel_size), draw(3, 5, 4)
    wanted = torch.stack([along_dim_by_loop(model, row).flatten() for row in e])
    torch.testing.assert_close(model(e).double(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kernel_size", [1, 2, 3, 9])
@pytest.mark.parametrize("channels", [[3], [4, 2], [2, 3, 2], [2, 2, 2, 2]])
def test_along_fields_equals_a_loop(channels: list[int], kernel_size: int) -> None:
    model, e = layers(AlongFields, 6, 4, channels, kernel_size), draw(3, 6, 4)
    wanted = torch.stack([along_fields_by_loop(model, row).flatten() for row in e])
    torch.testing.assert_close(model(e).double(), wanted, rtol=1e-5, atol=1e-5)


def test_kernel_of_1_along_dim_is_a_matrix_over_fields() -> None:
    model, e = layers(AlongDim, 5, 4, [3], 1, Activation.identity), draw(2, 5, 4)
    (convolution,) = model.convolutions
    wanted = torch.einsum("cf,bfd->bcd", convolution.weight[:, :, 0], e) + convolution.bias[:, None]
    torch.testing.assert_close(model(e), wanted.flatten(1))


@torch.no_grad()
def test_permuting_fields_along_dim_equals_permuting_channels() -> None:
    model, e, order = layers(AlongDim, 5, 4, [3, 2], 3), draw(2, 5, 4), [3, 0, 4, 1, 2]
    wanted = model(e)
    assert not torch.allclose(model(e[:, order]), wanted)
    first = model.convolutions[0]
    first.weight.copy_(first.weight[:, order])
    torch.testing.assert_close(model(e[:, order]), wanted)


def test_numbers_of_a_vector_do_not_meet_along_fields() -> None:
    model, e = layers(AlongFields, 5, 4, [3, 2], 2), draw(2, 5, 4).requires_grad_()
    x = model(e).unflatten(1, (4, -1))  # (B, D, C p)
    (gradient,) = torch.autograd.grad(x[:, 2].sum(), e)
    assert gradient[:, :, 2].any()
    assert not gradient[:, :, [0, 1, 3]].any()


def test_numbers_of_a_vector_share_kernels_along_fields() -> None:
    model, e, order = layers(AlongFields, 5, 4, [3, 2], 2), draw(2, 5, 4), [2, 3, 1, 0]
    x = model(e).unflatten(1, (4, -1))  # (B, D, C p)
    torch.testing.assert_close(model(e[:, :, order]), x[:, order].flatten(1))


def test_p_max_keeps_the_order() -> None:
    x = torch.tensor([[3.0, -1.0, 9.0, 4.0, 7.0], [-5.0, -2.0, -3.0, -9.0, -1.0]])
    assert p_max(x, 3).tolist() == [[9, 4, 7], [-2, -3, -1]]
    assert torch.equal(p_max(x, 5), x)


def test_of_equal_ones_p_max_keeps_the_first() -> None:
    assert p_max(torch.tensor([0.0, 1.0, 0.0, 2.0]), 3).tolist() == [0, 1, 2]
    x = torch.zeros(40, requires_grad=True)
    p_max(x, 2).sum().backward()
    assert x.grad.nonzero().flatten().tolist() == [0, 1]


def test_layers_keep_fewer_and_fewer_and_the_last_keeps_3() -> None:
    assert pool_sizes(16, 4, 3) == [16, 12, 4, 3]  # ceil of 15.75, 12, 4
    assert pool_sizes(9, 3, 3) == [8, 3, 3]  # 8, 3
    assert pool_sizes(10, 2, 3) == [5, 3]
    assert pool_sizes(10, 1, 3) == [3]
    assert pool_sizes(2, 2, 3) == [1, 2]  # F at the most
    assert pool_sizes(4, 4, 1) == [4, 3, 1, 1]  # a kernel of 1 finds no more than the layer before has left


@pytest.mark.parametrize("along", [AlongDim, AlongFields])
@pytest.mark.parametrize("kernel_size", [1, 2, 5])
@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("n_fields", [1, 2, 3, 7])
@pytest.mark.parametrize("channels", [[2], [3, 2], [1, 2, 3]])
def test_any_size_of_kernel_fits_any_picture(
    channels: list[int], n_fields: int, dim: int, kernel_size: int, along: Layers
) -> None:
    model = layers(along, n_fields, dim, channels, kernel_size)
    assert model(draw(1, n_fields, dim)).shape == (1, model.n_out)
    assert model(draw(4, n_fields, dim)).shape == (4, model.n_out)


@pytest.mark.parametrize("axis", Axis)
def test_batch_of_one_keeps_its_dimension(
    axis: Axis, make: Make, gather: Callable[..., Batch], mixed: Batch, mixed_rows: list[int]
) -> None:
    model = make("cnn", axis=axis, embedding_dim=1, channels=[1], hidden_sizes=[1]).eval()
    alone = [model(gather([row])).logits for row in mixed_rows]
    assert all(logits.shape == (1,) for logits in alone)
    torch.testing.assert_close(torch.cat(alone), model(mixed).logits)


def test_activation_learns_for_each_channel() -> None:
    act = PReLU(2)
    with torch.no_grad():
        act.slope.copy_(torch.tensor([0.5, 2.0]))
    x = torch.tensor([[[-1.0, 1.0, -3.0], [-1.0, 1.0, -3.0]]])  # (B, C, N)
    assert channelwise(act, x).tolist() == [[[-0.5, 1, -1.5], [-2, 1, -6]]]


@pytest.mark.parametrize("axis", Axis)
def test_logit_is_an_mlp_of_the_convolved_fields(
    axis: Axis, make: Make, mixed: Batch, field_vectors: Callable[..., list[Tensor]]
) -> None:
    model = make("cnn", axis=axis, activation=Activation.tanh, channels=[4, 3]).eval()
    by_loop = {Axis.dim: along_dim_by_loop, Axis.field: along_fields_by_loop}[axis]
    logits = []
    for row in range(len(mixed)):
        x = by_loop(model.convolve, torch.stack(field_vectors(model.embed, mixed, row)))
        logits.append(model.mlp(x.flatten().float())[0])
    torch.testing.assert_close(model(mixed).logits, torch.stack(logits), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("axis", Axis)
def test_history_is_not_looked_at(axis: Axis, make: Make, mixed: Batch) -> None:
    model = make("cnn", axis=axis).eval()
    blind = replace(mixed, history=torch.zeros_like(mixed.history), mask=torch.zeros_like(mixed.mask))
    assert torch.equal(model(blind).logits, model(mixed).logits)


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("channels", [], "a list of one size or more, each 1 or more"),
        ("channels", [4, 0], "a list of one size or more, each 1 or more"),
        ("kernel_size", 0, "1 to 65536 (wider ones take all memory)"),
    ],
)
def test_sizes_below_1_are_refused(option: str, value: object, allowed: str, make: Make) -> None:
    with pytest.raises(ConfigError) as error:
        make("cnn", **{option: value})
    assert str(error.value) == f"model.{option} = {value}: must be {allowed}."


def test_one_field_is_refused(make: Make, table: Dataset) -> None:
    with pytest.raises(ConfigError, match=r"^model = cnn: needs 2 fields or more, ids included; .* has 1\.$"):
        make("cnn", schema=table.schema.select(["site"], "model.fields"))
