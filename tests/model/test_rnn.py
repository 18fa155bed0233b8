"""Recurrent network: the states step by step, and where the target comes in."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from recexp.dataset.batch import Batch
from recexp.dataset.log import Dataset
from recexp.error import ConfigError
from recexp.layer.recurrent import Cell
from recexp.model.rnn import Target, append

Make = Callable[..., nn.Module]
STEPS = {Cell.rnn: nn.RNNCell, Cell.lstm: nn.LSTMCell, Cell.gru: nn.GRUCell}


def last_state(model: nn.Module, cell: Cell, steps: Tensor) -> Tensor:
    """The state after steps (L, E), one at a time from 0; 0 without any."""
    weights = {name.removesuffix("_l0"): tensor for name, tensor in model.recurrent.cell.state_dict().items()}
    one = STEPS[cell](steps.shape[1], len(weights["weight_hh"][0]))
    one.load_state_dict(weights)
    state = torch.zeros(1, one.hidden_size)
    memory = torch.zeros_like(state)
    for step in steps:
        if cell is Cell.lstm:
            state, memory = one(step[None], (state, memory))
        else:
            state = one(step[None], state)
    return state[0]


@pytest.mark.parametrize("target", Target)
@pytest.mark.parametrize("cell", Cell)
def test_logit_comes_of_the_state_after_the_last_step(cell: Cell, target: Target, make: Make, mixed: Batch) -> None:
    model = make("rnn", cell=cell, target=target).eval()
    profile, targets, history = model.embed(mixed)
    logits = []
    for row, length in enumerate(mixed.mask.sum(1).tolist()):
        steps = history[row, :length]
        if target is Target.last_step:
            inputs = [last_state(model, cell, torch.cat([steps, targets[row : row + 1]])), profile[row]]
        else:
            inputs = [last_state(model, cell, steps), targets[row], profile[row]]
        logits.append(model.mlp(torch.cat(inputs)[None])[0, 0])
    torch.testing.assert_close(model(mixed).logits, torch.stack(logits), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("target", Target)
@pytest.mark.parametrize("cell", Cell)
def test_batch_equals_its_rows_one_by_one(
    cell: Cell, target: Target, make: Make, gather: Callable[..., Batch], mixed: Batch, mixed_rows: list[int]
) -> None:
    model = make("rnn", cell=cell, target=target).eval()
    alone = torch.cat([model(gather([row])).logits for row in mixed_rows])
    torch.testing.assert_close(model(mixed).logits, alone, rtol=1e-5, atol=1e-6)


def test_target_stands_right_after_the_last_event() -> None:
    history = torch.arange(1.0, 7).view(2, 3, 1)
    mask = torch.tensor([[True, True, False], [False, False, False]])
    steps, longer = append(history, torch.tensor([[8.0], [9.0]]), mask)
    assert steps[0, :3, 0].tolist() == [1, 2, 8]
    assert steps[1, :1, 0].tolist() == [9]
    assert longer.tolist() == [[True, True, True, False], [True, False, False, False]]


@pytest.mark.parametrize("cell", Cell)
def test_order_of_the_history_counts(cell: Cell, make: Make, mixed: Batch, reverse: Callable) -> None:
    model = make("rnn", cell=cell).eval()
    change = (model(reverse(mixed)).logits - model(mixed).logits).abs()
    assert (change[mixed.mask.sum(1) > 1] > 1e-6).all()
    assert (change[mixed.mask.sum(1) <= 1] < 1e-6).all()


def test_state_does_not_see_later_events(make: Make, mixed: Batch) -> None:
    model = make("rnn").eval()
    _, _, history = model.embed(mixed)
    history = history.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model.recurrent(history)[:, 6].sum(), history)
    assert gradient[:, :7].any(2).all()
    assert not gradient[:, 7:].any()


def test_labels_of_the_history_count_if_asked(make: Make, mixed: Batch) -> None:
    flipped = replace(mixed, history_label=1 - mixed.history_label)
    labelled, blind = make("rnn").eval(), make("rnn", history_labels=False).eval()
    assert (labelled(flipped).logits != labelled(mixed).logits).tolist() == mixed.mask.any(1).tolist()
    assert torch.equal(blind(flipped).logits, blind(mixed).logits)


def test_table_is_refused(make: Make, table: Dataset) -> None:
    with pytest.raises(ConfigError, match=r"^model = rnn: needs users, items and time"):
        make("rnn", schema=table.schema)
