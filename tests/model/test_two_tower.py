"""Two towers: the loss against a loop over rows and candidates, and what it is when all items are drawn alike."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace

import torch
from batches import with_catalogue
from torch import Tensor, nn

from recexp.dataset.batch import Batch, Batches, Samples
from recexp.dataset.schema import UNKNOWN
from recexp.metric.item_scores import ItemScores
from recexp.model.two_tower import log_expected_count

Make = Callable[..., nn.Module]
Gather = Callable[..., Batch]


def by_hand(model: nn.Module, batch: Batch, corrected: bool) -> Tensor:
    """The in-batch softmax, a row and a candidate at a time."""
    users, items = model.user(batch.catalogue.users.at(batch.user)), model.item(batch.catalogue.items.at(batch.target))
    rows = [row for row in range(len(batch)) if batch.label[row] == 1]
    pool = batch.catalogue.sampling_pool.tolist()
    loss = torch.zeros(())
    for row in rows:
        exponents = []
        for other in rows:
            if other != row and batch.target[other] == batch.target[row]:
                continue
            score = users[row] @ items[other] / model.temperature
            expected = len(rows) * pool.count(int(batch.target[other])) / len(pool)
            exponents.append(score - (math.log(expected) if corrected else 0))
            if other == row:
                own = exponents[-1]
        loss = loss + torch.stack(exponents).logsumexp(0) - own
    return loss / len(rows)


def test_loss_is_the_corrected_softmax_over_the_items_of_the_batch(make: Make, gather: Gather) -> None:
    model = make("two_tower", uniform_negatives=0).eval()
    batch = gather(range(60))
    assert len(set(batch.target.tolist())) < 60
    torch.testing.assert_close(model.losses(model(batch), batch)["target"], by_hand(model, batch, corrected=True))


def test_items_drawn_alike_need_no_correction(make: Make, mixed: Batch) -> None:
    model = make("two_tower", uniform_negatives=0).eval()
    batch = with_catalogue(mixed, sampling_pool=torch.arange(1, len(mixed.catalogue.items.ids), dtype=torch.int32))
    torch.testing.assert_close(model.losses(model(batch), batch)["target"], by_hand(model, batch, corrected=False))


def test_uniform_negatives_make_each_item_more_expected(mixed: Batch) -> None:
    catalogue, items = mixed.catalogue, torch.arange(1, 6)
    count = torch.bincount(catalogue.sampling_pool, minlength=6)[1:6]
    expected = (8 * count / len(catalogue.sampling_pool) + 0.5).log()
    torch.testing.assert_close(log_expected_count(catalogue, items, torch.tensor(8), torch.tensor(0.5)), expected)


def test_items_that_training_has_not_seen_are_ranked_by_their_own_fields(
    make: Make, batches: Batches, gather: Gather
) -> None:
    model, features = make("two_tower").eval(), batches.catalogue.items
    unseen = torch.arange(1, 5)
    ids = features.ids.clone()
    ids[unseen, 0] = UNKNOWN
    other = copy.copy(batches)
    other.catalogue = replace(batches.catalogue, items=replace(features, ids=ids))
    rows = batches.rows["train"][:3]
    scores = ItemScores(model, other, "train", unseen, 100).of(rows)
    pairs = Samples(rows.repeat_interleave(4), item=unseen.repeat(3))
    torch.testing.assert_close(scores, model(other.gather(pairs, "train")).logits.view(3, 4))
    assert len(scores[0].unique()) > 1


def test_a_batch_without_positives_has_loss_0(make: Make, gather: Gather) -> None:
    model = make("two_tower")
    batch = gather(range(200))
    none = replace(batch, label=batch.label * 0)
    assert model.losses(model(none), none)["target"] == 0
