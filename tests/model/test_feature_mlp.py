"""MLP over all fields: the fields side by side, in an order that only the first layer knows."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from recexp.config import Config
from recexp.dataset.batch import Batch, Batches
from recexp.dataset.log import Dataset
from recexp.error import ConfigError

Make = Callable[..., nn.Module]
Vectors = Callable[..., list[Tensor]]


def by_rows(model: nn.Module, batch: Batch, field_vectors: Vectors) -> Tensor:
    """The logits of a model of one hidden layer with relu, a sample at a time."""
    first, last = model.mlp.linears
    logits = []
    for row in range(len(batch)):
        e = torch.cat(field_vectors(model.embed, batch, row))
        logits.append(last.weight @ torch.relu(first.weight @ e + first.bias) + last.bias)
    return torch.cat(logits)


class Permuted(nn.Module):
    """The fields of an embedding in another order."""

    def __init__(self, embed: nn.Module, order: list[int]) -> None:
        super().__init__()
        self.embed, self.place = embed, order

    def fields(self, batch: Batch) -> Tensor:
        return self.embed.fields(batch)[:, self.place]


def test_logit_is_an_mlp_of_all_fields_side_by_side(make: Make, mixed: Batch, field_vectors: Vectors) -> None:
    model = make("feature_mlp", hidden_sizes=[8]).eval()
    torch.testing.assert_close(model(mixed).logits, by_rows(model, mixed, field_vectors))


def test_fields_of_a_table_stand_side_by_side_too(
    compose: Callable[..., Config], make: Make, table: Dataset, field_vectors: Vectors
) -> None:
    batch = next(Batches(table, compose().dataset).epoch("train", 16))
    model = make("feature_mlp", schema=table.schema, hidden_sizes=[8]).eval()
    torch.testing.assert_close(model(batch).logits, by_rows(model, batch, field_vectors))


@torch.no_grad()
def test_permuting_fields_equals_permuting_columns_of_the_first_layer(make: Make, mixed: Batch) -> None:
    model = make("feature_mlp").eval()
    wanted = model(mixed).logits
    order = torch.randperm(model.embed.n_fields, generator=torch.Generator().manual_seed(0)).tolist()
    model.embed = Permuted(model.embed, order)
    assert not torch.allclose(model(mixed).logits, wanted)
    columns = model.mlp.first.weight.unflatten(1, (len(order), -1))  # (H, F, D)
    model.mlp.first.weight.copy_(columns[:, order].flatten(1))
    torch.testing.assert_close(model(mixed).logits, wanted)


@torch.no_grad()
def test_one_number_a_field_summed_is_the_linear_model(make: Make, mixed: Batch) -> None:
    model, linear = make("feature_mlp", embedding_dim=1, hidden_sizes=[]), make("linear")
    nn.init.ones_(model.mlp.first.weight)
    nn.init.constant_(model.mlp.first.bias, 0.3)
    linear.linear.weights.load_state_dict(model.embed.state_dict())
    nn.init.constant_(linear.linear.bias, 0.3)
    torch.testing.assert_close(model(mixed).logits, linear(mixed).logits)


def test_history_is_not_looked_at(make: Make, mixed: Batch) -> None:
    model = make("feature_mlp").eval()
    blind = replace(mixed, history=torch.zeros_like(mixed.history), mask=torch.zeros_like(mixed.mask))
    assert torch.equal(model(blind).logits, model(mixed).logits)


def test_two_ids_are_fields_enough(make: Make, dataset: Dataset, mixed: Batch) -> None:
    assert make("feature_mlp", schema=dataset.schema.ids)(mixed).logits.shape == (len(mixed),)


def test_one_field_is_refused(make: Make, table: Dataset) -> None:
    with pytest.raises(ConfigError, match=r"^model = feature_mlp: needs 2 fields or more, ids included; .* has 1\.$"):
        make("feature_mlp", schema=table.schema.select(["site"], "model.fields"))
