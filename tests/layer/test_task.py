"""Losses of several labels: masks, and weights that are learnt, against independent loops."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from recexp.dataset.batch import Batch
from recexp.dataset.schema import Schema
from recexp.layer.task import ALPHA, TaskLosses, Weighting, imbalance, task_names

TWO = Schema(tasks=("like", "finish"))
LABELS = torch.tensor([[1, 0], [0, -1], [1, 1], [0, -1]]).float()


def with_tasks(batch: Batch, labels: Tensor) -> Batch:
    return replace(batch, label=labels[:, 0], tasks=labels)


def by_hand(logits: Tensor, labels: Tensor) -> list[float]:
    """The mean log loss of each label over the rows that have it, one cell at a time."""
    means = []
    for logit, label in zip(logits.T.tolist(), labels.T.tolist(), strict=True):
        losses = [math.log1p(math.exp(-s if y else s)) for s, y in zip(logit, label, strict=True) if y >= 0]
        means.append(sum(losses) / len(losses) if losses else 0.0)
    return means


@pytest.fixture
def batch(gather: Callable[..., Batch]) -> Batch:
    return with_tasks(gather(range(4)), LABELS)


def test_each_loss_is_the_mean_over_the_rows_that_have_the_label(batch: Batch) -> None:
    logits = torch.randn(4, 2, requires_grad=True)
    losses = TaskLosses(TWO, Weighting.fixed)(logits, batch, logits)
    assert list(losses) == ["like", "finish"]
    assert [loss.item() for loss in losses.values()] == pytest.approx(by_hand(logits, LABELS))
    losses["finish"].backward()
    assert logits.grad is not None
    assert (logits.grad != 0).tolist() == [[False, True], [False, False], [False, True], [False, False]]


def test_a_label_that_no_row_has_costs_nothing(batch: Batch) -> None:
    logits = torch.randn(4, 2, requires_grad=True)
    labels = torch.stack([LABELS[:, 0], torch.full((4,), -1.0)], 1)
    loss = TaskLosses(TWO, Weighting.fixed)(logits, with_tasks(batch, labels), logits)["finish"]
    loss.backward()
    assert loss.item() == 0 and logits.grad is not None and not logits.grad.any()


def test_one_label_is_the_target(gather: Callable[..., Batch]) -> None:
    batch, logits = gather(range(4)), torch.randn(4, 1)
    assert task_names(Schema()) == ("target",)
    losses = TaskLosses(Schema(), Weighting.fixed)(logits, batch, logits)
    assert losses["target"].item() == pytest.approx(by_hand(logits, batch.label[:, None])[0])


def test_uncertainty_settles_where_the_variance_of_each_label_is_twice_its_loss(batch: Batch) -> None:
    balance = TaskLosses(TWO, Weighting.uncertainty)
    losses, known = torch.tensor([0.7, 0.2]), torch.tensor([True, True])
    assert torch.equal(balance.weighted(losses, known, losses), losses)  # at first
    assert balance.weight is not None
    with torch.no_grad():
        balance.weight.copy_((2 * losses).log())
    balance.weighted(losses, known, losses).sum().backward()
    assert balance.weight.grad is not None
    torch.testing.assert_close(balance.weight.grad, torch.zeros(2))


def test_gradnorm_moves_weights_as_the_paper_says(batch: Batch) -> None:
    torch.manual_seed(0)
    balance = TaskLosses(TWO, Weighting.gradnorm)
    assert balance.weight is not None
    torch.nn.init.normal_(balance.weight)
    shared, head = torch.randn(4, 3, requires_grad=True), torch.randn(3, 2)
    found = balance(shared @ head, batch, shared)
    values = by_hand(shared @ head, LABELS)
    w = 2 * balance.weight.detach().softmax(0)
    assert [loss.item() for loss in found.values()] == pytest.approx([float(w[t]) * values[t] for t in range(2)])
    sum(found.values()).backward()
    sizes = []
    for task in range(2):
        x = shared.detach().clone().requires_grad_()
        TaskLosses(TWO, Weighting.fixed)(x @ head, batch, x)[TWO.tasks[task]].backward()
        assert x.grad is not None
        sizes.append(x.grad.norm().item())
    v = balance.weight.detach().clone().requires_grad_()
    weights = 2 * v.softmax(0)
    mean = sum(weights[t].item() * sizes[t] for t in range(2)) / 2
    target = [mean * (values[t] / (sum(values) / 2)) ** ALPHA for t in range(2)]
    sum((weights[t] * sizes[t] - target[t]).abs() for t in range(2)).backward()
    torch.testing.assert_close(balance.weight.grad, v.grad)
    assert torch.equal(
        balance.eval()(shared @ head, batch, shared)["like"], found["like"]
    )  # the same value, no gradient


def test_imbalance_is_the_distance_from_the_mean_gradient_times_the_speed_to_the_power_alpha() -> None:
    weight, size, losses = torch.tensor([1.2, 0.5, 1.3]), torch.tensor([0.3, 0.0, 2.0]), torch.tensor([0.6, 0.0, 0.3])
    found = imbalance(weight, size, losses, torch.tensor([True, False, True]))
    mean = (1.2 * 0.3 + 1.3 * 2) / 2
    wanted = [abs(1.2 * 0.3 - mean * (0.6 / 0.45) ** 1.5), 0, abs(1.3 * 2 - mean * (0.3 / 0.45) ** 1.5)]
    assert found.tolist() == pytest.approx(wanted)


def test_a_label_of_weight_0_has_no_part_in_the_weights_of_the_others(batch: Batch) -> None:
    shared = torch.randn(4, 3, requires_grad=True)
    balance = TaskLosses(TWO, Weighting.gradnorm, {"target": 1.0, "finish": 0.0})
    assert balance.weight is not None
    torch.nn.init.normal_(balance.weight)
    found = balance(shared @ torch.randn(3, 2), batch, shared)
    found["like"].backward()
    assert not balance.weight.grad.any()  # one label is its own mean


@pytest.mark.parametrize(("weighting", "moves"), [(Weighting.uncertainty, True), (Weighting.gradnorm, False)])
def test_a_label_that_no_row_has_leaves_the_weights_alone(weighting: Weighting, moves: bool, batch: Batch) -> None:
    """Uncertainty still learns the weight of the other label; to GradNorm that label is now the mean."""
    labels = torch.stack([LABELS[:, 0], torch.full((4,), -1.0)], 1)
    shared, balance = torch.randn(4, 3, requires_grad=True), TaskLosses(TWO, weighting)
    assert balance.weight is not None
    torch.nn.init.normal_(balance.weight)
    found = balance(shared @ torch.randn(3, 2), with_tasks(batch, labels), shared)
    assert found["finish"].item() == 0
    sum(found.values()).backward()
    assert balance.weight.grad.bool().tolist() == [moves, False]


@pytest.mark.parametrize("weighting", [Weighting.uncertainty, Weighting.gradnorm])
def test_of_three_labels_the_one_that_no_row_has_gets_no_gradient(weighting: Weighting, batch: Batch) -> None:
    labels = torch.cat([LABELS, torch.full((4, 1), -1.0)], 1)
    shared, balance = torch.randn(4, 3, requires_grad=True), TaskLosses(Schema(tasks=("a", "b", "c")), weighting)
    assert balance.weight is not None
    torch.nn.init.normal_(balance.weight)
    found = balance(shared @ torch.randn(3, 3), with_tasks(batch, labels), shared)
    sum(found.values()).backward()
    assert balance.weight.grad.bool().tolist() == [True, True, False]
