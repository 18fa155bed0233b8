"""Mixture of experts with a gate for each label."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from recexp.dataset.batch import Batch
from recexp.dataset.log import Dataset

Make = Callable[..., nn.Module]


@torch.no_grad()
def test_each_label_mixes_the_experts_by_its_own_gate(make: Make, dataset: Dataset, mixed: Batch) -> None:
    schema = replace(dataset.schema, tasks=("like", "finish"))
    model = make("mmoe", schema=schema, n_experts=3, hidden_sizes=[5]).eval()
    for gate in model.gates:
        nn.init.normal_(gate.linear.weight)
    output, x = model(mixed), model.encode(mixed)
    for task in range(2):
        for row in range(len(mixed)):
            gate = (model.gates[task].linear.weight @ x[row]).softmax(0)
            blend = sum(gate[k] * model.experts.of[k](x[row : row + 1])[0] for k in range(3))
            torch.testing.assert_close(output.tasks[row, task], model.towers.of[task](blend[None])[0, 0])
            torch.testing.assert_close(output.parts["gates"][row, task], gate)


@torch.no_grad()
def test_one_expert_is_a_shared_bottom(make: Make, dataset: Dataset, mixed: Batch) -> None:
    schema = replace(dataset.schema, tasks=("like", "finish"))
    model, bottom = (
        make(name, schema=schema, hidden_sizes=[8], **options).eval()
        for name, options in (("mmoe", {"n_experts": 1}), ("shared_bottom", {}))
    )
    bottom.encode, bottom.bottom, bottom.towers = model.encode, model.experts.of[0], model.towers
    torch.testing.assert_close(model(mixed).tasks, bottom(mixed).tasks)


def test_at_first_every_expert_has_the_same_share_of_every_label(make: Make, dataset: Dataset, mixed: Batch) -> None:
    gates = make("mmoe", schema=replace(dataset.schema, tasks=("a", "b")), n_experts=5)(mixed).parts["gates"]
    torch.testing.assert_close(gates, torch.full((len(mixed), 2, 5), 0.2))
