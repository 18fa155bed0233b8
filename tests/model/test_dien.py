"""DIEN: attention over the states, their evolution step by step, and the auxiliary loss pair by pair."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from batches import with_catalogue
from torch import Tensor, nn

from recexp.dataset.batch import Batch
from recexp.dataset.log import Dataset
from recexp.error import ConfigError
from recexp.layer.recurrent import GRUType
from recexp.model import dien
from recexp.model.dien import Auxiliary
from recexp.model.seq_pooling import Pooling

Make = Callable[..., nn.Module]
Gather = Callable[..., Batch]


def evolve(model: nn.Module, kind: GRUType, states: Tensor, weights: Tensor) -> Tensor:
    """The last state over (L, H) states of one row, weighed by (L,): eq. 11 to 14 one step at a time."""
    w_ih, w_hh, b_ih, b_hh = (getattr(model.evolve, name) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    h = torch.zeros(w_hh.shape[1])
    for g, a in zip(states, weights, strict=True):
        x = w_ih @ (a * g if kind is GRUType.aigru else g) + b_ih
        y = w_hh @ h + b_hh
        (x_r, x_z, x_n), (y_r, y_z, y_n) = x.chunk(3), y.chunk(3)
        n = torch.tanh(x_n + torch.sigmoid(x_r + y_r) * y_n)
        update = 1 - torch.sigmoid(x_z + y_z)  # u of the paper
        gate = {GRUType.augru: a * update, GRUType.agru: a, GRUType.aigru: update}[kind]
        h = (1 - gate) * h + gate * n
    return h


@pytest.mark.parametrize("pooling", [*Pooling, None])
@pytest.mark.parametrize("kind", GRUType)
def test_logit_follows_the_paper_step_by_step(kind: GRUType, pooling: Pooling | None, make: Make, mixed: Batch) -> None:
    model = make("dien", gru_type=kind, pooling=pooling).eval()
    profile, target, history = model.embed(mixed)
    output = model(mixed)
    logits = []
    for row, length in enumerate(mixed.mask.sum(1).tolist()):
        t, h, g = target[row], history[row, :length], output.parts["states"][row, :length]
        scores = torch.stack([g_s @ model.project.weight @ t for g_s in g]) if length else torch.zeros(0)
        a = scores.exp() / scores.exp().sum()
        torch.testing.assert_close(output.parts["weights"][row, :length], a)
        events = sum(h, torch.zeros_like(t)) / (max(1, length) if pooling is Pooling.mean else 1)
        interest = evolve(model, kind, g, a)
        pooled = [events, t * events] if pooling else []
        logits.append(model.mlp(torch.cat([interest, t, *pooled, profile[row]])[None])[0, 0])
    torch.testing.assert_close(output.logits, torch.stack(logits), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [GRUType.augru, GRUType.aigru])
def test_attention_of_1_makes_interest_the_state_of_a_gru(
    kind: GRUType, make: Make, mixed: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dien, "weigh", lambda scores, mask, normalise: mask.float())
    model = make("dien", gru_type=kind, pooling=Pooling.sum).eval()
    gru = nn.GRU(model.evolve.weight_hh.shape[1], model.evolve.weight_hh.shape[1], batch_first=True)
    gru.load_state_dict({f"{name}_l0": tensor for name, tensor in model.evolve.state_dict().items()})
    profile, target, history = model.embed(mixed)
    through = gru(model(mixed).parts["states"])[0]
    length = mixed.mask.sum(1)
    interest = through[torch.arange(len(mixed)), length - 1] * (length > 0)[:, None]
    events = (history * mixed.mask[:, :, None]).sum(1)
    wanted = model.mlp(torch.cat([interest, target, events, target * events, profile], 1))[:, 0]
    torch.testing.assert_close(model(mixed).logits, wanted, rtol=1e-5, atol=1e-5)


def test_attention_of_0_makes_interest_0(make: Make, mixed: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dien, "weigh", lambda scores, mask, normalise: torch.zeros_like(scores))
    model = make("dien").eval()
    before = model(mixed).logits
    nn.init.normal_(model.mlp.linears[0].weight[:, : model.evolve.weight_hh.shape[1]])  # what reads the interest
    assert torch.equal(model(mixed).logits, before)


def test_states_see_nothing_of_later_events(make: Make, mixed: Batch) -> None:
    model = make("dien").eval()
    later = torch.arange(mixed.mask.shape[1]) >= 4
    changed = replace(
        mixed,
        history=torch.where(later & mixed.mask, mixed.history % 40 + 1, mixed.history),
        history_label=torch.where(later, 1 - mixed.history_label, mixed.history_label),
    )
    before, after = model(mixed).parts["states"], model(changed).parts["states"]
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.equal(before[:, 4:], after[:, 4:])


def test_gradient_of_a_state_by_later_items_is_0(make: Make, mixed: Batch) -> None:
    model = make("dien").eval()
    history = model.embed(mixed)[2].detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model.extract(history)[:, 3].sum(), history)
    assert gradient[:, :4].any(2).all()
    assert not gradient[:, 4:].any()


@pytest.mark.parametrize("auxiliary", Auxiliary)
def test_auxiliary_loss_is_the_mean_over_events_and_their_successors(
    auxiliary: Auxiliary, make: Make, mixed: Batch
) -> None:
    model = make("dien", auxiliary=auxiliary).eval()
    item = int(mixed.history[mixed.mask][3])
    batch = with_catalogue(mixed, sampling_pool=torch.tensor([item]))  # the only item that is ever sampled
    states = model(batch).parts["states"]

    def scored(row: int, s: int, following: Tensor) -> Tensor:
        embedded = model.embed.items(batch, following[None])[0]
        return model.next(torch.cat([states[row, s], embedded])[None])[0, 0]

    by_label, real, fake = [], [], []
    for row, length in enumerate(batch.mask.sum(1).tolist()):
        for s in range(length - 1):
            following = batch.history[row, s + 1]
            logit = scored(row, s, following)
            y = batch.history_label[row, s + 1]
            by_label.append(-(y * F.logsigmoid(logit) + (1 - y) * F.logsigmoid(-logit)))
            real.append(-F.logsigmoid(logit))
            if int(following) != item:
                fake.append(-F.logsigmoid(-scored(row, s, torch.tensor(item))))
    assert 0 < len(fake) < len(real)
    mean = {
        Auxiliary.labels: lambda: torch.stack(by_label).mean(),
        Auxiliary.sampled: lambda: torch.stack(real).mean() + torch.stack(fake).mean(),
    }
    loss = model.losses(model(batch), batch)["auxiliary"]
    torch.testing.assert_close(loss, mean[auxiliary](), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("auxiliary", Auxiliary)
def test_auxiliary_loss_is_0_where_no_history_has_two_events(
    auxiliary: Auxiliary, make: Make, gather: Gather, mixed_rows: list[int]
) -> None:
    for rows in (mixed_rows[:2], mixed_rows[:4]):  # lengths 0; 0 and 1
        model, batch = make("dien", auxiliary=auxiliary), gather(rows)
        loss = model.losses(model(batch), batch)["auxiliary"]
        loss.backward()
        assert loss.item() == 0
        assert not any(each.grad.any() for each in model.parameters() if each.grad is not None)


@pytest.mark.parametrize("auxiliary", Auxiliary)
def test_auxiliary_loss_alone_reaches_what_extracts_and_judges(auxiliary: Auxiliary, make: Make, mixed: Batch) -> None:
    model = make("dien", auxiliary=auxiliary)
    model.losses(model(mixed), mixed)["auxiliary"].backward()
    reached = {
        name.split(".")[0] for name, each in model.named_parameters() if each.grad is not None and each.grad.any()
    }
    assert reached == {"embed", "extract", "next"}
    assert all(each.grad.any() for each in [*model.extract.parameters(), *model.next.parameters()])


def test_auxiliary_loss_of_weight_0_costs_no_parameters(make: Make, mixed: Batch) -> None:
    model = make("dien", loss_weights={"target": 1.0, "auxiliary": 0.0})
    assert not hasattr(model, "next")
    assert model.losses(model(mixed), mixed).keys() == {"target"}


def test_sampled_auxiliary_needs_no_labels(make: Make, mixed: Batch) -> None:
    model = make("dien", auxiliary=Auxiliary.sampled, history_labels=False)
    flipped = replace(mixed, history_label=1 - mixed.history_label)
    torch.manual_seed(0)
    loss = model.eval().losses(model(mixed), mixed)["auxiliary"]
    torch.manual_seed(0)
    assert torch.equal(model.losses(model(flipped), flipped)["auxiliary"], loss)


def test_table_is_refused(make: Make, table: Dataset) -> None:
    with pytest.raises(ConfigError, match=r"^model = dien: needs users, items and time"):
        make("dien", schema=table.schema)
