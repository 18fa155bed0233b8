"""Recurrent matrix factorisation: the user moved by the history, and what comes of the stage in closed form."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from batches import with_catalogue
from recorder import Recorder, trained_states
from torch import Tensor, nn

from recexp.config import Config
from recexp.dataset.batch import Batch, Batches, Features
from recexp.dataset.log import Dataset
from recexp.dataset.schema import UNKNOWN
from recexp.error import ConfigError
from recexp.layer.recurrent import Cell
from recexp.model import Fit, losses, stages
from recexp.model.als import Feedback
from recexp.trainer.default import Result, Trainer

Make = Callable[..., nn.Module]
STEPS = {Cell.rnn: nn.RNNCell, Cell.lstm: nn.LSTMCell, Cell.gru: nn.GRUCell}
VECTORS = ["factors.embed.embed.sides.user.table.weight", "factors.embed.embed.sides.item.table.weight"]


@pytest.fixture
def fit(
    compose: Callable[..., Config], batches: Batches, tmp_path: Path
) -> Callable[[nn.Module], tuple[Result, Recorder, list[dict[str, Tensor]]]]:
    """fit(model): trained for three epochs."""
    config = replace(compose().trainer, epochs=3, patience=None, deterministic=True)

    def fit(model: nn.Module) -> tuple[Result, Recorder, list[dict[str, Tensor]]]:
        recorder, states = trained_states(model, tmp_path / "checkpoints")
        trainer = Trainer(config, torch.device("cpu"), 0)
        return trainer.fit(model, batches, {"target": 1.0}, 1e-4, recorder), recorder, states

    return fit


def fitted(model: nn.Module, batches: Batches) -> nn.Module:
    """The model after the stage in closed form."""
    first = stages(model)[0]
    assert isinstance(first, Fit)
    first.fit(batches.training())
    return model.eval()


def without_state(model: nn.Module) -> nn.Module:
    """The model with h = 0, whatever the history."""
    for parameter in model.recurrent.parameters():
        nn.init.zeros_(parameter)
    return model


def last_state(model: nn.Module, cell: Cell, events: Tensor) -> Tensor:
    """The state after events (L, D), one at a time from 0; 0 without any."""
    weights = {name.removesuffix("_l0"): tensor for name, tensor in model.recurrent.cell.state_dict().items()}
    one = STEPS[cell](events.shape[1], events.shape[1])
    one.load_state_dict(weights)
    state = torch.zeros(1, events.shape[1])
    memory = torch.zeros_like(state)
    for event in events:
        if cell is Cell.lstm:
            state, memory = one(event[None], (state, memory))
        else:
            state = one(event[None], state)
    return state[0]


def with_wide_biases(model: nn.Module) -> nn.Module:
    """The model with biases that show in the logits."""
    for parameter in model.factors.linear.parameters():
        nn.init.normal_(parameter)
    for side in model.factors.linear.weights.sides.values():
        nn.init.zeros_(side.table.weight[0])  # padding
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize("history_labels", [True, False])
@pytest.mark.parametrize("cell", Cell)
def test_logit_matches_the_moved_user_with_the_target(
    cell: Cell, history_labels: bool, make: Make, mixed: Batch
) -> None:
    model = with_wide_biases(make("rnn_als", cell=cell, history_labels=history_labels))
    users, items = (model.factors.embed.embed.sides[side].table.weight for side in ("user", "item"))
    b_user, b_item = (model.factors.linear.weights.sides[side].table.weight[:, 0] for side in ("user", "item"))
    logits = []
    for row, length in enumerate(mixed.mask.sum(1).tolist()):
        user, target = (
            int(mixed.catalogue.users.ids[mixed.user[row], 0]),
            int(mixed.catalogue.items.ids[mixed.target[row], 0]),
        )
        events = items[mixed.catalogue.items.ids[mixed.history[row, :length], 0]]
        if history_labels:
            events = events + model.factors.embed.label.weight[1 + mixed.history_label[row, :length].long()]
        moved = last_state(model, cell, events) + users[user]
        product = sum(a.item() * b.item() for a, b in zip(moved, items[target], strict=True))
        logits.append(product + (model.factors.linear.bias + b_user[user] + b_item[target]).item())
    torch.testing.assert_close(model(mixed).logits, torch.tensor(logits), rtol=1e-5, atol=1e-5)


def test_state_of_0_leaves_matrix_factorisation(make: Make, mixed: Batch) -> None:
    model = without_state(with_wide_biases(make("rnn_als")))
    machine = make("fm", schema=model.schema.ids).eval()  # of two fields: their product and biases
    linear = {f"linear.{name}": tensor for name, tensor in model.factors.linear.state_dict().items()}
    machine.load_state_dict(linear | model.factors.embed.embed.state_dict(prefix="embed."))
    torch.testing.assert_close(model(mixed).logits, machine(mixed).logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("feedback", Feedback)
def test_state_of_0_after_the_first_stage_leaves_als(
    feedback: Feedback, make: Make, mixed: Batch, batches: Batches
) -> None:
    model = make("rnn_als", feedback=feedback, embedding_dim=4)
    torch.manual_seed(3)
    fitted(model, batches)
    als = make("als", feedback=feedback, embedding_dim=4, seed=3)
    als.fit(batches.training())
    wanted = als.eval()(mixed).logits
    assert wanted.std() > 0.1
    torch.testing.assert_close(stages(model)[0].model(mixed).logits, wanted, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(model(mixed).logits, wanted, atol=1e-3)
    torch.testing.assert_close(without_state(model)(mixed).logits, wanted, rtol=1e-4, atol=1e-5)


def test_unknown_user_and_item_have_neither_vector_nor_bias(make: Make, mixed: Batch, batches: Batches) -> None:
    model = fitted(make("rnn_als"), batches)
    users, items = (
        Features(torch.full_like(features.ids, UNKNOWN), torch.zeros_like(features.values))
        for features in (mixed.catalogue.users, mixed.catalogue.items)
    )
    logits = model(with_catalogue(mixed, users=users, items=items)).logits
    assert torch.equal(logits, model.factors.linear.bias.expand(len(mixed)))


def test_history_without_events_leaves_the_user_where_it_is(make: Make, mixed: Batch) -> None:
    model = make("rnn_als").eval()
    moved = model(mixed).logits != model.factors(mixed).logits
    assert moved.tolist() == mixed.mask.any(1).tolist()


def test_order_of_the_history_counts(make: Make, mixed: Batch, reverse: Callable) -> None:
    model = make("rnn_als").eval()
    change = (model(reverse(mixed)).logits - model(mixed).logits).abs()
    assert (change[mixed.mask.sum(1) > 1] > 1e-6).all()
    assert (change[mixed.mask.sum(1) <= 1] < 1e-6).all()


def test_labels_of_the_history_count_if_asked(make: Make, mixed: Batch) -> None:
    flipped = replace(mixed, history_label=1 - mixed.history_label)
    labelled, blind = make("rnn_als").eval(), make("rnn_als", history_labels=False).eval()
    assert (labelled(flipped).logits != labelled(mixed).logits).tolist() == mixed.mask.any(1).tolist()
    assert torch.equal(blind(flipped).logits, blind(mixed).logits)


def test_fields_beside_the_ids_play_no_part(make: Make, mixed: Batch) -> None:
    def ids_alone(features: Features) -> Features:
        others = torch.full_like(features.ids[:, 1:], UNKNOWN)
        return Features(torch.cat([features.ids[:, :1], others], 1), torch.zeros_like(features.values))

    model = make("rnn_als").eval()
    blank = with_catalogue(mixed, users=ids_alone(mixed.catalogue.users), items=ids_alone(mixed.catalogue.items))
    assert torch.equal(model(blank).logits, model(mixed).logits)


@pytest.mark.parametrize("history_labels", [True, False])
@pytest.mark.parametrize("pretrain", [True, False])
def test_every_parameter_is_trained(pretrain: bool, history_labels: bool, make: Make, mixed: Batch) -> None:
    model = make("rnn_als", pretrain=pretrain, history_labels=history_labels)
    losses(model, model(mixed), mixed)["target"].backward()
    assert [name for name, each in model.named_parameters() if each.grad is None or not each.grad.any()] == []


@pytest.mark.parametrize("feedback", Feedback)
def test_trainer_goes_on_from_what_als_found(feedback: Feedback, make: Make, fit: Callable, batches: Batches) -> None:
    model = make("rnn_als", feedback=feedback)
    result, recorder, states = fit(model)
    assert [(line["stage"], line["epoch"]) for line in recorder.lines] == [
        ("als", 1), ("train", 1), ("train", 2), ("train", 3)
    ]  # fmt: skip
    first, last = states[0], states[-1]
    assert all(not torch.equal(first[name], last[name]) for name, _ in model.named_parameters())
    for name in VECTORS:
        assert (last[name] - first[name]).norm() < 0.2 * first[name].norm()
    assert result.valid is not None and result.valid.values["auc"] > 0.5


def test_frozen_vectors_stay_what_als_found(make: Make, fit: Callable) -> None:
    model = make("rnn_als", freeze=True)
    _, _, states = fit(model)
    first, last = states[0], states[-1]
    stayed = [name for name, _ in model.named_parameters() if torch.equal(first[name], last[name])]
    assert stayed == VECTORS


def test_without_pretraining_there_is_one_stage_from_random_vectors(make: Make, fit: Callable) -> None:
    model = make("rnn_als", pretrain=False, embedding_std=0.2)
    for name in VECTORS:
        assert model.get_parameter(name)[2:].std().item() == pytest.approx(0.2, rel=0.15)
    _, recorder, _ = fit(model)
    assert [line["stage"] for line in recorder.lines] == ["train"] * 3
    assert recorder.lines[-1]["losses"]["target"] < recorder.lines[0]["losses"]["target"]


def test_freezing_random_vectors_is_refused(make: Make) -> None:
    with pytest.raises(ConfigError, match=r"^model.freeze = true: must be false where model.pretrain is false"):
        make("rnn_als", pretrain=False, freeze=True)


@pytest.mark.parametrize("option", ["iterations", "regularisation", "smoothing", "alpha"])
def test_options_of_als_have_its_ranges(option: str, make: Make) -> None:
    with pytest.raises(ConfigError, match=rf"^model.{option} = 0"):
        make("rnn_als", **{option: 0})


def test_table_is_refused(make: Make, table: Dataset) -> None:
    with pytest.raises(ConfigError, match=r"^model = rnn_als: needs users, items and time"):
        make("rnn_als", schema=table.schema)
