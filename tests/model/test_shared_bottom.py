"""Shared bottom: one MLP below a tower for each label."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from recexp.dataset.batch import Batch
from recexp.dataset.log import Dataset

Make = Callable[..., nn.Module]


def through(mlp: nn.Module, x: Tensor) -> Tensor:
    """An MLP of relus, one layer at a time; x (n,)."""
    for number, layer in enumerate(mlp.linears):
        x = layer.weight @ x + layer.bias
        x = torch.relu(x) if number < len(mlp.hidden) else x
    return x


@torch.no_grad()
def test_logits_are_towers_of_one_bottom(make: Make, dataset: Dataset, mixed: Batch, field_vectors: Callable) -> None:
    schema = replace(dataset.schema, tasks=("like", "finish"))
    model = make("shared_bottom", schema=schema, hidden_sizes=[8, 4], tower_sizes=[3]).eval()
    for row, found in enumerate(model(mixed).tasks):
        bottom = through(model.bottom, torch.cat(field_vectors(model.encode.embed, mixed, row)))
        wanted = torch.cat([through(tower, bottom) for tower in model.towers.of])
        torch.testing.assert_close(found, wanted)
