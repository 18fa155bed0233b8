"""BPR-MF: one score, whichever way it is asked for, and a loss that is logistic regression on differences."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from recexp.dataset.batch import Batch
from recexp.dataset.window import packed
from recexp.layer.ranking import Scored, bpr

Make = Callable[..., nn.Module]


def test_logit_query_and_states_agree_with_the_equation(make: Make, mixed: Batch) -> None:
    model = make("bpr_mf")
    users, items = mixed.catalogue.users.ids[mixed.user, 0], mixed.catalogue.items.ids[mixed.target, 0]
    p, q, b = (side.table.weight for side in (model.user, model.item, model.bias))
    expected = torch.stack([p[u] @ q[i] + b[i, 0] for u, i in zip(users, items, strict=True)])
    torch.testing.assert_close(model(mixed).logits, expected)
    torch.testing.assert_close((model.query(mixed) * model.item_vectors()[items]).sum(1), expected)
    events, order = packed(mixed)
    assert torch.equal(model.states(events), model.query(mixed)[order].repeat_interleave(events.length, 0))


def test_bpr_is_logistic_regression_on_differences_of_scores() -> None:
    target, negative = torch.randn(7), torch.randn(7, 1)
    loss = bpr(Scored(target, negative, torch.zeros(7, 1, dtype=torch.bool), None, 100))
    difference = target - negative[:, 0]
    torch.testing.assert_close(loss, F.binary_cross_entropy_with_logits(difference, torch.ones(7), reduction="none"))
