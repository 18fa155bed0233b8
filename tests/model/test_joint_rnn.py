"""Joint recurrent network: `rnn` with a second task, and the dot product in the MLP's place."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from batches import with_catalogue
from torch import nn

from recexp.dataset.batch import Batch, Features
from recexp.dataset.log import Dataset
from recexp.dataset.schema import UNKNOWN
from recexp.error import ConfigError
from recexp.layer.next_item import Vectors
from recexp.layer.recurrent import Cell
from recexp.model import losses
from recexp.model.joint_rnn import Auxiliary, Head
from recexp.model.rnn import Target

Make = Callable[..., nn.Module]
Gather = Callable[..., Batch]
TARGET_ALONE = {"target": 1.0, "auxiliary": 0.0}


@pytest.mark.parametrize("cell", Cell)
def test_mlp_head_is_the_rnn_of_the_same_weights(cell: Cell, make: Make, mixed: Batch) -> None:
    model, rnn = make("joint_rnn", cell=cell, dropout=0.0), make("rnn", cell=cell, target=Target.concat, dropout=0.0)
    rnn.load_state_dict({name: tensor for name, tensor in model.state_dict().items() if not name.startswith("next.")})
    assert torch.equal(model(mixed).logits, rnn(mixed).logits)


def test_auxiliary_loss_of_weight_0_leaves_the_rnn(make: Make, mixed: Batch) -> None:
    model, rnn = make("joint_rnn", loss_weights=TARGET_ALONE, dropout=0.0), make("rnn", dropout=0.0)
    rnn.load_state_dict(model.state_dict())
    parts, wanted = (losses(network, network(mixed), mixed) for network in (model, rnn))
    assert parts.keys() == {"target"}
    gradients = [
        torch.autograd.grad(returned["target"], list(m.parameters())) for m, returned in ((model, parts), (rnn, wanted))
    ]
    assert torch.equal(parts["target"], wanted["target"])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


@pytest.mark.parametrize("features", [True, False])
def test_dot_head_matches_the_last_state_with_the_target(features: bool, make: Make, mixed: Batch) -> None:
    model = make("joint_rnn", head=Head.dot, features=features).eval()
    nn.init.constant_(model.bias, 0.7)
    _, target, history = with_users(make, model, features).embed(mixed)
    logits = []
    for row, length in enumerate(mixed.mask.sum(1).tolist()):
        state = model.recurrent(history[row : row + 1, :length])[0, -1] if length else torch.zeros(48)
        w_state = [(weights @ state).item() for weights in model.project.weight]
        logits.append(sum(w * t.item() for w, t in zip(w_state, target[row], strict=True)) + 0.7)
    torch.testing.assert_close(model(mixed).logits, torch.tensor(logits), rtol=1e-5, atol=1e-5)


def with_users(make: Make, model: nn.Module, features: bool) -> nn.Module:
    """A model whose embedding has users too, with the items and labels of `model`."""
    other = make("joint_rnn", head=Head.mlp, features=features).eval()
    other.load_state_dict(model.embed.state_dict(prefix="embed."), strict=False)
    assert torch.equal(other.embed.embed.sides["item"].table.weight, model.embed.embed.sides["item"].table.weight)
    return other


def test_dot_head_knows_nothing_of_user_and_context(make: Make, mixed: Batch) -> None:
    model = make("joint_rnn", head=Head.dot).eval()
    users = Features(
        torch.full_like(mixed.catalogue.users.ids, UNKNOWN), torch.zeros_like(mixed.catalogue.users.values)
    )
    context = Features(torch.full_like(mixed.context.ids, UNKNOWN), torch.zeros_like(mixed.context.values))
    assert torch.equal(model(replace(with_catalogue(mixed, users=users), context=context)).logits, model(mixed).logits)
    assert list(model.embed.embed.sides) == ["item"]


@pytest.mark.parametrize("head", Head)
def test_without_features_ids_alone_count(head: Head, make: Make, mixed: Batch) -> None:
    def ids_alone(features: Features) -> Features:
        others = torch.full_like(features.ids[:, 1:], UNKNOWN)
        return Features(torch.cat([features.ids[:, :1], others], 1), torch.zeros_like(features.values))

    blank = with_catalogue(mixed, users=ids_alone(mixed.catalogue.users), items=ids_alone(mixed.catalogue.items))
    blind = make("joint_rnn", head=head, features=False).eval()
    assert torch.equal(blind(blank).logits, blind(mixed).logits)
    assert blind.embed.item_dim == 16
    featured = make("joint_rnn", head=head, features=True).eval()
    assert (featured(blank).logits != featured(mixed).logits).any()


@pytest.mark.parametrize("features", [True, False])
@pytest.mark.parametrize("output", Vectors)
def test_auxiliary_loss_tells_the_item_of_the_next_event_from_all_others(
    output: Vectors, features: bool, make: Make, mixed: Batch
) -> None:
    model = make("joint_rnn", auxiliary=Auxiliary.next, output=output, features=features).eval()
    states = model.recurrent(model.embed(mixed)[2])
    vectors = model.embed.embed.sides["item"].table.weight[2 : 2 + len(model.next.bias)]
    surprises = []
    for row, length in enumerate(mixed.mask.sum(1).tolist()):
        for s in range(length - 1):
            following = int(mixed.catalogue.items.ids[mixed.history[row, s + 1], 0])
            if output is Vectors.tied:
                z = vectors @ (model.next.project.weight @ states[row, s])
            else:
                z = model.next.own.weight @ states[row, s]
            surprises.append(F.cross_entropy(z + model.next.bias, torch.tensor(following - 2)))
    loss = model.losses(model(mixed), mixed)["auxiliary"]
    torch.testing.assert_close(loss, torch.stack(surprises).mean(), rtol=1e-5, atol=1e-6)


def test_sampled_loss_of_many_items_approaches_that_of_all(make: Make, mixed: Batch) -> None:
    full = make("joint_rnn", auxiliary=Auxiliary.next).eval()
    sampled = make("joint_rnn", auxiliary=Auxiliary.sampled, n_sampled=20_000).eval()
    whole, estimate = (model.losses(model(mixed), mixed)["auxiliary"] for model in (full, sampled))
    assert not torch.equal(estimate, whole)
    torch.testing.assert_close(estimate, whole, rtol=0.02, atol=0)


@pytest.mark.parametrize("cell", Cell)
def test_states_see_nothing_of_later_events(cell: Cell, make: Make, mixed: Batch) -> None:
    model = make("joint_rnn", cell=cell).eval()
    later = torch.arange(mixed.mask.shape[1]) >= 4
    changed = replace(
        mixed,
        history=torch.where(later & mixed.mask, mixed.history % 40 + 1, mixed.history),
        history_label=torch.where(later, 1 - mixed.history_label, mixed.history_label),
    )
    before, after = model(mixed).parts["states"], model(changed).parts["states"]
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.equal(before[:, 4:], after[:, 4:])


def test_loss_has_no_gradient_by_events_after_those_it_judges(make: Make, mixed: Batch) -> None:
    model = make("joint_rnn", auxiliary=Auxiliary.next).eval()
    history = model.embed.events(mixed)[1].expanded().detach().requires_grad_()
    upto = replace(mixed, mask=mixed.mask & (torch.arange(mixed.mask.shape[1]) <= 4))  # next items up to event 4
    loss = model.next(model.recurrent(history), upto, model.embed.embed.sides["item"])
    (gradient,) = torch.autograd.grad(loss, history)
    assert gradient[-1, :4].any(1).all()
    assert not gradient[:, 4:].any()


def test_random_next_items_cost_about_the_logarithm_of_their_number(make: Make, mixed: Batch) -> None:
    model = make("joint_rnn", auxiliary=Auxiliary.next, embedding_std=0.1).eval()
    n_items = len(model.next.bias)
    drawn = torch.randint(1, n_items + 1, mixed.history.shape, generator=torch.Generator().manual_seed(0))
    random = replace(mixed, history=torch.where(mixed.mask, drawn, 0))
    loss = model.losses(model(random), random)["auxiliary"]
    torch.testing.assert_close(loss, torch.tensor(float(n_items)).log(), rtol=0.02, atol=0)


def test_target_is_no_next_item(make: Make, mixed: Batch) -> None:
    model = make("joint_rnn", auxiliary=Auxiliary.next).eval()
    elsewhere = replace(mixed, target=mixed.target % 40 + 1)
    moved, wanted = (model.losses(model(batch), batch) for batch in (elsewhere, mixed))
    assert torch.equal(moved["auxiliary"], wanted["auxiliary"])
    assert not torch.equal(moved["target"], wanted["target"])


@pytest.mark.parametrize("head", Head)
@pytest.mark.parametrize("output", Vectors)
@pytest.mark.parametrize("auxiliary", Auxiliary)
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_every_parameter_is_trained(
    head: Head, output: Vectors, auxiliary: Auxiliary, weight: float, make: Make, mixed: Batch
) -> None:
    weights = {"target": 1.0, "auxiliary": weight}
    model = make("joint_rnn", head=head, output=output, auxiliary=auxiliary, loss_weights=weights)
    torch.stack(list(model.losses(model(mixed), mixed).values())).sum().backward()
    assert [name for name, each in model.named_parameters() if each.grad is None or not each.grad.any()] == []
    assert (model.next is not None) == bool(weight)
    assert (model.mlp is not None) == (head is Head.mlp)


@pytest.mark.parametrize("output", Vectors)
def test_auxiliary_loss_alone_reaches_states_and_items(output: Vectors, make: Make, mixed: Batch) -> None:
    model = make("joint_rnn", output=output)
    model.losses(model(mixed), mixed)["auxiliary"].backward()
    reached = {name.split(".")[0] for name, each in model.named_parameters() if each.grad is not None}
    assert reached == {"embed", "recurrent", "next"}


@pytest.mark.parametrize("head", Head)
def test_history_without_events_has_a_state_of_0(head: Head, make: Make, gather: Gather, mixed_rows: list[int]) -> None:
    model = make("joint_rnn", head=head).eval()
    before = model(gather(mixed_rows[:2])).logits
    for parameter in model.recurrent.parameters():
        nn.init.normal_(parameter)
    assert torch.equal(model(gather(mixed_rows[:2])).logits, before)


def test_labels_of_the_history_count_if_asked(make: Make, mixed: Batch) -> None:
    flipped = replace(mixed, history_label=1 - mixed.history_label)
    labelled, blind = make("joint_rnn").eval(), make("joint_rnn", history_labels=False).eval()
    assert (labelled(flipped).logits != labelled(mixed).logits).tolist() == mixed.mask.any(1).tolist()
    assert torch.equal(blind(flipped).logits, blind(mixed).logits)


def test_no_sampled_items_are_refused(make: Make) -> None:
    with pytest.raises(ConfigError, match=r"^model.n_sampled = 0: must be 1 to 65536"):
        make("joint_rnn", n_sampled=0)


def test_table_is_refused(make: Make, table: Dataset) -> None:
    with pytest.raises(ConfigError, match=r"^model = joint_rnn: needs users, items and time"):
        make("joint_rnn", schema=table.schema)
