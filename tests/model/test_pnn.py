"""Product-based networks against loops over pairs of fields."""

from collections.abc import Callable
from itertools import combinations, product

import pytest
import torch
from torch import Tensor, nn

from recexp.dataset.batch import Batch
from recexp.model.pnn import Product

Make = Callable[..., nn.Module]
Vectors = Callable[..., list[Tensor]]


def inner(model: nn.Module, e: list[Tensor]) -> Tensor:
    return torch.stack([one @ other for one, other in combinations(e, 2)])


def outer(model: nn.Module, e: list[Tensor]) -> Tensor:
    total = sum(torch.outer(one, other) for one, other in product(e, e))  # (D, D)
    return torch.cat([total[d, d:] for d in range(len(total))])


def kernel(model: nn.Module, e: list[Tensor]) -> Tensor:
    pairs = zip(combinations(e, 2), model.kernel.weight, strict=True)
    return torch.stack([one @ weight @ other for (one, other), weight in pairs])


@torch.no_grad()
@pytest.mark.parametrize("loop", [inner, outer, kernel])
def test_logit_is_an_mlp_of_fields_and_products(
    loop: Callable, make: Make, mixed: Batch, field_vectors: Vectors
) -> None:
    model = make("pnn", product=Product[loop.__name__], hidden_sizes=[8]).eval()
    first, last = model.mlp.linears
    logits = []
    for row in range(len(mixed)):
        e = field_vectors(model.embed, mixed, row)
        x = torch.cat([*e, loop(model, e)])
        logits.append(last.weight @ torch.relu(first.weight @ x + first.bias) + last.bias)
    torch.testing.assert_close(model(mixed).logits, torch.cat(logits))


@torch.no_grad()
def test_kernels_of_the_identity_are_inner_products(make: Make, mixed: Batch) -> None:
    model, wanted = make("pnn", product=Product.kernel).eval(), make("pnn", seed=1).eval()
    model.kernel.weight.copy_(torch.eye(model.embed.embedding_dim))
    wanted.load_state_dict(model.state_dict(), strict=False)
    torch.testing.assert_close(model(mixed).logits, wanted(mixed).logits)


@torch.no_grad()
def test_weights_0_on_the_products_leave_the_mlp_of_fields(make: Make, mixed: Batch) -> None:
    for kind in Product:
        model, plain = make("pnn", product=kind).eval(), make("feature_mlp").eval()
        n_in = plain.mlp.first.in_features
        nn.init.zeros_(model.mlp.first.weight[:, n_in:])
        state = model.state_dict()
        state["mlp.linears.0.weight"] = state["mlp.linears.0.weight"][:, :n_in]
        plain.load_state_dict({name: state[name] for name in plain.state_dict()})
        torch.testing.assert_close(model(mixed).logits, plain(mixed).logits)
