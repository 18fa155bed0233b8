"""Sequence pooling: sums and means by hand, blind to order."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from recexp.dataset.batch import Batch
from recexp.dataset.log import Dataset
from recexp.error import ConfigError
from recexp.model.seq_pooling import Pooling

Make = Callable[..., nn.Module]


def read_interest(model: nn.Module) -> None:
    """Makes the logit the sum of the pooled history: no MLP, the rest of its input ignored."""
    model.mlp = nn.Linear(model.mlp.linears[0].in_features, 1)
    nn.init.zeros_(model.mlp.weight)
    nn.init.zeros_(model.mlp.bias)
    nn.init.ones_(model.mlp.weight[:, : model.embed.item_dim])


def event(model: nn.Module, batch: Batch, row: int, step: int) -> Tensor:
    """One event of a history: its item and the vector of its label."""
    item = model.embed.items(batch, batch.history[row, step : step + 1])[0]
    return item + model.embed.label.weight[1 + int(batch.history_label[row, step])]


@pytest.mark.parametrize("pooling", Pooling)
def test_interest_is_the_sum_or_mean_of_the_events(pooling: Pooling, make: Make, mixed: Batch) -> None:
    model = make("seq_pooling", pooling=pooling).eval()
    read_interest(model)
    wanted = []
    for row, length in enumerate(mixed.mask.sum(1).tolist()):
        total = sum((event(model, mixed, row, step).sum() for step in range(length)), torch.zeros(()))
        wanted.append(total / max(1, length) if pooling is Pooling.mean else total)
    torch.testing.assert_close(model(mixed).logits, torch.stack(wanted), rtol=1e-5, atol=1e-5)


def test_history_of_one_is_that_event_in_sum_and_mean(make: Make, mixed: Batch, mixed_rows: list[int], gather) -> None:
    batch = gather(mixed_rows[2:4])
    assert batch.mask.sum(1).tolist() == [1, 1]
    total, mean = (make("seq_pooling", pooling=pooling).eval() for pooling in (Pooling.sum, Pooling.mean))
    assert torch.equal(total(batch).logits, mean(batch).logits)
    read_interest(total)
    wanted = torch.stack([event(total, batch, row, 0).sum() for row in (0, 1)])
    torch.testing.assert_close(total(batch).logits, wanted)


@pytest.mark.parametrize("pooling", Pooling)
def test_order_of_the_history_changes_nothing(pooling: Pooling, make: Make, mixed: Batch, reverse: Callable) -> None:
    model = make("seq_pooling", pooling=pooling).eval()
    torch.testing.assert_close(model(reverse(mixed)).logits, model(mixed).logits, rtol=1e-5, atol=1e-5)


def test_labels_of_the_history_count_if_asked(make: Make, mixed: Batch) -> None:
    flipped = replace(mixed, history_label=1 - mixed.history_label)
    labelled, blind = make("seq_pooling").eval(), make("seq_pooling", history_labels=False).eval()
    differs = labelled(flipped).logits != labelled(mixed).logits
    assert differs.tolist() == mixed.mask.any(1).tolist()
    assert torch.equal(blind(flipped).logits, blind(mixed).logits)


def test_table_is_refused(make: Make, table: Dataset) -> None:
    with pytest.raises(ConfigError, match=r"^model = seq_pooling: needs users, items and time"):
        make("seq_pooling", schema=table.schema)
