"""model.weight_init draws every layer of a model, not only some."""

from collections.abc import Callable
from dataclasses import fields

import pytest
import torch
from torch import nn

from recexp import registry
from recexp.layer.bilinear import Kind
from recexp.layer.lookup import Table
from recexp.layer.mlp import WeightInit
from recexp.model.dcnv2 import Cross
from recexp.model.pnn import Product

LARGE = 200  # weights of a matrix that show how they were drawn: the largest is 1.7 deviations if uniform, else above 2
MODELS = [
    name
    for name in registry.names("model")
    if "weight_init" in {field.name for field in fields(registry.get("model", name).Config)}
]


CASES = [
    *((name, {}) for name in MODELS),
    ("pnn", {"product": Product.kernel}),
    ("dcnv2", {"cross": Cross.mixture}),
    ("fibinet", {"bilinear": Kind.interaction}),
    ("autoint", {"hidden_sizes": [64]}),
]


def matrices(model: nn.Module) -> dict[str, torch.Tensor]:
    """All large weights but those of embeddings."""
    of_tables = {id(module.weight) for module in model.modules() if isinstance(module, Table)}
    return {
        name: weight.detach()
        for name, weight in model.named_parameters()
        if weight.dim() > 1 and weight.numel() >= LARGE and id(weight) not in of_tables and "direction" not in name
    }


@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.parametrize("init", WeightInit)
def test_every_layer_is_drawn_as_asked_for(
    init: WeightInit, name: str, options: dict, make: Callable[..., nn.Module]
) -> None:
    uniform = init is WeightInit.xavier_uniform
    weights = matrices(make(name, weight_init=init, **options))
    assert weights
    assert [key for key, w in weights.items() if (w.abs().max() / w.std() < 2) != uniform] == []
