"""DeepFM: a factorization machine and an MLP on the same embeddings."""

from collections.abc import Callable
from itertools import combinations

import pytest
import torch
from torch import nn

from recexp.config import Config
from recexp.dataset.batch import Batch, Batches
from recexp.dataset.log import Dataset
from recexp.model.deepfm import Combine

Make = Callable[..., nn.Module]


def machine(model: nn.Module, make: Make, schema: object = None) -> nn.Module:
    """The fm of the same weights."""
    fm = make("fm", schema=schema)
    wrong = fm.load_state_dict(model.state_dict(), strict=False)
    assert not wrong.missing_keys
    return fm


def test_last_layer_of_0_leaves_the_factorization_machine(make: Make, mixed: Batch) -> None:
    model = make("deepfm").eval()
    nn.init.zeros_(model.deep.linears[-1].weight)
    assert torch.equal(model(mixed).logits, machine(model, make)(mixed).logits)


def test_deep_part_is_an_mlp_of_all_fields_side_by_side(make: Make, mixed: Batch, field_vectors: Callable) -> None:
    model = make("deepfm", hidden_sizes=[8]).eval()
    first, last = model.deep.linears
    deep = []
    for row in range(len(mixed)):
        e = torch.cat(field_vectors(model.embed, mixed, row))
        deep.append(last.weight @ torch.relu(first.weight @ e + first.bias) + last.bias)
    torch.testing.assert_close(model(mixed).logits - machine(model, make)(mixed).logits, torch.cat(deep))


def test_one_table_a_side_feeds_both_parts(make: Make) -> None:
    names = [name for name, _ in make("deepfm").named_parameters() if name.endswith("table.weight")]
    assert [name for name in names if not name.startswith("linear.")] == [
        f"embed.sides.{side}.table.weight" for side in ("user", "item", "context")
    ]


def test_table_is_trained_on(compose: Callable[..., Config], make: Make, table: Dataset) -> None:
    batch = next(Batches(table, compose().dataset).epoch("train", 16))
    model = make("deepfm", schema=table.schema).eval()
    nn.init.zeros_(model.deep.linears[-1].weight)
    assert torch.equal(model(batch).logits, machine(model, make, table.schema)(batch).logits)


@torch.no_grad()
@pytest.mark.parametrize("hidden_sizes", [[], [8]])
def test_concat_is_a_linear_layer_of_linear_part_pairs_and_last_hidden_layer(
    hidden_sizes: list[int], make: Make, mixed: Batch, field_vectors: Callable
) -> None:
    model = make("deepfm", combine=Combine.concat, hidden_sizes=hidden_sizes).eval()
    nn.init.constant_(model.linear.bias, -0.4)
    nn.init.constant_(model.output.bias, 0.2)
    logits = []
    for row in range(len(mixed)):
        wide = model.linear.bias + sum(field_vectors(model.linear.weights, mixed, row))  # (1,)
        e = field_vectors(model.embed, mixed, row)
        pairs = sum(one * other for one, other in combinations(e, 2))
        hidden = torch.cat(e)  # without hidden layers the MLP's input
        for layer in model.deep.linears:
            hidden = torch.relu(layer.weight @ hidden + layer.bias)
        logits.append(model.output.weight @ torch.cat([wide, pairs, hidden]) + model.output.bias)
    torch.testing.assert_close(model(mixed).logits, torch.cat(logits))


@torch.no_grad()
def test_concat_of_weights_1_equals_sum(make: Make, mixed: Batch) -> None:
    model, wanted = make("deepfm", combine=Combine.concat).eval(), make("deepfm").eval()
    missing = model.load_state_dict(wanted.state_dict(), strict=False).missing_keys
    assert missing == ["output.weight", "output.bias"]
    last = wanted.deep.linears[-1]
    ones = torch.ones(1, 1 + model.embed.embedding_dim)
    model.output.weight.copy_(torch.cat([ones, last.weight], 1))
    model.output.bias.copy_(last.bias)
    torch.testing.assert_close(model(mixed).logits, wanted(mixed).logits)


@torch.no_grad()
def test_concat_without_the_hidden_layer_is_the_factorization_machine(make: Make, mixed: Batch) -> None:
    model = make("deepfm", combine=Combine.concat).eval()
    nn.init.zeros_(model.output.weight)
    nn.init.ones_(model.output.weight[:, : 1 + model.embed.embedding_dim])
    torch.testing.assert_close(model(mixed).logits, machine(model, make)(mixed).logits)
