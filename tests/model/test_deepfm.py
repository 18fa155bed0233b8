"""DeepFM: a factorization machine and an MLP on the same embeddings."""

from collections.abc import Callable

import torch
from torch import nn

from recexp.config import Config
from recexp.dataset.batch import Batch, Batches
from recexp.dataset.log import Dataset

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
