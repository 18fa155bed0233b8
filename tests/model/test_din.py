"""Deep Interest Network: eq. 3 event by event, and the poolings it becomes when attention says nothing."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from batches import with_catalogue
from torch import Tensor, nn

from recexp.dataset.batch import Batch, Features
from recexp.dataset.log import Dataset
from recexp.dataset.schema import UNKNOWN
from recexp.error import ConfigError
from recexp.layer.activation import Activation
from recexp.layer.attention import Attention, Normalise, as_unique_events, condition_on_user, weigh
from recexp.layer.lookup import Events
from recexp.model.seq_pooling import Pooling

Make = Callable[..., nn.Module]


class Constant(nn.Module):
    """The same score for every event."""

    def __init__(self, score: float) -> None:
        super().__init__()
        self.score = score

    def forward(self, target: Tensor, events: Events, mask: Tensor) -> Tensor:
        return torch.full(events.index.shape, self.score)


@pytest.fixture
def din(make: Make) -> Callable[..., nn.Module]:
    return lambda **options: make("din", activation=Activation.relu, **options).eval()


def pooling_of_the_same_weights(model: nn.Module, make: Make, pooling: Pooling) -> nn.Module:
    other = make("seq_pooling", pooling=pooling, activation=Activation.relu)
    assert not other.load_state_dict(model.state_dict(), strict=False).missing_keys
    return other.eval()


@pytest.mark.parametrize("normalise", Normalise)
def test_interest_weighs_each_event_by_its_match_with_the_target(
    normalise: Normalise, din: Callable[..., nn.Module], mixed: Batch
) -> None:
    model = din(attention=Attention.dot, normalise=normalise)
    profile, target, history = model.embed(mixed)
    logits = []
    for row, length in enumerate(mixed.mask.sum(1).tolist()):
        t, h = target[row], history[row, :length]
        a = torch.stack([h_s @ t for h_s in h]) if length else torch.zeros(0)
        if normalise is Normalise.softmax:
            a = (a / len(t) ** 0.5).exp()
            a = a / a.sum()
        v = sum((a_s * h_s for a_s, h_s in zip(a, h, strict=True)), torch.zeros_like(t))  # eq. 3
        logits.append(model.mlp(torch.cat([v, t, profile[row]])[None])[0, 0])
    torch.testing.assert_close(model(mixed).logits, torch.stack(logits), rtol=1e-5, atol=1e-5)


def test_scores_of_1_make_it_sum_pooling(din: Callable[..., nn.Module], make: Make, mixed: Batch) -> None:
    model = din(normalise=Normalise.none)
    model.attention = Constant(1.0)
    wanted = pooling_of_the_same_weights(model, make, Pooling.sum)
    torch.testing.assert_close(model(mixed).logits, wanted(mixed).logits, rtol=1e-5, atol=1e-5)


def test_equal_scores_under_softmax_make_it_mean_pooling(
    din: Callable[..., nn.Module], make: Make, mixed: Batch
) -> None:
    model = din(normalise=Normalise.softmax)
    model.attention = Constant(-3.0)
    wanted = pooling_of_the_same_weights(model, make, Pooling.mean)
    torch.testing.assert_close(model(mixed).logits, wanted(mixed).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("normalise", Normalise)
@pytest.mark.parametrize("attention", Attention)
def test_order_of_the_history_changes_nothing(
    attention: Attention, normalise: Normalise, din: Callable[..., nn.Module], mixed: Batch, reverse: Callable
) -> None:
    model = din(attention=attention, normalise=normalise)
    torch.testing.assert_close(model(reverse(mixed)).logits, model(mixed).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attention", Attention)
def test_interest_depends_on_the_target_unless_attention_sees_the_history_alone(
    attention: Attention, din: Callable[..., nn.Module], mixed: Batch
) -> None:
    model = din(attention=attention)
    target, events = model.embed.events(mixed)
    change = model.attention(target.flip(0), events, mixed.mask) - model.attention(target, events, mixed.mask)
    changed = (change[mixed.mask].abs() > 1e-6).any()
    assert bool(changed) == (attention not in (Attention.linear, Attention.mlp))


def test_weights_are_handed_out_event_by_event(din: Callable[..., nn.Module], mixed: Batch) -> None:
    weights = din()(mixed).parts["attention"]
    assert weights.shape == mixed.mask.shape
    assert not weights[~mixed.mask].any()
    torch.testing.assert_close(weights.sum(1), mixed.mask.any(1).float())


@pytest.mark.parametrize("attention", Attention)
def test_targets_scored_in_one_pass_equal_one_call_each(
    attention: Attention, din: Callable[..., nn.Module], mixed: Batch
) -> None:
    model = din(attention=attention, user_vector=True)
    targets = torch.stack([mixed.target.roll(n) for n in range(3)], 1)  # (B, 3)
    calls = [model(replace(mixed, target=targets[:, n])).logits for n in range(3)]
    torch.testing.assert_close(model.score(mixed, targets), torch.stack(calls, 1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("attention", Attention)
def test_user_takes_part_in_the_attention_if_asked(
    attention: Attention, din: Callable[..., nn.Module], mixed: Batch
) -> None:
    other = replace(mixed, user=mixed.user.roll(2))

    def change(model: nn.Module) -> float:
        return float((model(other).parts["attention"] - model(mixed).parts["attention"]).detach().abs().max())

    options = {"attention": attention, "normalise": Normalise.none}
    assert change(din(user_vector=True, **options)) > 1e-6
    assert change(din(user_vector=False, **options)) == 0


def test_user_joins_the_target_as_the_target_joins_an_event() -> None:
    torch.manual_seed(0)
    t, h, u = torch.randn(2, 3), torch.randn(2, 4, 3), torch.randn(2, 3)
    events = as_unique_events(h)
    multiplied, same = condition_on_user(Attention.multiply, t, events, u)
    torch.testing.assert_close(multiplied[1] * same.expanded()[1, 2], h[1, 2] * t[1] * u[1])
    added, same = condition_on_user(Attention.add, t, events, u)
    torch.testing.assert_close(added[0] + same.expanded()[0, 3], h[0, 3] + t[0] + u[0])
    alone, met = condition_on_user(Attention.mlp, t, events, u)
    assert torch.equal(alone, t)
    torch.testing.assert_close(met.expanded()[1, 0], h[1, 0] * u[1])


def test_user_of_ones_changes_nothing(din: Callable[..., nn.Module], mixed: Batch) -> None:
    with_user, without = din(user_vector=True), din(user_vector=False)
    nn.init.zeros_(with_user.user.weight)
    without.load_state_dict(with_user.state_dict(), strict=False)
    torch.testing.assert_close(with_user(mixed).logits, without(mixed).logits)


def test_term_of_the_target_alone_cancels_under_softmax(mixed: Batch) -> None:
    scores = torch.randn(mixed.mask.shape, generator=torch.Generator().manual_seed(0))
    of_target = torch.randn(len(mixed), 1, generator=torch.Generator().manual_seed(1))
    shifted, plain = (weigh(logits, mixed.mask, Normalise.softmax) for logits in (scores + of_target, scores))
    torch.testing.assert_close(shifted, plain)
    unnormalised = weigh(scores + of_target, mixed.mask, Normalise.none)
    assert not torch.allclose(unnormalised, weigh(scores, mixed.mask, Normalise.none))


def test_ids_alone_see_no_feature(din: Callable[..., nn.Module], mixed: Batch) -> None:
    ids, features = din(features=False), din(features=True)
    blanked = with_catalogue(mixed, users=blank(mixed.catalogue.users), items=blank(mixed.catalogue.items))
    other = replace(blanked, context=blank(mixed.context, kept=0))
    assert torch.equal(ids(other).logits, ids(mixed).logits)
    assert (features(other).logits != features(mixed).logits).all()


def blank(features: Features, kept: int = 1) -> Features:
    """Nothing known but the first `kept` id columns."""
    ids = torch.cat([features.ids[:, :kept], torch.full_like(features.ids[:, kept:], UNKNOWN)], 1)
    return Features(ids, torch.zeros_like(features.values))


def test_table_is_refused(make: Make, table: Dataset) -> None:
    with pytest.raises(ConfigError, match=r"^model = din: needs users, items and time"):
        make("din", schema=table.schema)
