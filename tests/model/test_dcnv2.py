"""Deep & Cross Network v2: crosses against a loop, and what they are with special weights."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from recexp.dataset.batch import Batch
from recexp.layer.mlp import WeightInit
from recexp.model.dcnv2 import Cross, FullCrosses, MixtureCross, MixtureCrosses, Structure

Make = Callable[..., nn.Module]
Vectors = Callable[..., list[Tensor]]


def by_number(cross: nn.ModuleDict, x0: Tensor, x: Tensor) -> Tensor:
    """Eq. 1 for each number of x_0, x (N,)."""
    weight, bias = cross["linear"].weight, cross["linear"].bias
    return torch.stack([x0[n] * (weight[n] @ x + bias[n]) + x[n] for n in range(len(x))])


def by_expert(cross: MixtureCross, x0: Tensor, x: Tensor) -> Tensor:
    """The mixture, an expert at a time: x_0, x (N,)."""
    gates = (cross.gate.weight @ x).softmax(0)
    experts = []
    for down, inner, up in zip(cross.down, cross.inner, cross.up, strict=True):
        low = torch.tanh(inner.t() @ torch.tanh(down @ x))
        experts.append(x0 * (up.t() @ low + cross.bias))
    return sum(gate * expert for gate, expert in zip(gates, experts, strict=True)) + x


@torch.no_grad()
@pytest.mark.parametrize("structure", Structure)
@pytest.mark.parametrize(("cross", "loop"), [(Cross.full, by_number), (Cross.mixture, by_expert)])
def test_logit_is_a_linear_layer_of_crosses_and_mlp(
    structure: Structure, cross: Cross, loop: Callable, make: Make, mixed: Batch, field_vectors: Vectors
) -> None:
    model = make("dcnv2", structure=structure, cross=cross, hidden_sizes=[8], rank=3).eval()
    for layer in model.crosses:
        nn.init.normal_(layer["linear"].bias if cross is Cross.full else layer.bias)
    (hidden,) = model.deep.linears
    logits = []
    for row in range(len(mixed)):
        x = x0 = torch.cat(field_vectors(model.embed, mixed, row))
        for layer in model.crosses:
            x = loop(layer, x0, x)
        read = x0 if structure is Structure.parallel else x
        deep = torch.relu(hidden.weight @ read + hidden.bias)
        last = torch.cat([x, deep]) if structure is Structure.parallel else deep
        logits.append(model.output.weight @ last + model.output.bias)
    torch.testing.assert_close(model(mixed).logits, torch.cat(logits))


@torch.no_grad()
def test_crosses_of_weights_0_are_the_identity() -> None:
    x0 = torch.randn(5, 6)
    full, mixture = FullCrosses(2, 6, WeightInit.xavier_uniform), MixtureCrosses(2, 6, 2, 3, WeightInit.xavier_uniform)
    for cross in full:
        nn.init.zeros_(cross["linear"].weight)
    for cross in mixture:
        nn.init.zeros_(cross.up)
    assert torch.equal(full(x0), x0) and torch.equal(mixture(x0), x0)


@torch.no_grad()
def test_matrix_of_equal_rows_is_the_first_dcn() -> None:
    x0, crosses = torch.randn(5, 6), FullCrosses(2, 6, WeightInit.xavier_uniform)
    x = x0
    for cross in crosses:
        weight = cross["linear"].weight
        weight.copy_(weight[:1].expand(6, 6))
        x = x0 * (x @ weight[0])[:, None] + x  # eq. 1 of DCN, bias 0
    torch.testing.assert_close(crosses(x0), x)


@torch.no_grad()
@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_crosses_are_a_polynomial_of_a_degree_one_above_their_number(n_layers: int) -> None:
    torch.manual_seed(0)
    crosses = FullCrosses(n_layers, 4, WeightInit.xavier_uniform).double()
    values = torch.stack(
        [crosses(scale * torch.linspace(0.5, 2, 4, dtype=torch.float64)[None]) for scale in range(n_layers + 3)]
    )
    for _ in range(n_layers + 1):
        values = values.diff(dim=0)
    assert values.abs().min() > 1e-3  # the highest power is there
    torch.testing.assert_close(values.diff(dim=0), torch.zeros_like(values[1:]))


@pytest.mark.parametrize("n_layers", [1, 3])
def test_parameters_of_crosses_have_the_names_of_earlier_runs(n_layers: int, make: Make) -> None:
    names = {name for name, _ in make("dcnv2", n_layers=n_layers).named_parameters() if name.startswith("crosses")}
    assert names == {f"crosses.{i}.linear.{kind}" for i in range(n_layers) for kind in ("weight", "bias")}


def test_experts_and_rank_are_those_asked_for(make: Make) -> None:
    model = make("dcnv2", cross=Cross.mixture, n_layers=3, rank=5, n_experts=2)
    n = model.embed.n_fields * model.embed.embedding_dim
    assert [tuple(layer.down.shape) for layer in model.crosses] == [(2, 5, n)] * 3
