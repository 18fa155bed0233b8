"""xDeepFM: the compressed interaction network against a loop, and the factorization machine it holds."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from recexp.dataset.batch import Batch
from recexp.error import ConfigError
from recexp.layer import chunk
from recexp.layer.mlp import WeightInit
from recexp.model.xdeepfm import CIN

Make = Callable[..., nn.Module]
Vectors = Callable[..., list[Tensor]]


def by_pairs(cin: CIN, e: Tensor, split: bool) -> Tensor:
    """Eq. 6 and 7, a pair of maps at a time: e (F, D) -> p."""
    x, sums = e, []
    for number, layer in enumerate(cin.layers, start=1):
        weight = layer.weight.unflatten(1, (len(x), len(e)))  # (H, G, F)
        maps = [sum(row[i, j] * x[i] * e[j] for i in range(len(x)) for j in range(len(e))) for row in weight]
        n_passed = len(maps) // 2 if split and number < len(cin.layers) else 0
        sums += [x_h.sum() for x_h in maps[: len(maps) - n_passed]]
        x = torch.stack(maps[len(maps) - n_passed :] if n_passed else maps)
    return torch.stack(sums)


@torch.no_grad()
@pytest.mark.parametrize("split", [True, False])
def test_logit_is_the_sum_of_three_parts(split: bool, make: Make, mixed: Batch, field_vectors: Vectors) -> None:
    model = make("xdeepfm", cin_sizes=[20, 4, 3], split=split, hidden_sizes=[8]).eval()
    nn.init.constant_(model.linear.bias, -0.4)
    first, last = model.deep.linears
    logits = []
    for row in range(len(mixed)):
        e = torch.stack(field_vectors(model.embed, mixed, row))
        linear = model.linear.bias + sum(field_vectors(model.linear.weights, mixed, row))
        explicit = model.output.weight @ by_pairs(model.cin, e, split)
        deep = last.weight @ torch.relu(first.weight @ e.flatten() + first.bias) + last.bias
        logits.append(linear + explicit + deep)
    torch.testing.assert_close(model(mixed).logits, torch.cat(logits))


@torch.no_grad()
def test_one_map_of_all_pairs_and_no_deep_part_is_the_factorization_machine(make: Make, mixed: Batch) -> None:
    model, fm = make("xdeepfm", cin_sizes=[2]).eval(), make("fm", seed=1)
    n_fields = model.embed.n_fields
    halves = (1 - torch.eye(n_fields)) / 2
    model.cin.layers[0].weight.copy_(torch.stack([halves.flatten(), torch.zeros(n_fields**2)]))
    nn.init.ones_(model.output.weight)
    nn.init.zeros_(model.deep.linears[-1].weight)
    assert not fm.load_state_dict(model.state_dict(), strict=False).missing_keys
    torch.testing.assert_close(model(mixed).logits, fm(mixed).logits)


@torch.no_grad()
def test_layer_k_is_of_order_k_plus_1() -> None:
    cin = CIN(4, [3, 3, 3], False, WeightInit.xavier_uniform)
    e = torch.randn(2, 4, 5)
    for layer, (one, twice) in enumerate(zip(cin(e).split(3, 1), cin(2 * e).split(3, 1), strict=True), start=1):
        torch.testing.assert_close(twice, 2 ** (layer + 1) * one)


@pytest.mark.parametrize("split", [True, False])
def test_chunks_and_kernels_change_no_gradient(split: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    cin = CIN(4, [6, 4, 3], split, WeightInit.xavier_uniform)
    wide = copy.deepcopy(cin).double()  # which no kernel takes
    e = torch.randn(7, 4, 5)
    whole, *others = [gradients(wide, e.double()), gradients(cin, e)]
    monkeypatch.setattr(chunk, "LARGEST", 5 * 4 * 6 * 2)  # two rows
    others.append(gradients(wide, e.double()))
    for found in others:
        torch.testing.assert_close([x.double() for x in found], whole, rtol=1e-4, atol=1e-5)


def gradients(cin: CIN, e: Tensor) -> list[Tensor]:
    e = e.detach().requires_grad_()
    return list(torch.autograd.grad(cin(e).square().sum(), [e, *cin.parameters()]))


def test_layer_of_one_map_cannot_be_split(make: Make) -> None:
    with pytest.raises(ConfigError, match=r"^model\.cin_sizes = \[4, 1\]: must be a list of one size or more"):
        make("xdeepfm", cin_sizes=[4, 1])
