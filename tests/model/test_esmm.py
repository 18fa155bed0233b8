"""Labels that follow one another: the product of probabilities, in logits."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from recexp.dataset.batch import Batch
from recexp.dataset.log import Dataset
from recexp.model.esmm import logit_of_product

Make = Callable[..., nn.Module]


@torch.no_grad()
def test_probability_of_each_label_is_that_of_the_one_before_times_its_own(
    make: Make, dataset: Dataset, mixed: Batch
) -> None:
    model = make("esmm", schema=replace(dataset.schema, tasks=("click", "cart", "buy"))).eval()
    output, x = model(mixed), model.encode(mixed)
    wanted = torch.ones(len(mixed))
    for task, tower in enumerate(model.towers.of):
        wanted = wanted * torch.sigmoid(tower(x)[:, 0])
        torch.testing.assert_close(torch.sigmoid(output.tasks[:, task]), wanted)
    assert (output.tasks.diff(dim=1) < 0).all()  # what follows is never likelier


def test_a_label_that_is_certain_leaves_one_task() -> None:
    b = torch.linspace(-30, 30, 13)
    torch.testing.assert_close(logit_of_product(torch.full((13,), 200.0), b), b)


def test_logit_of_a_product_is_exact_where_probabilities_would_round() -> None:
    a = torch.tensor([-200.0, -90, 40, 40, 0, 100, -1e4], requires_grad=True)
    b = torch.tensor([-200.0, 3, 40, -40, 0, 100, 1e4])
    found = logit_of_product(a, b)
    p = torch.sigmoid(a.double()) * torch.sigmoid(b.double())
    exact = torch.log(p[[1, 3, 4]]) - torch.log1p(-p[[1, 3, 4]])
    torch.testing.assert_close(found[[1, 3, 4]], exact.float())
    torch.testing.assert_close(
        found[[0, 2, 5, 6]].detach(), torch.tensor([-400.0, 40 - 0.6931472, 100 - 0.6931472, -1e4])
    )
    found.sum().backward()
    assert a.grad is not None and a.grad.isfinite().all()
