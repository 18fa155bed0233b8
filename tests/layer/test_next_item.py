import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from batches import with_catalogue
from torch import Tensor

from recexp.dataset.batch import Batch, Features
from recexp.dataset.log import Dataset
from recexp.dataset.schema import FIRST, PADDING, UNKNOWN
from recexp.kernel.cross_entropy import sampled_cross_entropy, summed_cross_entropy
from recexp.layer import next_item
from recexp.layer.embedding import SideEmbedding
from recexp.layer.next_item import NONE, Draw, NextItem, Vectors, successors

H, D = 5, 3
Gather = Callable[..., Batch]
each_vectors = pytest.mark.parametrize("vectors", Vectors)
each_draw = pytest.mark.parametrize("draw", [None, Draw(20)], ids=["all", "sampled"])


class Once(Draw):
    """Every known item once, as often as expected."""

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return torch.arange(self.n), torch.zeros(self.n)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def item(dataset: Dataset) -> SideEmbedding:
    return SideEmbedding("item", dataset.schema.item, D, std=1.0)


@pytest.fixture
def head(dataset: Dataset) -> Callable[..., NextItem]:
    """head(Vectors.tied, draw): with weights and biases drawn wide."""

    def head(vectors: Vectors, draw: Draw | None = None) -> NextItem:
        module = NextItem(vectors, H, D, dataset.schema.n_items, draw)
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter)
        return module

    return head


def states_of(batch: Batch) -> Tensor:
    return torch.randn(*batch.mask.shape, H, requires_grad=True)


def pairs(batch: Batch) -> list[tuple[int, int, int]]:
    """(row, s, item id of event s + 1), one by one."""
    triples = []
    for row, length in enumerate(batch.mask.sum(1).tolist()):
        triples += [(row, s, int(batch.catalogue.items.ids[batch.history[row, s + 1], 0])) for s in range(length - 1)]
    return triples


def logits_of(module: NextItem, item: SideEmbedding, state: Tensor) -> dict[int, float]:
    """The logit of each known item by its id."""
    logits = {}
    for i in range(FIRST, FIRST + len(module.bias)):
        if module.own is None:
            z = (module.project.weight @ state) @ item.table.weight[i]
        else:
            z = module.own.weight[i - FIRST] @ state
        logits[i] = (z + module.bias[i - FIRST]).item()
    return logits


@each_vectors
def test_loss_over_all_items_is_the_mean_surprise_at_each_next_item(
    vectors: Vectors, head: Callable, item: SideEmbedding, mixed: Batch
) -> None:
    module, states = head(vectors), states_of(mixed)
    surprise = []
    for row, s, following in pairs(mixed):
        z = logits_of(module, item, states[row, s])
        surprise.append(-math.log(math.exp(z[following]) / sum(map(math.exp, z.values()))))
    assert module(states, mixed, item).item() == pytest.approx(sum(surprise) / len(surprise), rel=1e-4)


@each_vectors
def test_sampled_loss_counts_each_drawn_item_by_its_expected_number(
    vectors: Vectors, head: Callable, item: SideEmbedding, mixed: Batch
) -> None:
    module, states = head(vectors, Draw(20)), states_of(mixed)
    torch.manual_seed(1)
    loss = module(states, mixed, item)
    torch.manual_seed(1)
    drawn = mixed.catalogue.items.ids[mixed.catalogue.draw_items(torch.zeros(20)), 0].tolist()
    trained = mixed.catalogue.items.ids[mixed.catalogue.sampling_pool, 0].tolist()
    expected = {i: 20 * trained.count(i) / len(trained) for i in drawn}
    surprise, hits = [], 0
    for row, s, following in pairs(mixed):
        z = logits_of(module, item, states[row, s])
        hits += drawn.count(following)
        others = sum(math.exp(z[i]) / expected[i] for i in drawn if i != following)
        surprise.append(-math.log(math.exp(z[following]) / (math.exp(z[following]) + others)))
    assert hits
    assert loss.item() == pytest.approx(sum(surprise) / len(surprise), rel=1e-4)


@each_vectors
def test_every_item_drawn_once_makes_the_sampled_loss_the_full_one(
    vectors: Vectors, head: Callable, item: SideEmbedding, mixed: Batch
) -> None:
    full, states = head(vectors), states_of(mixed)
    sampled = head(vectors, Once(len(full.bias)))
    sampled.load_state_dict(full.state_dict())
    losses = [module(states, mixed, item) for module in (full, sampled)]
    torch.testing.assert_close(losses[0], losses[1])
    gradients = []
    for module, loss in zip((full, sampled), losses, strict=True):
        weights = item.table.weight if module.own is None else module.own.weight
        gradients.append(torch.autograd.grad(loss, [states, weights, module.bias]))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_many_draws_approach_the_full_loss_and_gradient_though_items_are_not_equally_popular(
    head: Callable, item: SideEmbedding, mixed: Batch
) -> None:
    full, states = head(Vectors.own), states_of(mixed)
    sampled = head(Vectors.own, Draw(20_000))
    sampled.load_state_dict(full.state_dict())
    losses = [module(states, mixed, item) for module in (full, sampled)]
    torch.testing.assert_close(losses[0], losses[1], rtol=0.02, atol=0)
    wanted, estimate = (torch.autograd.grad(loss, states)[0] for loss in losses)
    assert (wanted - estimate).norm() < 0.05 * wanted.norm()


def test_expected_numbers_are_those_of_the_training_events_that_batches_come_with(mixed: Batch) -> None:
    draw = Draw(6)
    for popular in (
        mixed.catalogue.sampling_pool,
        mixed.catalogue.sampling_pool[:5],
        mixed.catalogue.sampling_pool[:1],
    ):
        drawn, log_expected = draw(with_catalogue(mixed, sampling_pool=popular))
        trained = (mixed.catalogue.items.ids[popular, 0] - FIRST).tolist()
        wanted = [6 * trained.count(i) / len(trained) for i in drawn.tolist()]
        torch.testing.assert_close(log_expected.exp(), torch.tensor(wanted))


def test_training_events_are_counted_once(mixed: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = Draw(6)
    draw(mixed)
    monkeypatch.setattr(torch, "bincount", None)
    draw(replace(mixed, label=1 - mixed.label))


def test_next_item_drawn_by_chance_does_not_count_against_itself(
    head: Callable, item: SideEmbedding, mixed: Batch
) -> None:
    only = mixed.history[mixed.mask][0]
    batch = replace(with_catalogue(mixed, sampling_pool=only[None]), history=torch.where(mixed.mask, only, 0))
    assert head(Vectors.tied, Draw(4))(states_of(batch), batch, item).item() == 0


@each_draw
@each_vectors
def test_equal_logits_cost_the_logarithm_of_the_number_of_items(
    vectors: Vectors, draw: Draw | None, head: Callable, item: SideEmbedding, mixed: Batch
) -> None:
    module = head(vectors, draw and Draw(20_000))
    torch.nn.init.zeros_(module.bias)
    loss = module(torch.zeros(*mixed.mask.shape, H), mixed, item)
    assert loss.item() == pytest.approx(math.log(len(module.bias)), abs=0.02)


@each_draw
def test_target_and_last_state_play_no_part(
    draw: Draw | None, head: Callable, item: SideEmbedding, mixed: Batch
) -> None:
    module, states = head(Vectors.tied, draw), states_of(mixed)
    torch.manual_seed(1)
    loss = module(states, mixed, item)
    (gradient,) = torch.autograd.grad(loss, states)
    has_successor = torch.zeros_like(mixed.mask)
    has_successor[:, :-1] = mixed.mask[:, 1:]
    assert torch.equal(gradient.any(2), has_successor)
    torch.manual_seed(1)
    elsewhere = replace(mixed, target=mixed.target % 40 + 1)
    assert torch.equal(module(states, elsewhere, item), loss)


@each_draw
def test_unknown_next_item_is_no_pair(draw: Draw | None, head: Callable, item: SideEmbedding, mixed: Batch) -> None:
    module, states = head(Vectors.tied, draw), states_of(mixed)
    forgotten = int(mixed.history[-1, 3])
    ids = mixed.catalogue.items.ids.clone()
    ids[forgotten, 0] = UNKNOWN
    trained = mixed.catalogue.sampling_pool[mixed.catalogue.sampling_pool != forgotten]
    batch = with_catalogue(mixed, items=Features(ids, mixed.catalogue.items.values), sampling_pool=trained)
    (gradient,) = torch.autograd.grad(module(states, batch, item), states)
    wanted = mixed.mask[:, 1:] & (mixed.history[:, 1:] != forgotten)
    assert torch.equal(gradient[:, :-1].any(2), wanted)
    assert (successors(batch) != NONE).sum() == wanted.sum() < mixed.mask[:, 1:].sum()


@each_draw
def test_padding_and_unknown_are_no_candidates(
    draw: Draw | None, head: Callable, dataset: Dataset, mixed: Batch
) -> None:
    module, states = head(Vectors.tied, draw), states_of(mixed)
    table = SideEmbedding("item", dataset.schema.item, D, std=1.0)
    torch.manual_seed(1)
    before = module(states, mixed, table)
    with torch.no_grad():
        table.table.weight[[PADDING, UNKNOWN]] = 5.0
        table.table.weight[dataset.schema.n_items :] = 5.0  # the values of the other fields
    torch.manual_seed(1)
    after = module(states, mixed, table)
    assert torch.equal(before, after)
    after.backward()
    others = torch.ones(len(table.table.weight), dtype=torch.bool)
    others[FIRST : dataset.schema.n_items] = False
    assert not table.table.weight.grad[others].any()


@each_draw
@each_vectors
def test_loss_is_0_where_no_history_has_two_events(
    vectors: Vectors, draw: Draw | None, head: Callable, item: SideEmbedding, gather: Gather, mixed_rows: list[int]
) -> None:
    for rows in (mixed_rows[:2], mixed_rows[:4]):  # lengths 0; 0 and 1
        module, batch = head(vectors, draw), gather(rows)
        states = states_of(batch)
        loss = module(states, batch, item)
        assert loss.item() == 0
        gradients = torch.autograd.grad(loss, [states, *module.parameters()], allow_unused=True)
        assert not any(gradient.any() for gradient in gradients if gradient is not None)


@each_draw
def test_items_are_scored_at_pairs_alone(
    draw: Draw | None, head: Callable, item: SideEmbedding, mixed: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, n_scored = head(Vectors.tied, draw), []
    for loss in (sampled_cross_entropy, summed_cross_entropy):
        watched = lambda query, *others, loss=loss: n_scored.append(len(query)) or loss(query, *others)  # noqa: E731
        monkeypatch.setattr(next_item, loss.__name__, watched)
    module(states_of(mixed), mixed, item)
    assert n_scored == [len(pairs(mixed))]


@each_draw
@each_vectors
def test_rows_without_a_successor_that_a_gpu_keeps_change_nothing(
    vectors: Vectors,
    draw: Draw | None,
    head: Callable,
    item: SideEmbedding,
    mixed: Batch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module, states, results = head(vectors, draw), states_of(mixed), []
    for keep_all in (False, True):
        if keep_all:
            monkeypatch.setattr(next_item, "true_positions", lambda mask: slice(None))
        torch.manual_seed(1)
        loss = module(states, mixed, item)
        used = [states, *(parameter for parameter in module.parameters() if parameter.requires_grad)]
        results.append((loss, torch.autograd.grad(loss, used)))
    torch.testing.assert_close(results[0], results[1])


@each_draw
@each_vectors
def test_sparse_tables_get_the_same_gradient_by_rows(
    vectors: Vectors, draw: Draw | None, head: Callable, dataset: Dataset, mixed: Batch
) -> None:
    module, states = head(vectors, draw), states_of(mixed)
    table = SideEmbedding("item", dataset.schema.item, D, std=1.0)
    gradients = []
    for sparse in (False, True):
        table.table.sparse, table.table.weight.grad = sparse, None
        torch.manual_seed(1)
        module(states, mixed, table).backward()
        gradients.append(table.table.weight.grad)
    if vectors is Vectors.own:
        assert gradients == [None, None]
    else:
        assert gradients[1].is_sparse
        torch.testing.assert_close(gradients[1].to_dense(), gradients[0])


@each_draw
def test_deterministic_mode_repeats_the_gradient(
    draw: Draw | None, head: Callable, item: SideEmbedding, mixed: Batch
) -> None:
    module, states = head(Vectors.tied, draw), states_of(mixed)
    torch.use_deterministic_algorithms(True)
    try:
        gradients = []
        for _ in range(2):
            torch.manual_seed(1)
            gradients.append(torch.autograd.grad(module(states, mixed, item), [states, item.table.weight]))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


@each_draw
@each_vectors
def test_losses_of_products_in_16_bits_are_taken_in_32(
    vectors: Vectors, draw: Draw | None, head: Callable, item: SideEmbedding, mixed: Batch
) -> None:
    module, states, losses = head(vectors, draw), states_of(mixed), []
    for rounded in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=rounded):
            losses.append(module(states, mixed, item))
    assert losses[1].dtype == torch.float32
    torch.testing.assert_close(*losses, rtol=0.02, atol=0)


@each_draw
def test_huge_logits_stay_finite(draw: Draw | None, head: Callable, item: SideEmbedding, mixed: Batch) -> None:
    module, states = head(Vectors.tied, draw), states_of(mixed)
    loss = module(1e4 * states, mixed, item)
    assert loss.isfinite() and loss > 1e3
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss, [states, *module.parameters()]))
