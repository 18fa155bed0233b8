"""The loop's state: counts, running totals, the best epoch, and what a checkpoint holds of it."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from recexp.error import DamagedFile
from recexp.trainer.state import Progress, random_states, restore_random_states

HERE = Path("last.json")


def test_means_weigh_batches_by_their_rows() -> None:
    progress = Progress()
    progress.end_step({"target": torch.tensor(1.0), "auxiliary": torch.tensor(4.0)}, 3)
    progress.end_step({"target": torch.tensor(5.0), "auxiliary": torch.tensor(4.0)}, 1)
    assert progress.mean_losses() == {"target": 2.0, "auxiliary": 4.0}
    assert (progress.taken, progress.rows) == (2, 4)


def test_step_counter_goes_on_over_epochs_of_a_stage() -> None:
    progress = Progress()
    for epoch in range(2):
        for _ in range(3):
            progress.end_step({"target": torch.tensor(1.0)}, 8)
        progress.end_epoch(0.5 + epoch, 1, {"target": 1.0})
    assert (progress.step, progress.epoch, progress.best_epoch) == (6, 2, 2)
    assert progress.after_stage(2) == Progress(stage=1)
    assert progress.after_stage(1).finished


@pytest.mark.parametrize(("sign", "best"), [(1, 2), (-1, 1)])
def test_best_epoch_is_that_of_the_best_value(sign: int, best: int) -> None:
    progress = Progress()
    for epoch, value in enumerate((0.5, 0.7, None, 0.6), 1):
        progress.end_epoch(value, sign, {"target": float(epoch)})
    assert (progress.best_epoch, progress.bad_epochs, progress.losses) == (best, 4 - best, {"target": float(best)})


def test_last_epoch_is_the_best_while_there_is_no_value() -> None:
    progress = Progress()
    for _ in range(3):
        progress.end_epoch(None, 1, {})
    assert (progress.best_epoch, progress.bad_epochs) == (3, 0)


def test_state_comes_back_from_json() -> None:
    progress = Progress(stage=1, epoch=2, step=10, best=0.1 + 0.2, learning_rate_scale=0.1, speeds=[3.0])
    assert Progress.load(json.loads(json.dumps(progress.saved())), HERE) == progress


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"rate": 1.0}, "another version"),
        ({"epoch": "2"}, "wrong epoch"),
        ({"epoch": True}, "wrong epoch"),
        ({"step": -1}, "wrong step"),
        ({"best": math.nan}, "wrong best"),
        ({"speeds": [None]}, "wrong speeds"),
        ({"losses": {"target": []}}, "wrong losses"),
        ({"cut": 1}, "wrong cut"),
        ({"taken": 3}, "steps without rows"),
    ],
)
def test_state_that_none_has_is_damaged_in_one_line(change: dict[str, Any], why: str) -> None:
    with pytest.raises(DamagedFile, match=rf"^last\.json: damaged.*{why}") as error:
        Progress.load(Progress().saved() | change, HERE)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("state", [None, [], 3, {}])
def test_what_is_no_state_is_damaged(state: Any) -> None:
    with pytest.raises(DamagedFile):
        Progress.load(state, HERE)


def test_random_states_come_back() -> None:
    states = random_states(torch.device("cpu"))
    first = torch.rand(3)
    restore_random_states(states, torch.device("cpu"))
    assert torch.equal(torch.rand(3), first)


@pytest.mark.parametrize("states", [{}, {"random.cpu": torch.zeros(3)}, {"random.cpu": torch.zeros(5056).byte()}])
def test_what_is_no_random_state_is_damaged(states: dict[str, torch.Tensor]) -> None:
    with pytest.raises(DamagedFile, match="no state of the random generators"):
        restore_random_states(states, torch.device("cpu"))
