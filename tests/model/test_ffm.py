"""Field-aware factorization machine: its linear part, its pairs, and the machine it is with equal vectors."""

from collections.abc import Callable
from itertools import combinations

import torch
from torch import Tensor, nn

from recexp.dataset.batch import Batch

Make = Callable[..., nn.Module]
Vectors = Callable[..., list[Tensor]]


def aware(model: nn.Module, batch: Batch, row: int, field_vectors: Vectors) -> list[dict[int, Tensor]]:
    """e_i^(j) of each field i, by j."""
    vectors = field_vectors(model.pairs.embed, batch, row)
    others = [[j for j in range(len(vectors)) if j != i] for i in range(len(vectors))]
    parts = [vector.split(model.pairs.shape[1]) for vector in vectors]
    return [dict(zip(js, part, strict=True)) for js, part in zip(others, parts, strict=True)]


@torch.no_grad()
def test_logit_is_the_linear_part_and_all_field_aware_pairs(make: Make, mixed: Batch, field_vectors: Vectors) -> None:
    model = make("ffm")
    nn.init.constant_(model.linear.bias, -0.4)
    logits = []
    for row in range(len(mixed)):
        e = aware(model, mixed, row, field_vectors)
        pairs = sum(e[i][j] @ e[j][i] for i, j in combinations(range(len(e)), 2))
        logits.append(model.linear.bias + sum(field_vectors(model.linear.weights, mixed, row)) + pairs)
    torch.testing.assert_close(model(mixed).logits, torch.cat(logits))


@torch.no_grad()
def test_equal_vectors_are_the_factorization_machine(make: Make, mixed: Batch) -> None:
    fm, model = make("fm", embedding_dim=4), make("ffm", embedding_dim=4, seed=1)
    model.linear.load_state_dict(fm.linear.state_dict())
    n = model.pairs.shape[0]
    model.pairs.embed.load_state_dict({name: x.repeat(1, n) for name, x in fm.embed.state_dict().items()})
    torch.testing.assert_close(model(mixed).logits, fm(mixed).logits)
