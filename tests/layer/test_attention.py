import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recexp.layer.activation import Activation
from recexp.layer.attention import Attention, Normalise, as_unique_events, attention, weigh
from recexp.layer.lookup import Events

B, L, D = 4, 6, 5
MASK = torch.arange(L) < torch.tensor([6, 1, 0, 3])[:, None]
WHOLE = torch.ones_like(MASK)
HISTORY_ALONE = (Attention.linear, Attention.mlp)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def scorer(kind: Attention, activation: Activation = Activation.sigmoid) -> torch.nn.Module:
    return attention(kind, D, [7, 3], activation)


def draw(length: int = L) -> tuple[Tensor, Tensor]:
    return torch.randn(B, D), torch.randn(B, length, D)


def pool(weights: Tensor, history: Tensor) -> Tensor:
    """Eq. 3: weights (B, L), history (B, L, D) -> (B, D)."""
    return (weights[:, :, None] * history).sum(1)


def scores(module: torch.nn.Module, target: Tensor, history: Tensor, mask: Tensor = MASK) -> Tensor:
    """Those of a scorer for a history (B, L, D) in which no two events are taken to be equal."""
    return module(target, as_unique_events(history), mask)


def joined(kind: Attention, t: Tensor, h: Tensor) -> Tensor:
    """What the scorer's MLP reads, of one target (D,) and one event (D,), as the papers write it."""
    return {
        Attention.linear: lambda: h,
        Attention.mlp: lambda: h,
        Attention.add: lambda: t + h,
        Attention.subtract: lambda: t - h,
        Attention.multiply: lambda: t * h,
        Attention.interaction: lambda: torch.cat([t, h, t - h, t * h]),
        Attention.outer: lambda: torch.cat([h, torch.outer(h, t).flatten(), t]),
    }[kind]()


@pytest.mark.parametrize("kind", [kind for kind in Attention if kind not in (Attention.dot, Attention.bilinear)])
def test_scores_equal_the_mlp_of_each_pair(kind):
    module, (target, history) = scorer(kind), draw()
    module.mlp.first.bias.data.normal_()
    pairs = [torch.stack([joined(kind, t, h) for h in events]) for t, events in zip(target, history, strict=True)]
    torch.testing.assert_close(scores(module, target, history, WHOLE), module.mlp(torch.stack(pairs))[:, :, 0])


def test_dot_and_bilinear_equal_a_plain_loop():
    target, history = draw()
    dot = [[(h * t).sum() for h in events] for t, events in zip(target, history, strict=True)]
    torch.testing.assert_close(scores(scorer(Attention.dot), target, history), torch.tensor(dot))
    module = scorer(Attention.bilinear)
    weight = module.linear.weight.detach()
    found = [[h @ weight @ t for h in events] for t, events in zip(target, history, strict=True)]
    torch.testing.assert_close(scores(module, target, history), torch.tensor(found))
    module.linear.weight.data = torch.eye(D)
    torch.testing.assert_close(scores(module, target, history), torch.tensor(dot))


@pytest.mark.parametrize("kind", Attention)
def test_the_target_matters_to_all_but_linear_and_mlp(kind):
    module, (target, history) = scorer(kind), draw()
    same = torch.allclose(scores(module, target, history), scores(module, torch.randn(B, D), history))
    assert same == (kind in HISTORY_ALONE)


def test_a_term_of_the_target_alone_cancels_under_softmax():
    scores, target_term = torch.randn(B, L), torch.randn(B, 1)
    both = (weigh(scores + extra, MASK, Normalise.softmax) for extra in (0, target_term))
    torch.testing.assert_close(*both)


@pytest.mark.parametrize("kind", Attention)
@pytest.mark.parametrize("normalise", Normalise)
@pytest.mark.parametrize("activation", [Activation.dice, Activation.prelu])
def test_padding_of_any_content_changes_neither_interest_nor_gradient(kind, normalise, activation):
    module, (target, history) = scorer(kind, activation), draw()
    found = []
    for content in (0.0, 1e6):
        events = torch.where(MASK[:, :, None], history, content).requires_grad_()
        module.zero_grad()
        interest = pool(weigh(scores(module, target, events), MASK, normalise, D**-0.5), events)
        interest.square().sum().backward()
        assert torch.equal(events.grad[~MASK], torch.zeros(int((~MASK).sum()), D))
        found.append([interest, events.grad, *(p.grad for p in module.parameters())])
    for clean, dirty in zip(*found, strict=True):
        torch.testing.assert_close(clean, dirty, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", Attention)
@pytest.mark.parametrize("normalise", Normalise)
@pytest.mark.parametrize("length", [0, L], ids=["no length", "all masked"])
def test_empty_histories_give_exactly_0_and_a_finite_gradient(kind, normalise, length):
    module, (target, history) = scorer(kind, Activation.dice), draw(length)
    mask = torch.zeros(B, length, dtype=torch.bool)
    interest = pool(weigh(scores(module, target, history, mask), mask, normalise), history.requires_grad_())
    interest.sum().backward()
    assert torch.equal(interest, torch.zeros(B, D))
    assert history.grad.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("kind", Attention)
def test_the_batch_equals_its_rows_one_by_one(kind):
    module, (target, history) = scorer(kind), draw()
    rows = [scores(module, target[i : i + 1], history[i : i + 1], MASK[i : i + 1]) for i in range(B)]
    torch.testing.assert_close(scores(module, target, history), torch.cat(rows))


@pytest.mark.parametrize("kind", Attention)
def test_an_event_has_the_same_score_at_any_place(kind):
    module, (target, history), order = scorer(kind), draw(), torch.randperm(L)
    found, expected = (scores(module, target, h, WHOLE) for h in (history[:, order], history))
    torch.testing.assert_close(found, expected[:, order])


@pytest.mark.parametrize("kind", [kind for kind in Attention if kind is not Attention.dot])
def test_gradient_reaches_every_parameter(kind):
    module, (target, history) = scorer(kind), draw()
    scores(module, target, history).square().sum().backward()
    assert all((p.grad != 0).any() for p in module.parameters())


def test_weights_of_1_are_sum_pooling():
    _, history = draw()
    weights = weigh(torch.ones(B, L), MASK, Normalise.none)
    torch.testing.assert_close(pool(weights, history), (history * MASK[:, :, None]).sum(1))


def test_equal_scores_under_softmax_are_the_mean():
    _, history = draw()
    weights = weigh(torch.full((B, L), 3.0), MASK, Normalise.softmax)
    mean = (history * MASK[:, :, None]).sum(1) / MASK.sum(1, keepdim=True).clamp(min=1)
    torch.testing.assert_close(pool(weights, history), mean)


def test_softmax_equals_a_plain_loop_over_valid_scores():
    scores = torch.randn(B, L)
    weights = weigh(scores, MASK, Normalise.softmax, scale=0.5)
    for row, valid, found in zip(scores, MASK, weights, strict=True):
        torch.testing.assert_close(found[valid], F.softmax(row[valid] / 2, 0))
        assert (found[~valid] == 0).all()


def test_scale_is_softmax_alone():
    scores = torch.randn(B, L)
    assert torch.equal(weigh(scores, MASK, Normalise.none, scale=0.5), scores * MASK)


@pytest.mark.parametrize("normalise", Normalise)
@pytest.mark.parametrize("size", [1e4, 1e30, 3e38])
def test_huge_scores_give_finite_weights_and_gradients(normalise, size):
    scores = (size * torch.tensor([[1.0, -1.0, 1.0], [-1.0, -1.0, -1.0]])).requires_grad_()
    mask = torch.tensor([[True, True, False], [True, False, False]])
    weights = weigh(scores, mask, normalise)
    weights.clamp(-1, 1).sum().backward()
    assert weights.isfinite().all() and scores.grad.isfinite().all() and (weights[~mask] == 0).all()


@pytest.mark.parametrize("kind", Attention)
def test_weights_are_fp32_under_bfloat16_autocast(kind):
    module, (target, history) = scorer(kind, Activation.dice), draw()
    with torch.autocast("cpu", torch.bfloat16):
        weights = weigh(scores(module, target, history), MASK, Normalise.softmax)
        interest = pool(weights, history)
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights.sum(1), MASK.any(1).float())
    assert interest.isfinite().all() and (interest[2] == 0).all()


def test_linear_has_no_hidden_layer():
    assert len(scorer(Attention.linear).mlp.linears) == 1


def test_hidden_sizes_may_be_none():
    target, history = draw()
    assert scores(attention(Attention.interaction, D, [], Activation.relu), target, history).shape == (B, L)


@pytest.mark.parametrize("activation", [Activation.dice, Activation.relu, Activation.prelu])
@pytest.mark.parametrize("training", [True, False])
def test_scores_over_unique_events_equal_those_of_each_event_gradients_included(activation, training):
    module = scorer(Attention.interaction, activation).double().train(training)
    vectors, index = torch.randn(7, D, dtype=torch.float64, requires_grad=True), torch.randint(7, (B, L))
    target = torch.randn(B, D, dtype=torch.float64, requires_grad=True)
    leaves = [vectors, target, *module.parameters()]
    t, h = target[:, None].expand(B, L, D), vectors[index]
    expected = module.mlp(torch.cat([t, h, t - h, t * h], 2), MASK)[:, :, 0]
    found = module(target, Events(vectors, index), MASK)
    torch.testing.assert_close(found[MASK], expected[MASK])
    assert (found[~MASK] == 0).all()
    cotangent = torch.randn(B, L, dtype=torch.float64) * MASK
    for one, other in zip(
        torch.autograd.grad(found, leaves, cotangent, allow_unused=True),
        torch.autograd.grad(expected, leaves, cotangent, allow_unused=True),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_scores_over_no_events_at_all_train_finite():
    module = scorer(Attention.interaction, Activation.dice)
    target, vectors = torch.randn(B, D), torch.randn(7, D, requires_grad=True)
    found = module(target, Events(vectors, torch.zeros(B, L, dtype=torch.long)), torch.zeros_like(MASK))
    found.sum().backward()
    assert torch.equal(found, torch.zeros(B, L)) and torch.equal(vectors.grad, torch.zeros(7, D))
