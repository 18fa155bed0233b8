"""Factors of als under an MLP: the limiting case, frozen and tuned factors, both heads against a loop."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from recorder import Recorder, trained_states
from torch import Tensor, nn

from recexp.config import Config
from recexp.dataset.batch import Batch, Batches
from recexp.dataset.schema import FIRST
from recexp.error import ConfigError
from recexp.layer.activation import Activation
from recexp.model import Fit, Train, stages
from recexp.model.als import Feedback
from recexp.model.als_mlp import Combine
from recexp.trainer.default import Trainer

Make = Callable[..., nn.Module]
SIDES = ("user", "item")


def fitted(model: nn.Module, batches: Batches) -> nn.Module:
    """The model after its first stage."""
    first, last = stages(model)
    assert isinstance(first, Fit) and isinstance(last, Train)
    assert (first.name, last.name, last.epochs) == ("als", "train", None)
    assert first.model is model.als and last.model is model
    first.fit(batches.training())
    return model


def tables(model: nn.Module) -> dict[str, Tensor]:
    return {name: model.als.embed.sides[name].table.weight.detach() for name in SIDES}


def pairs(model: nn.Module, batch: Batch) -> list[list[Tensor]]:
    """The scaled factors of user and target of each sample, looked up one by one."""
    ids = {"user": batch.catalogue.users.ids[batch.user, 0], "item": batch.catalogue.items.ids[batch.target, 0]}
    side = {name: model.scale[n, 0] * table for n, (name, table) in enumerate(tables(model).items())}
    return [[side[name][ids[name][row]] for name in SIDES] for row in range(len(batch))]


def layers(mlp: nn.Module, x: Tensor) -> Tensor:
    """tanh between its linear layers, none after the last."""
    for linear in mlp.linears[:-1]:
        x = torch.tanh(linear.weight @ x + linear.bias)
    return mlp.linears[-1].weight @ x + mlp.linears[-1].bias


@pytest.mark.parametrize("feedback", list(Feedback))
def test_identity_towers_are_the_matrix_factorisation(
    feedback: Feedback, make: Make, batches: Batches, mixed: Batch
) -> None:
    model = fitted(make("als_mlp", combine=Combine.dot, hidden_sizes=[], feedback=feedback), batches)
    for tower in (model.head.user, model.head.item):
        nn.init.eye_(tower.first.weight)
    product = model(mixed).logits / model.scale.prod()
    wanted = model.als(mixed).logits / 4 + 0.5 - model.als.mean
    torch.testing.assert_close(product, wanted, rtol=1e-4, atol=1e-5)


def test_dot_is_the_product_of_two_towers_and_a_bias(make: Make, batches: Batches, mixed: Batch) -> None:
    options = {"combine": Combine.dot, "hidden_sizes": [8, 5], "activation": Activation.tanh}
    model = fitted(make("als_mlp", **options), batches).eval()
    nn.init.constant_(model.head.bias, 0.7)
    nn.init.normal_(model.head.user.linears[-1].bias)
    wanted = [layers(model.head.user, x) @ layers(model.head.item, y) + 0.7 for x, y in pairs(model, mixed)]
    torch.testing.assert_close(model(mixed).logits, torch.stack(wanted))


def test_last_layer_of_a_tower_is_linear_and_of_the_size_of_the_factors(make: Make) -> None:
    head = make("als_mlp", combine=Combine.dot, hidden_sizes=[8, 5], embedding_dim=3).head
    for tower in (head.user, head.item):
        assert [linear.out_features for linear in tower.linears] == [8, 5, 3]
        assert len(tower.hidden) == 2


def test_concat_is_an_mlp_of_both(make: Make, batches: Batches, mixed: Batch) -> None:
    options = {"combine": Combine.concat, "hidden_sizes": [8, 5], "activation": Activation.tanh}
    model = fitted(make("als_mlp", **options), batches).eval()
    wanted = torch.cat([layers(model.head.mlp, torch.cat([x, y])) for x, y in pairs(model, mixed)])
    torch.testing.assert_close(model(mixed).logits, wanted)


@pytest.mark.parametrize("feedback", list(Feedback))
def test_factors_of_each_side_are_scaled_to_a_tenth(feedback: Feedback, make: Make, batches: Batches) -> None:
    model = fitted(make("als_mlp", feedback=feedback), batches)
    assert model.scale[0] != model.scale[1]
    for n, table in enumerate(tables(model).values()):
        assert float((model.scale[n] * table[FIRST:]).square().mean().sqrt()) == pytest.approx(0.1, rel=1e-5)


def test_rows_that_nothing_was_observed_of_do_not_count_in_the_scale(make: Make, batches: Batches) -> None:
    training = batches.training()
    kept = training.target != training.target[0]
    rest = {name: getattr(training, name)[kept] for name in ("user", "target", "label")}
    model = make("als_mlp")
    model.fit(replace(training, **rest))
    item = tables(model)["item"]
    assert not item[training.catalogue.items.ids[training.target[0], 0]].any()
    met = item[item.any(1)]
    assert float((model.scale[1] * met).square().mean().sqrt()) == pytest.approx(0.1, rel=1e-5)


def test_factors_that_are_all_0_keep_their_scale(make: Make, batches: Batches, mixed: Batch) -> None:
    training = batches.training()
    model = make("als_mlp")
    model.fit(replace(training, label=torch.ones_like(training.label)))
    assert not any(table.any() for table in tables(model).values())
    assert torch.equal(model.scale, torch.ones(2, 1))
    assert model(mixed).logits.isfinite().all()


def test_factors_hold_the_biases_too(make: Make, batches: Batches) -> None:
    als = fitted(make("als_mlp"), batches).als
    assert not als.user_bias.any() and not als.item_bias.any()


def train(
    model: nn.Module, compose: Callable[..., Config], batches: Batches, folder: Path
) -> tuple[Recorder, list[dict[str, Tensor]]]:
    recorder, states = trained_states(model, folder)
    config = compose("trainer.epochs=2", "trainer.patience=null").trainer
    Trainer(config, torch.device("cpu"), 0).fit(model, batches, {"target": 1.0}, 0.01, recorder)
    return recorder, states


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("combine", list(Combine))
def test_frozen_factors_stay_to_the_bit_and_get_no_gradient(
    combine: Combine, compose: Callable[..., Config], make: Make, batches: Batches, tmp_path: Path
) -> None:
    model = make("als_mlp", freeze=True, combine=combine)
    recorder, states = train(model, compose, batches, tmp_path)
    assert [(line["stage"], line["epoch"]) for line in recorder.lines] == [("als", 1), ("train", 1), ("train", 2)]
    assert [set(line["losses"]) for line in recorder.lines] == [set(), {"target"}, {"target"}]
    assert all(parameter.grad is None for parameter in model.als.parameters())
    head = {f"head.{name}" for name, _ in model.head.named_parameters()}
    assert moved(states[0], states[1]) == moved(states[1], states[2]) == head


def test_tuned_factors_move_with_the_mlp(
    compose: Callable[..., Config], make: Make, batches: Batches, tmp_path: Path
) -> None:
    model = make("als_mlp", freeze=False)
    _, states = train(model, compose, batches, tmp_path)
    after = moved(states[0], states[1])
    assert after == {name for name, _ in model.named_parameters()}
    for name in SIDES:
        table = f"als.embed.sides.{name}.table.weight"
        before, now = states[0][table], states[1][table]
        assert (before != now).any(1)[FIRST:].all() and torch.equal(before[:FIRST], now[:FIRST])


def test_first_stage_is_als_of_the_same_options(make: Make, batches: Batches, mixed: Batch) -> None:
    options = {"feedback": Feedback.implicit, "embedding_dim": 5, "iterations": 2, "regularisation": 3.0, "alpha": 7.0}
    alone, model = make("als", **options), make("als_mlp", **options)
    stages(alone)[0].fit(batches.training())
    torch.testing.assert_close(fitted(model, batches).als(mixed).logits, alone(mixed).logits)


@pytest.mark.parametrize("option", ["iterations", "regularisation", "alpha"])
def test_option_of_0_is_refused_by_the_configuration(option: str, compose: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError, match=rf"model\.{option} = 0"):
        compose("model=als_mlp", f"model.{option}=0")
