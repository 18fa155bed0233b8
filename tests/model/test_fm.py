"""Factorization machine against a loop over all pairs."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from recexp.config import Config
from recexp.dataset.batch import Batch, Batches
from recexp.dataset.log import Dataset

Make = Callable[..., nn.Module]
Vectors = Callable[..., list[Tensor]]


@torch.no_grad()
def by_pairs(model: nn.Module, batch: Batch, field_vectors: Vectors) -> Tensor:
    """Eq. 1, a sample and a pair at a time."""
    logits = []
    for row in range(len(batch)):
        weights = field_vectors(model.linear.weights, batch, row)
        e = field_vectors(model.embed, batch, row)
        pairs = sum(float(e[i] @ e[j]) for i in range(len(e)) for j in range(i + 1, len(e)))
        logits.append(float(model.linear.bias) + sum(map(float, weights)) + pairs)
    return torch.tensor(logits)


def test_logit_is_the_linear_part_and_all_pairs(make: Make, mixed: Batch, field_vectors: Vectors) -> None:
    model = make("fm")
    nn.init.constant_(model.linear.bias, -0.4)
    torch.testing.assert_close(model(mixed).logits, by_pairs(model, mixed, field_vectors))


def test_pairs_of_a_table_count_too(
    compose: Callable[..., Config], make: Make, table: Dataset, field_vectors: Vectors
) -> None:
    batch = next(Batches(table, compose().dataset).epoch("train", 16))
    model = make("fm", schema=table.schema)
    torch.testing.assert_close(model(batch).logits, by_pairs(model, batch, field_vectors))


def test_embeddings_of_0_leave_the_linear_model(make: Make, mixed: Batch) -> None:
    model, linear = make("fm"), make("linear")
    for side in model.embed.sides.values():
        nn.init.zeros_(side.table.weight)
        if side.side.value_columns:
            nn.init.zeros_(side.direction)
    linear.load_state_dict(model.state_dict(), strict=False)
    assert torch.equal(model(mixed).logits, linear(mixed).logits)


def test_gradient_of_a_field_is_the_sum_of_the_others(
    make: Make, gather: Callable[..., Batch], field_vectors: Vectors
) -> None:
    model, batch = make("fm"), gather([5])
    model(batch).logits.sum().backward()
    e = field_vectors(model.embed, batch, 0)
    user = int(batch.catalogue.users.ids[batch.user[0], 0])  # the first field's row of the table
    torch.testing.assert_close(model.embed.sides["user"].table.weight.grad[user], sum(e[1:]))
