"""Losses of the next item against loops over queries and negatives, and negatives against their rates."""

import math

import pytest
import torch
from torch import Tensor

from recexp.dataset.batch import Catalogue, Features
from recexp.dataset.schema import FIRST
from recexp.layer.ranking import (
    Negatives,
    Scored,
    Vectors,
    bce,
    bpr,
    bpr_max,
    gbce,
    next_item_loss,
    sampled_softmax,
)

P, S, V = 5, 7, 12


def scored(log_expected: Tensor | None = None) -> Scored:
    generator = torch.Generator().manual_seed(0)
    hit = torch.zeros(P, S, dtype=torch.bool)
    hit[1, 2] = hit[3, 0] = True
    return Scored(
        torch.randn(P, generator=generator), torch.randn(P, S, generator=generator), hit, log_expected, n_items=V
    )


def by_hand(name: str, target: float, negatives: list[float], expected: list[float]) -> float:
    """One query; negatives without those that are the target."""
    sigma = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    n = S
    match name:
        case "sampled_softmax":
            others = sum(math.exp(s - e) for s, e in zip(negatives, expected, strict=True))
            return -math.log(math.exp(target) / (math.exp(target) + others))
        case "bce":
            return -(math.log(sigma(target)) + sum(math.log(1 - sigma(s)) for s in negatives)) / (1 + n)
        case "gbce":
            rate = n / (V - 1)
            power = rate * (0.75 * (1 - 1 / rate) + 1 / rate)
            return -(math.log(sigma(target) ** power) + sum(math.log(1 - sigma(s)) for s in negatives)) / (1 + n)
        case "bpr":
            return -sum(math.log(sigma(target - s)) for s in negatives) / n
        case _:
            total = sum(map(math.exp, negatives))
            won = sum(math.exp(s) / total * sigma(target - s) for s in negatives)
            return -math.log(won) + 0.5 * sum(math.exp(s) / total * s * s for s in negatives)


LOSSES = {
    "sampled_softmax": sampled_softmax,
    "bce": bce,
    "gbce": lambda scored: gbce(scored, calibration=0.75),
    "bpr": bpr,
    "bpr_max": lambda scored: bpr_max(scored, score_l2=0.5),
}


@pytest.mark.parametrize("name", LOSSES)
def test_loss_is_that_of_its_formula(name: str) -> None:
    log_expected = torch.linspace(-2, 1, S)
    given = scored(log_expected)
    losses = LOSSES[name](given)
    for p in range(P):
        kept = [s for s in range(S) if not given.hit[p, s]]
        negatives, expected = [float(given.negative[p, s]) for s in kept], [float(log_expected[s]) for s in kept]
        assert float(losses[p]) == pytest.approx(by_hand(name, float(given.target[p]), negatives, expected), rel=1e-5)


def test_gbce_without_calibration_is_bce() -> None:
    torch.testing.assert_close(gbce(scored(), calibration=0.0), bce(scored()))


@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradient_of_huge_scores_and_of_hits_alone_are_finite(name: str) -> None:
    for scale, all_hit in ((1e4, False), (1.0, True)):
        base = scored()
        target, negative = (base.target * scale).requires_grad_(), (base.negative * scale).requires_grad_()
        hit = torch.ones_like(base.hit) if all_hit else base.hit
        loss = LOSSES[name](Scored(target, negative, hit, None, V)).sum()
        gradients = torch.autograd.grad(loss, [target, negative])
        assert loss.isfinite() and all(gradient.isfinite().all() for gradient in gradients)


@pytest.fixture
def catalogue() -> Catalogue:
    """V known items at rows 1 to V, item n popular in proportion to n."""
    ids = torch.cat([torch.zeros(1, dtype=torch.long), torch.arange(V) + FIRST])[:, None]
    features = Features(ids, torch.zeros(len(ids), 0))
    return Catalogue(features, features, torch.arange(1, V + 1).repeat_interleave(torch.arange(1, V + 1)).int())


def among(items: Tensor) -> Vectors:
    """What a model's item_vectors gives."""
    return lambda ids: items if ids is None else items[ids]


@pytest.mark.parametrize("popular", [0.0, 0.5, 1.0])
def test_log_expected_is_the_rate_at_which_items_are_drawn(catalogue: Catalogue, popular: float) -> None:
    negatives = Negatives(40, shared=False, popular=popular, corrected=True)
    torch.manual_seed(0)
    drawn, log_expected = negatives(2000, catalogue, V)
    assert drawn.shape == (2000, 40) and drawn.min() == FIRST and drawn.max() == FIRST + V - 1
    rate = torch.bincount(drawn.flatten() - FIRST) / 2000
    told = torch.zeros(V).scatter(0, drawn.flatten() - FIRST, log_expected.exp().flatten())
    torch.testing.assert_close(rate, told, rtol=0.1, atol=0.0)


def test_a_corrected_sample_estimates_the_sum_over_all_items(catalogue: Catalogue) -> None:
    query, items = torch.randn(300, 4), torch.randn(FIRST + V, 4)
    target = torch.randint(FIRST, FIRST + V, (300,))
    torch.manual_seed(0)
    full = next_item_loss(query, among(items), target, catalogue, Negatives(1, True, 0.0, True), None)
    for shared in (False, True):
        many = Negatives(20_000 if shared else 2000, shared, 0.5, True)
        sampled = next_item_loss(query, among(items), target, catalogue, many, sampled_softmax)
        assert float(sampled) == pytest.approx(float(full), rel=0.02)
    uncorrected = next_item_loss(
        query, among(items), target, catalogue, Negatives(2000, False, 0.5, False), sampled_softmax
    )
    assert float(uncorrected) > float(full) + 3


def test_shared_negatives_are_scored_as_those_of_each_query(catalogue: Catalogue) -> None:
    query, items = torch.randn(6, 16), torch.randn(FIRST + V, 16)
    target = torch.randint(FIRST, FIRST + V, (6,))
    torch.manual_seed(0)
    shared = Negatives(30, shared=True, popular=0.0, corrected=False)
    loss = next_item_loss(query, among(items), target, catalogue, shared, bpr)
    torch.manual_seed(0)
    drawn, _ = shared(6, catalogue, V)
    negative = query @ items[drawn].t()
    own = (query * items[target]).sum(1)
    expected = bpr(Scored(own, negative, drawn == target[:, None], None, V)).mean()
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("width", [7, 16])  # 16: by kernels if there are any
def test_items_looked_up_once_give_loss_and_gradients_of_all_items(
    width: int, name: str, shared: bool, catalogue: Catalogue
) -> None:
    negatives = Negatives(4, shared, 0.5, True)
    target = torch.randint(FIRST, FIRST + V, (6,), generator=torch.Generator().manual_seed(0))
    found = []
    for by_row in (False, True):
        torch.manual_seed(1)
        query, items = torch.randn(6, width, requires_grad=True), torch.randn(FIRST + V, width, requires_grad=True)
        read: list[Tensor | None] = []

        def vectors(ids: Tensor | None, items: Tensor = items, read: list[Tensor | None] = read) -> Tensor:
            read.append(ids)
            return among(items)(ids)

        loss = next_item_loss(query, vectors, target, catalogue, negatives, LOSSES[name], by_row)
        found.append((loss, *torch.autograd.grad(loss, [query, items])))
        (ids,) = read
        assert (ids is not None) == (by_row or shared)  # all items, if a step has as many ids as there are items
        assert ids is None or torch.equal(ids, ids.unique())
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_no_queries_give_a_loss_of_0(catalogue: Catalogue) -> None:
    query, items = torch.zeros(0, 16, requires_grad=True), torch.randn(FIRST + V, 16, requires_grad=True)
    for loss, shared in ((None, False), (sampled_softmax, False), (sampled_softmax, True)):
        negatives = Negatives(3, shared, 0.0, True)
        value = next_item_loss(query, among(items), torch.zeros(0, dtype=torch.long), catalogue, negatives, loss)
        assert value == 0 and not torch.autograd.grad(value, items)[0].any()
