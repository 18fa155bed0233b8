"""Bilinear-interaction MLP against a loop over all pairs, and the factorization machine it holds."""

from collections.abc import Callable
from itertools import combinations

import pytest
import torch
from torch import Tensor, nn

from recexp.config import Config
from recexp.dataset.batch import Batch, Batches
from recexp.dataset.log import Dataset
from recexp.error import ConfigError

Make = Callable[..., nn.Module]
Vectors = Callable[..., list[Tensor]]


def by_pairs(model: nn.Module, batch: Batch, field_vectors: Vectors) -> Tensor:
    """The logits of a model of one hidden layer with relu, a sample and a pair at a time."""
    first, last = model.mlp.linears
    logits = []
    for row in range(len(batch)):
        products = sum(e * other for e, other in combinations(field_vectors(model.embed, batch, row), 2))
        logits.append(last.weight @ torch.relu(first.weight @ products + first.bias) + last.bias)
    return torch.cat(logits)


@torch.no_grad()
def summed(model: nn.Module) -> nn.Module:
    """The model whose logit is the sum of BI: no hidden layer, output weights 1, bias 0."""
    nn.init.ones_(model.mlp.first.weight)
    nn.init.zeros_(model.mlp.first.bias)
    return model


def test_logit_is_an_mlp_of_the_products_of_all_pairs(make: Make, mixed: Batch, field_vectors: Vectors) -> None:
    model = make("fnn_plus", hidden_sizes=[8]).eval()
    torch.testing.assert_close(model(mixed).logits, by_pairs(model, mixed, field_vectors))


def test_pairs_of_a_table_count_too(
    compose: Callable[..., Config], make: Make, table: Dataset, field_vectors: Vectors
) -> None:
    batch = next(Batches(table, compose().dataset).epoch("train", 16))
    model = make("fnn_plus", schema=table.schema, hidden_sizes=[8]).eval()
    torch.testing.assert_close(model(batch).logits, by_pairs(model, batch, field_vectors))


@torch.no_grad()
def test_sum_of_the_products_is_the_pair_term_of_fm(make: Make, mixed: Batch) -> None:
    model, fm = summed(make("fnn_plus", hidden_sizes=[])), make("fm", seed=1)
    fm.embed.load_state_dict(model.embed.state_dict())
    pairs = fm(mixed).logits - fm.linear(mixed)
    assert pairs.abs().min() > 0
    torch.testing.assert_close(model(mixed).logits, pairs)


def test_gradient_of_a_field_is_the_sum_of_the_others(
    make: Make, gather: Callable[..., Batch], field_vectors: Vectors
) -> None:
    model, batch = summed(make("fnn_plus", hidden_sizes=[])), gather([5])
    model(batch).logits.sum().backward()
    e = field_vectors(model.embed, batch, 0)
    user = int(batch.catalogue.users.ids[batch.user[0], 0])  # the first field's row of the table
    torch.testing.assert_close(model.embed.sides["user"].table.weight.grad[user], sum(e[1:]))


def test_vectors_a_tenth_as_large_have_a_gradient_a_tenth_as_large(make: Make, mixed: Batch) -> None:
    gradients = []
    for scale in (1.0, 0.1, 0.0):
        model = summed(make("fnn_plus", hidden_sizes=[]))
        with torch.no_grad():
            for parameter in model.embed.parameters():
                parameter *= scale
        model(mixed).logits.sum().backward()
        gradients.append(model.embed.sides["item"].table.weight.grad)
    torch.testing.assert_close(gradients[1], gradients[0] / 10)
    assert not gradients[2].any()  # 0 is a saddle


def test_one_field_is_refused(make: Make, table: Dataset) -> None:
    with pytest.raises(ConfigError, match=r"^model = fnn_plus: needs 2 fields or more, ids included; .* has 1\.$"):
        make("fnn_plus", schema=table.schema.select(["site"], "model.fields"))
