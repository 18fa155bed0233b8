"""Deep Interest Network: eq. 3 event by event, and the poolings it becomes when attention says nothing."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from recexp.dataset.batch import Batch
from recexp.dataset.log import Dataset
from recexp.error import ConfigError
from recexp.layer.activation import Activation
from recexp.layer.attention import Attention, Normalise
from recexp.model.seq_pooling import Pooling

Make = Callable[..., nn.Module]


class Constant(nn.Module):
    """The same score for every event."""

    def __init__(self, score: float) -> None:
        super().__init__()
        self.score = score

    def forward(self, target: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        return torch.full(history.shape[:2], self.score)


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
    _, target, history = model.embed(mixed)
    change = model.attention(target.flip(0), history, mixed.mask) - model.attention(target, history, mixed.mask)
    changed = (change[mixed.mask].abs() > 1e-6).any()
    assert bool(changed) == (attention not in (Attention.linear, Attention.mlp))


def test_table_is_refused(make: Make, table: Dataset) -> None:
    with pytest.raises(ConfigError, match=r"^model = din: needs users, items and time"):
        make("din", schema=table.schema)
