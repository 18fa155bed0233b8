"""Items drawn by popularity."""

import pytest
import torch
from batches import whole

from recexp.dataset.batch import Batches
from recexp.dataset.prepare import prepare


@pytest.fixture
def batches(tiny_config, tiny_log) -> Batches:
    config = tiny_config()
    return Batches(prepare(tiny_log(), config), config)


def test_drawn_items_follow_their_share_of_the_training_events(batches: Batches) -> None:
    batch = whole(batches, "train")
    torch.manual_seed(0)
    drawn = batch.catalogue.draw_items(torch.empty(200, 300))
    assert drawn.shape == (200, 300)
    share = torch.bincount(drawn.flatten(), minlength=20) / drawn.numel()
    expected = torch.bincount(batch.target, minlength=20) / len(batch)
    torch.testing.assert_close(share, expected, atol=0.01, rtol=0)
    assert not share[expected == 0].any()


def test_draws_repeat_with_the_global_seed(batches: Batches) -> None:
    batch = whole(batches, "test")
    draws = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        draws.append(batch.catalogue.draw_items(batch.history).tolist())
    assert draws[0] == draws[1] != draws[2]
