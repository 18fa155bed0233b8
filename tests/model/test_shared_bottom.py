"""Shared bottom: one MLP below a tower for each label."""

from collections.abc import Callable
from dataclasses import replace

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from recexp.dataset.batch import Batch, Batches
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


def test_a_label_that_few_rows_have_learns_from_one_of_the_same_cause(
    make: Make, dataset: Dataset, gather: Callable[..., Batch], batches: Batches
) -> None:
    """Both labels follow from the item; 60 of 1,200 rows have the second, so most items are never seen with it."""
    torch.manual_seed(0)
    batch = gather(range(batches.size("train")))
    effect = torch.randn(len(batch.catalogue.items.ids))[batch.target]
    labels = (3 * effect[:, None] + torch.randn(len(batch), 2) > 0).float()
    few = torch.rand(len(batch)) < 0.05
    seen = replace(batch, tasks=torch.stack([labels[:, 0], torch.where(few, labels[:, 1], -1.0)], 1))
    found = {}
    for first in (0.0, 1.0):
        model = make("shared_bottom", schema=replace(dataset.schema, tasks=("often", "rarely")), dropout=0.0)
        adam = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(40):
            adam.zero_grad()
            losses = model.losses(model(seen), seen)
            (first * losses["often"] + losses["rarely"]).backward()
            adam.step()
        scores = model.eval()(seen).tasks[~few, 1].detach().numpy()
        found[first] = roc_auc_score(labels[~few, 1], scores)
    assert found[1.0] > found[0.0] + 0.05, found
