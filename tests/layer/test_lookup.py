"""Rows of a table and events that share rows, against torch's own embedding."""

import pytest
import torch
import torch.nn.functional as F

from recexp.layer.lookup import Events, Table, concatenated, lookup, total, weighted_sum

IDS = torch.tensor([[3, 0, 3], [1, 4, 0]])


@pytest.mark.parametrize("padding", [None, 0])
@pytest.mark.parametrize("ids", [IDS, IDS[0], torch.zeros(2, 0, dtype=torch.long)], ids=["matrix", "row", "none"])
def test_rows_and_gradient_equal_those_of_torch(ids: torch.Tensor, padding: int | None) -> None:
    table = torch.randn(5, 2, dtype=torch.double, requires_grad=True)
    ours, theirs = lookup(table, ids, padding), F.embedding(ids, table, padding)
    assert torch.equal(ours, theirs)
    weight = torch.randn_like(ours)
    (one,) = torch.autograd.grad((ours * weight).sum(), table)
    (other,) = torch.autograd.grad((theirs * weight).sum(), table)
    torch.testing.assert_close(one, other)


def test_a_sparse_table_has_a_gradient_for_the_rows_looked_up_alone() -> None:
    table = Table(5, 2, sparse=True)
    table(IDS).sum().backward()
    assert table.weight.grad is not None and table.weight.grad.is_sparse
    assert table.weight.grad.coalesce().indices()[0].tolist() == [0, 1, 3, 4]


@pytest.mark.parametrize("width", [2, 16])  # 16: by a kernel if there is one
def test_events_are_expanded_once_and_added_up(width: int) -> None:
    events, others = Events(torch.randn(5, width), IDS), Events(torch.randn(5, width), IDS.flip(0))
    assert torch.equal(events.expanded(), events.vectors[IDS]) and events.expanded() is events.expanded()
    torch.testing.assert_close(total([events, others]), events.expanded() + others.expanded())
    weights = torch.tensor([[0.5, 0, 2], [0, 0, 0]])
    torch.testing.assert_close(weighted_sum(weights, events), (weights[:, :, None] * events.expanded()).sum(1))


def test_events_beside_one_another() -> None:
    events, others = Events(torch.randn(5, 2), IDS), Events(torch.randn(5, 3), IDS.flip(0))
    assert torch.equal(total(concatenated(events, others)), torch.cat([events.expanded(), others.expanded()], 2))
