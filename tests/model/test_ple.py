"""Progressive layered extraction: experts of one label and shared ones, in levels."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from recexp.dataset.batch import Batch
from recexp.dataset.log import Dataset
from recexp.layer.expert import Gate

Make = Callable[..., nn.Module]


def mixed_by(gate: nn.Module, x: Tensor, experts: list[Tensor]) -> Tensor:
    weights = (gate.linear.weight @ x).softmax(0)
    return sum(weights[k] * expert for k, expert in enumerate(experts))


def draw_gates(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, Gate):
            nn.init.normal_(module.linear.weight, std=0.5)


@torch.no_grad()
def test_levels_are_those_of_a_loop(make: Make, dataset: Dataset, mixed: Batch) -> None:
    schema = replace(dataset.schema, tasks=("like", "finish"))
    model = make("ple", schema=schema, n_levels=3, n_experts=2, own_experts=1, hidden_sizes=[6]).eval()
    draw_gates(model)
    found, encoded = model(mixed).tasks, model.encode(mixed)
    for row in range(len(mixed)):
        own, shared = [encoded[row]] * 2, encoded[row]
        for number, level in enumerate(model.levels):
            of_all = [expert(shared[None])[0] for expert in level.shared.of]
            of_task = [[expert(own[t][None])[0] for expert in level.own[t].of] for t in range(2)]
            after = [mixed_by(level.gates[t], own[t], of_task[t] + of_all) for t in range(2)]
            if number < 2:
                shared = mixed_by(level.shared_gate, shared, of_task[0] + of_task[1] + of_all)
            own = after
        wanted = torch.cat([model.towers.of[t](own[t][None])[0] for t in range(2)])
        torch.testing.assert_close(found[row], wanted, rtol=1e-4, atol=1e-6)
    assert model.levels[-1].shared_gate is None


@torch.no_grad()
def test_one_level_without_own_experts_is_mmoe(make: Make, dataset: Dataset, mixed: Batch) -> None:
    schema = replace(dataset.schema, tasks=("like", "finish"))
    model = make("ple", schema=schema, n_levels=1, n_experts=3, own_experts=0, hidden_sizes=[6]).eval()
    draw_gates(model)
    mmoe = make("mmoe", schema=schema, n_experts=3, hidden_sizes=[6]).eval()
    level = model.levels[0]
    mmoe.encode, mmoe.experts, mmoe.gates, mmoe.towers = model.encode, level.shared, level.gates, model.towers
    torch.testing.assert_close(model(mixed).tasks, mmoe(mixed).tasks)
