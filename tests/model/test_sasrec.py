"""SASRec: its equations by a loop over sequences, and what a state sees."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recexp.dataset.batch import Batch
from recexp.dataset.window import Packed, packed
from recexp.layer.activation import Activation
from recexp.layer.mlp import MLP
from recexp.layer.packed import Layout, PackedAttention
from recexp.model.sasrec import Block, Form

Make = Callable[..., nn.Module]


def by_hand(model: nn.Module, items: Tensor, form: Form) -> Tensor:
    """The states of one sequence of item vectors (L, D)."""
    length, dim = items.shape
    x = items + model.encoder.position.table.weight[:length].flip(0)
    for block in model.encoder.blocks:
        y = F.layer_norm(x, (dim,), block.norms[0].weight, block.norms[0].bias)
        k, v = block.attention.key_value(y if form is Form.pre else x).chunk(2, 1)
        scores = (block.attention.query(y) @ k.t()) / dim**0.5
        scores = scores.masked_fill(~torch.ones(length, length).tril().bool(), -torch.inf)
        x = (x if form is Form.pre else y) + block.attention.output(scores.softmax(1) @ v)
        z = F.layer_norm(x, (dim,), block.norms[1].weight, block.norms[1].bias)
        first, second = block.transform.linears
        x = (x if form is Form.pre else z) + second(first(z).relu())
    return F.layer_norm(x, (dim,), model.encoder.norm.weight, model.encoder.norm.bias)


@pytest.mark.parametrize("form", Form)
def test_states_and_logits_are_those_of_the_equations(form: Form, make: Make, mixed: Batch) -> None:
    model = make("sasrec", form=form, n_layers=2, activation=Activation.relu).eval()
    ids = mixed.catalogue.items.ids[:, 0]
    states, (events, order) = model.states(packed(mixed)[0]), packed(mixed)
    parts, logits = states.split(events.length.tolist()), model(mixed).logits
    for sample, part in zip(order.tolist(), parts, strict=True):
        history = mixed.history[sample][mixed.mask[sample]]
        if not len(history):
            assert logits[sample] == 0
            continue
        expected = by_hand(model, model.item_vectors()[ids[history]], form)
        torch.testing.assert_close(part, expected, rtol=1e-4, atol=1e-4)
        target = model.item_vectors()[ids[mixed.target[sample]]]
        torch.testing.assert_close(logits[sample], expected[-1] @ target, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", Form)
def test_what_attention_gives_has_dropout_with_pre_norm_alone(form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    block = Block(8, 1, 8, Activation.relu, dropout=0.5, form=form)
    monkeypatch.setattr(PackedAttention, "forward", lambda attention, query, *rest: torch.randn_like(query))
    monkeypatch.setattr(MLP, "forward", lambda mlp, x: torch.zeros_like(x))
    torch.manual_seed(0)
    x, layout, trained = torch.randn(5, 8), Layout(torch.tensor([5])), []
    for mode in (True, False):
        torch.manual_seed(1)
        trained.append(block.train(mode)(x, layout, last=False))
    assert torch.equal(*trained) == (form is Form.original)


@pytest.mark.parametrize("training", [True, False])
def test_item_dropout_is_of_vectors_read_and_of_those_multiplied(training: bool, make: Make, mixed: Batch) -> None:
    model = make("sasrec", item_dropout=0.5).train(training)
    del model.encoder
    model.encoder = lambda x, layout, last: x  # the states are the vectors read
    events, _ = packed(mixed)
    ids = events.catalogue.items.ids[events.item.flatten(), 0]
    weight = model.item.table.weight
    some = ids.unique()
    vectors = ((model.item_vectors(), weight), (model.item_vectors(some), weight[some]))
    for found, whole in ((model.states(events), weight[ids]), *vectors):
        assert torch.equal(found == 0, whole == 0) != training
        torch.testing.assert_close(found, torch.where(found == 0, 0.0, 2 * whole) if training else whole)
        kept = (found != 0).sum(0) / (whole != 0).sum(0)  # of each dimension
        assert not training or (0.2 < kept.mean() < 0.8 and kept.unique().numel() > 1)


def test_a_query_is_the_last_state(make: Make, mixed: Batch) -> None:
    model = make("sasrec", n_layers=2).eval()
    events, order = packed(mixed)
    last = (events.length.cumsum(0) - 1)[events.length > 0]
    query = model.query(mixed)
    torch.testing.assert_close(query[order[: len(last)]], model.states(events)[last], rtol=1e-4, atol=1e-5)


def test_a_state_sees_no_later_event(make: Make, mixed: Batch) -> None:
    model = make("sasrec", n_layers=2).eval()
    events, _ = packed(mixed)
    length = int(events.length[0])
    items = events.item.clone().requires_grad_(False)
    for cut in range(1, length):
        changed = items.clone()
        changed[cut:length] = changed[cut:length].flip(0) % 40 + 1
        after = model.states(replace(events, item=changed))
        assert torch.equal(after[:cut], model.states(events)[:cut])


def test_windows_side_by_side_do_not_see_each_other(make: Make, mixed: Batch) -> None:
    model = make("sasrec").eval()
    events, _ = packed(mixed)
    together = model.states(events)
    start = 0
    for number, length in enumerate(events.length.tolist()):
        rows = slice(start, start + length)
        one = Packed(
            item=events.item[rows],
            age=events.age[rows],
            length=events.length[number : number + 1],
            user=events.user[number : number + 1],
            catalogue=events.catalogue,
        )
        torch.testing.assert_close(model.states(one), together[rows], rtol=1e-4, atol=1e-5)
        start += length
