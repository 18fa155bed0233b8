"""The loop's state: counts, running totals, the best epoch, and what a checkpoint holds of it."""

import json

import pytest
import torch

from recexp.error import RunError
from recexp.trainer.state import Progress, Totals


def test_means_weigh_batches_by_their_rows() -> None:
    totals = Totals()
    totals.add({"target": torch.tensor(1.0), "auxiliary": torch.tensor(4.0)}, 3)
    totals.add({"target": torch.tensor(5.0), "auxiliary": torch.tensor(4.0)}, 1)
    assert totals.means() == {"target": 2.0, "auxiliary": 4.0} and totals.rows == 4


def test_losses_that_are_not_finite_are_named() -> None:
    totals = Totals()
    totals.add({"target": torch.tensor(1.0), "auxiliary": torch.tensor(float("nan"))}, 3)
    with pytest.raises(FloatingPointError, match=r"^loss 'auxiliary' is nan; lower"):
        totals.means()


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
    assert Progress.load(json.loads(json.dumps(progress.saved()))) == progress


def test_state_of_another_version_is_told_in_one_line() -> None:
    with pytest.raises(RunError, match=r"^the checkpoint is of another version of recexp: .*rate") as error:
        Progress.load({"stage": 0, "rate": 1.0})
    assert "\n" not in str(error.value)
