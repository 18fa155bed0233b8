"""Logistic regression against sums by hand."""

from collections.abc import Callable

import torch
from torch import nn

from recexp.config import Config
from recexp.dataset.batch import Batch, Batches
from recexp.dataset.log import Dataset

Make = Callable[..., nn.Module]
Vectors = Callable[..., list]


def test_logit_is_the_bias_and_a_weight_for_each_field(make: Make, mixed: Batch, field_vectors: Vectors) -> None:
    model = make("linear")
    nn.init.constant_(model.linear.bias, 0.7)
    wanted = [0.7 + sum(float(w) for w in field_vectors(model.linear.weights, mixed, row)) for row in range(len(mixed))]
    torch.testing.assert_close(model(mixed).logits, torch.tensor(wanted))


def test_field_of_a_table_has_a_weight_too(
    compose: Callable[..., Config], make: Make, table: Dataset, field_vectors: Vectors
) -> None:
    batch = next(Batches(table, compose().dataset).epoch("train", 32))
    model = make("linear", schema=table.schema)
    wanted = [sum(float(w) for w in field_vectors(model.linear.weights, batch, row)) for row in range(32)]
    assert len(field_vectors(model.linear.weights, batch, 0)) == 3
    torch.testing.assert_close(model(batch).logits, torch.tensor(wanted))


def test_history_plays_no_part(make: Make, mixed: Batch, gather: Callable[..., Batch], mixed_rows: list[int]) -> None:
    model = make("linear")
    alone = torch.cat([model(gather([row])).logits for row in mixed_rows])
    torch.testing.assert_close(model(mixed).logits, alone)
