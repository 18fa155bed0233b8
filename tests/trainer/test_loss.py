"""The joint loss, the L2 term and clipping, each against the same thing done plainly."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from recexp.config import L2Rows
from recexp.dataset.batch import Batch, Batches
from recexp.error import ConfigError
from recexp.layer.lookup import Table
from recexp.model import losses
from recexp.trainer.loss import add_l2, clip, joint
from recexp.trainer.optimizer import rowwise_tables


def backward(model: nn.Module, batch: Batch, sparse: bool = False) -> list[Table]:
    """The model's tables with the gradients of its target loss."""
    found = rowwise_tables(model)
    for each in found:
        each.sparse = sparse
    losses(model, model(batch), batch)["target"].backward()
    for each in found:
        if sparse:
            each.weight.grad = each.weight.grad.coalesce()
    return found


def dense(gradient: Tensor) -> Tensor:
    return gradient.to_dense() if gradient.is_sparse else gradient.clone()


def test_joint_is_the_weighted_sum() -> None:
    parts = {"target": torch.tensor(2.0), "auxiliary": torch.tensor(3.0)}
    assert joint(parts, {"target": 1.0, "auxiliary": 0.5}).item() == 3.5


def test_joint_leaves_out_a_part_of_weight_0_even_if_infinite() -> None:
    parts = {"target": torch.tensor(2.0), "auxiliary": torch.tensor(float("inf"))}
    assert joint(parts, {"target": 1.0, "auxiliary": 0.0}).item() == 2.0


def test_part_without_a_weight_is_an_error_that_names_it() -> None:
    parts = {"target": torch.tensor(2.0), "auxiliary": torch.tensor(3.0)}
    with pytest.raises(ConfigError, match=r"loss_weights lacks auxiliary; the model returns auxiliary, target\."):
        joint(parts, {"target": 1.0})


def test_weights_of_0_alone_are_an_error() -> None:
    with pytest.raises(ConfigError, match=r"model\.loss_weights: .*above 0"):
        joint({"target": torch.tensor(2.0)}, {"target": 0.0})


def test_gradient_of_joint_is_weighted() -> None:
    x = torch.tensor(1.0, requires_grad=True)
    joint({"a": 2 * x, "b": 5 * x}, {"a": 1.0, "b": 0.1}).backward()
    assert x.grad.item() == pytest.approx(2.5)


def test_l2_of_all_rows_is_the_gradient_of_half_the_squared_norm(make: Callable, mixed: Batch) -> None:
    model, same = make("fm"), make("fm")
    for each in backward(model, mixed):
        add_l2(each.weight, 0.3, L2Rows.all, None)
    loss = losses(same, same(mixed), mixed)["target"]
    (loss + sum(0.3 / 2 * each.weight.square().sum() for each in rowwise_tables(same))).backward()
    for found, wanted in zip(rowwise_tables(model), rowwise_tables(same), strict=True):
        torch.testing.assert_close(found.weight.grad, wanted.weight.grad)


@pytest.mark.parametrize("sparse", [False, True])
def test_l2_of_the_batch_decays_its_rows_by_their_share_of_training(
    sparse: bool, make: Callable, mixed: Batch, batches: Batches
) -> None:
    bare = [dense(each.weight.grad) for each in backward(make("fm"), mixed)]
    model = make("fm")
    for each, before in zip(backward(model, mixed, sparse), bare, strict=True):
        add_l2(each.weight, 0.3, L2Rows.batch, batches.counts(each.origin.side))
        ids = {
            "user": mixed.catalogue.users.ids[mixed.user],
            "item": mixed.catalogue.items.ids[mixed.target],
            "context": mixed.context.ids,
        }[each.origin.side]
        every = next(batches.epoch("train", 10**6))
        training = {
            "user": every.catalogue.users.ids[every.user],
            "item": every.catalogue.items.ids[every.target],
            "context": every.context.ids,
        }[each.origin.side]
        weight = each.weight.detach()
        wanted = before.clone()
        for row in ids.unique().tolist():
            if row:  # padding has no weight to decay
                wanted[row] += 0.3 * weight[row] / (training == row).sum()
        torch.testing.assert_close(dense(each.weight.grad), wanted)


def test_l2_of_a_table_without_gradient_adds_none(make: Callable) -> None:
    (each, *_) = rowwise_tables(make("fm"))
    add_l2(each.weight, 0.3, L2Rows.all, None)
    assert each.weight.grad is None


@pytest.mark.parametrize("longest", [0.1, 1e3])
def test_clip_equals_that_of_torch(longest: float) -> None:
    torch.manual_seed(0)
    gradients = [torch.randn(3, 4), torch.randn(5), torch.randn(())]
    parameters = [nn.Parameter(torch.zeros_like(each)) for each in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    nn.utils.clip_grad_norm_(parameters, longest)
    clip(gradients, nn.utils.get_total_norm(gradients), longest)
    torch.testing.assert_close(gradients, [parameter.grad for parameter in parameters], rtol=1e-6, atol=0)


def test_clip_counts_rows_of_a_sparse_gradient(make: Callable, mixed: Batch) -> None:
    plain, rows = make("fm"), make("fm")
    backward(plain, mixed)
    backward(rows, mixed, sparse=True)
    for model in (plain, rows):
        gradients = [each.grad for each in model.parameters() if each.grad is not None]
        values = [each.values() if each.is_sparse else each for each in gradients]
        clip(values, nn.utils.get_total_norm(values), 0.01)
    for found, wanted in zip(rows.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(dense(found.grad), wanted.grad, rtol=1e-5, atol=1e-9)
