"""Operation-aware network against a loop over pairs, and the product-based network it is with equal vectors."""

from collections.abc import Callable
from itertools import combinations

import torch
from torch import Tensor, nn

from recexp.dataset.batch import Batch

Make = Callable[..., nn.Module]
Vectors = Callable[..., list[Tensor]]


@torch.no_grad()
def test_logit_is_an_mlp_of_copies_and_products(make: Make, mixed: Batch, field_vectors: Vectors) -> None:
    model = make("onn", hidden_sizes=[8]).eval()
    first, last = model.mlp.linears
    logits = []
    for row in range(len(mixed)):
        vectors = torch.stack(field_vectors(model.pairs.embed, mixed, row)).unflatten(1, model.pairs.shape)
        pairs = combinations(range(len(vectors)), 2)
        products = [vectors[i, j - 1] @ vectors[j, i] for i, j in pairs]  # of the others, j is the (j - 1)th or jth
        x = torch.cat([*field_vectors(model.copy, mixed, row), torch.stack(products)])
        logits.append(last.weight @ torch.relu(first.weight @ x + first.bias) + last.bias)
    torch.testing.assert_close(model(mixed).logits, torch.cat(logits))


@torch.no_grad()
def test_equal_vectors_are_the_product_based_network(make: Make, mixed: Batch) -> None:
    pnn = make("pnn", embedding_dim=8).eval()
    model = make("onn", embedding_dim=8, seed=1).eval()
    model.mlp.load_state_dict(pnn.mlp.state_dict())
    model.copy.load_state_dict(pnn.embed.state_dict())
    n = model.pairs.shape[0]
    model.pairs.embed.load_state_dict({name: x.repeat(1, n) for name, x in pnn.embed.state_dict().items()})
    torch.testing.assert_close(model(mixed).logits, pnn(mixed).logits)
