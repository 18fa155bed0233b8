"""GRU4Rec: its states one step at a time, and what a state sees."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from recexp.dataset.batch import Batch
from recexp.dataset.window import packed
from recexp.layer.packed import Layout

Make = Callable[..., nn.Module]


def by_hand(model: nn.Module, x: Tensor) -> Tensor:
    """The states (L, D) of one sequence of item vectors (L, D)."""
    for layer in model.encoder.layers:
        cell = nn.GRUCell(x.shape[1], x.shape[1])
        cell.load_state_dict(
            {name.removesuffix("_l0"): value for name, value in layer.recurrent.cell.state_dict().items()}
        )
        state, states = torch.zeros(1, x.shape[1]), []
        for step in x:
            state = cell(step[None], state)
            states.append(state)
        x = torch.cat(states)
    return x


def test_states_and_logits_are_those_of_the_equations(make: Make, mixed: Batch) -> None:
    model = make("gru4rec", n_layers=2).eval()
    ids, logits = mixed.catalogue.items.ids[:, 0], model(mixed).logits
    events, order = packed(mixed)
    parts = model.states(events).split(events.length.tolist())
    for sample, part in zip(order.tolist(), parts, strict=True):
        history = mixed.history[sample][mixed.mask[sample]]
        if not len(history):
            assert logits[sample] == 0
            continue
        expected = by_hand(model, model.item_vectors()[ids[history]])
        torch.testing.assert_close(part, expected, rtol=1e-4, atol=1e-5)
        target = model.item_vectors()[ids[mixed.target[sample]]]
        torch.testing.assert_close(logits[sample], expected[-1] @ target, rtol=1e-4, atol=1e-4)


def test_a_state_sees_no_later_event(make: Make, mixed: Batch) -> None:
    model = make("gru4rec", n_layers=2).eval()
    events, _ = packed(mixed)
    cut, length = 3, int(events.length[0])
    items = events.item.clone()
    items[cut:length] = items[cut:length].flip(0) % 40 + 1
    assert torch.equal(model.states(replace(events, item=items))[:cut], model.states(events)[:cut])


def test_padded_sequences_have_the_states_of_packed_ones(make: Make, mixed: Batch) -> None:
    encoder, length = make("gru4rec", n_layers=2).eval().encoder, torch.tensor([4, 2, 1])
    padded = torch.randn(3, 5, 64)
    mask = torch.arange(5) < length[:, None]
    for last in (True, False):
        out = encoder(padded.flatten(0, 1), Layout(length, padded_to=5), last)
        expected = encoder(padded[mask], Layout(length), last)
        torch.testing.assert_close(out if last else out.view(3, 5, -1)[mask], expected)
