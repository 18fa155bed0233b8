"""FinalMLP against a loop over heads, and the two MLPs it holds."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from recexp.dataset.batch import Batch, Batches
from recexp.dataset.log import Dataset
from recexp.error import ConfigError

Make = Callable[..., nn.Module]
Vectors = Callable[..., list[Tensor]]


def hidden(mlp: nn.Module, x: Tensor) -> Tensor:
    """The only hidden layer of an MLP."""
    (linear,) = mlp.linears
    return torch.relu(linear.weight @ x + linear.bias)


def gated(gate: nn.Module, batch: Batch, row: int, field_vectors: Vectors) -> Tensor:
    first, last = gate.mlp.linears
    x = torch.cat(field_vectors(gate.embed, batch, row))
    return 2 * torch.sigmoid(last.weight @ torch.relu(first.weight @ x + first.bias) + last.bias)


@torch.no_grad()
@pytest.mark.parametrize("gates", [True, False])
def test_logit_is_the_fusion_of_two_gated_mlps(gates: bool, make: Make, mixed: Batch, field_vectors: Vectors) -> None:
    model = make("finalmlp", gates=gates, hidden_sizes=[8], second_hidden_sizes=[6], n_heads=2).eval()
    logits = []
    for row in range(len(mixed)):
        e = torch.cat(field_vectors(model.embed, mixed, row))
        streams = [gated(gate, mixed, row, field_vectors) * e for gate in model.gates] if gates else [e, e]
        one, other = hidden(model.first, streams[0]), hidden(model.second, streams[1])
        heads = [one[:4] @ model.fusion[0] @ other[:3], one[4:] @ model.fusion[1] @ other[3:]]
        logits.append(model.weights.weight @ torch.cat([one, other]) + model.weights.bias + sum(heads))
    torch.testing.assert_close(model(mixed).logits, torch.cat(logits))


@torch.no_grad()
def test_open_gates_without_fusion_are_two_mlps(make: Make, mixed: Batch) -> None:
    model = make("finalmlp").eval()
    nn.init.zeros_(model.fusion)
    for gate in model.gates:
        nn.init.zeros_(gate.mlp.linears[-1].weight)  # 2 sigmoid(0) = 1
    e = model.embed.fields(mixed).flatten(1)
    parts = torch.cat([model.first(e), model.second(e)], 1)
    torch.testing.assert_close(model(mixed).logits, model.weights(parts)[:, 0])


def test_products_start_as_the_inputs_of_one_layer(make: Make) -> None:
    fusion = make(
        "finalmlp", hidden_sizes=[64], second_hidden_sizes=[32], n_heads=4, weight_init="xavier_normal"
    ).fusion
    assert fusion.shape == (4, 16, 8)
    torch.testing.assert_close(float(fusion.std()), (2 / (4 * 16 * 8 + 1)) ** 0.5, rtol=0.15, atol=0)


def names(gate: nn.Module) -> list[str]:
    return [field.name for side in gate.embed.sides.values() for field in side.side.fields]


def test_gates_read_the_user_and_the_item_or_the_fields_named(make: Make, dataset: Dataset) -> None:
    first, second = make("finalmlp").gates
    assert names(first) == [field.name for field in dataset.schema.user.fields]
    assert names(second) == [field.name for field in dataset.schema.item.fields]
    first, second = make("finalmlp", gate_fields=["item", "tags"], second_gate_fields=["user"]).gates
    assert (names(first), names(second)) == (["item", "tags"], ["user"])


def test_gates_of_a_table_without_names_are_the_same_for_all_rows(
    compose: Callable, make: Make, table: Dataset
) -> None:
    model = make("finalmlp", schema=table.schema)
    batch = next(Batches(table, compose().dataset).epoch("train", 16))
    assert [gate(batch)[0].shape for gate in model.gates] == [(1, 3 * model.embed.embedding_dim)] * 2
    model(batch).logits.sum().backward()
    assert all(gate.vector.grad.any() for gate in model.gates)


@torch.no_grad()
def test_mlps_without_hidden_layers_are_fused_gated_vectors(make: Make, mixed: Batch) -> None:
    model = make("finalmlp", hidden_sizes=[], second_hidden_sizes=[], n_heads=1).eval()
    e = model.embed.fields(mixed).flatten(1)
    first, second = (2 * gate(mixed)[0][gate(mixed)[1]] * e for gate in model.gates)
    fused = torch.einsum("bn,nm,bm->b", first, model.fusion[0], second)
    wanted = model.weights(torch.cat([first, second], 1))[:, 0] + fused
    torch.testing.assert_close(model(mixed).logits, wanted)


def test_mistaken_options_are_told_in_one_line(make: Make) -> None:
    with pytest.raises(ConfigError, match=r"^model\.n_heads = 5: must be a divisor of both MLPs' last sizes 64 and 64"):
        make("finalmlp", n_heads=5)
    with pytest.raises(ConfigError, match=r"^model\.gate_fields = usr: no such field\. Did you mean 'user'\?"):
        make("finalmlp", gate_fields=["usr"])
    with pytest.raises(ConfigError, match=r"^model\.second_gate_fields = \[\]: must be a list of fields, or null"):
        make("finalmlp", second_gate_fields=[])
