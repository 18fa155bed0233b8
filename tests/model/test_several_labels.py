"""What holds for every model of several labels, whatever its equations."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from recexp import registry
from recexp.contract.measure import step
from recexp.dataset.batch import Batch
from recexp.dataset.log import Dataset
from recexp.dataset.schema import Schema
from recexp.error import ConfigError
from recexp.layer.encoder import Encoding
from recexp.layer.task import Weighting
from recexp.model import reads_history

MODELS = [name for name in registry.names("model") if registry.get("model", name).needs.tasks]
Make = Callable[..., nn.Module]
each_model = pytest.mark.parametrize("name", MODELS)


@pytest.fixture(scope="module")
def schema(dataset: Dataset) -> Schema:
    return replace(dataset.schema, tasks=("like", "finish", "buy"))


@pytest.fixture(scope="module")
def batch(gather: Callable[..., Batch]) -> Batch:
    """256 rows with three labels; the second is missing in half of them."""
    batch = gather(range(256))
    more = (torch.rand(256, 2, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    more[::2, 0] = -1
    return replace(batch, tasks=torch.cat([batch.label[:, None], more], 1))


def test_these_are_models_of_several_labels() -> None:
    assert MODELS == ["esmm", "mmoe", "ple", "shared_bottom"]


@each_model
@pytest.mark.parametrize("encoder", Encoding)
@pytest.mark.parametrize("weighting", Weighting)
def test_all_losses_are_on_and_reach_every_parameter(
    name: str, encoder: Encoding, weighting: Weighting, make: Make, schema: Schema, batch: Batch
) -> None:
    model = make(name, schema=schema, encoder=encoder, weighting=weighting)
    assert reads_history(model) == (encoder is Encoding.interest)
    logits, losses, gradients = step(model, batch)
    assert logits.shape == (256, 3) and logits.isfinite().all()
    assert list(losses) == ["like", "finish", "buy"] and all(loss.isfinite() for loss in losses.values())
    assert [parameter for parameter, gradient in gradients.items() if not gradient.any()] == []
    assert all(gradient.isfinite().all() for gradient in gradients.values())


@each_model
def test_a_missing_label_has_no_gradient(name: str, make: Make, schema: Schema, batch: Batch) -> None:
    """Rows that lack a label change nothing of its loss, whatever they hold."""
    model = make(name, schema=schema).eval()
    known = batch.tasks[:, 1] >= 0
    output = model(batch)
    loss = model.losses(output, batch)["finish"]
    (gradient,) = torch.autograd.grad(loss, output.tasks, allow_unused=True)
    assert gradient is not None and not gradient[~known].any() and gradient[known][:, 1].all()


@each_model
def test_a_label_of_weight_0_is_off_for_learnt_weights_too(name: str, make: Make, schema: Schema) -> None:
    weights = {"target": 1.0, "finish": 0.0}
    model = make(name, schema=schema, weighting=Weighting.gradnorm, loss_weights=weights)
    assert model.task_losses.on.tolist() == [0, 2]


@pytest.mark.parametrize("name", ["mmoe", "ple", "shared_bottom"])
@pytest.mark.parametrize("options", [{"tower_sizes": []}, {"hidden_sizes": []}])
def test_dropout_is_below_the_towers_and_in_them(
    options: dict, name: str, make: Make, schema: Schema, batch: Batch
) -> None:
    model = make(name, schema=schema, dropout=0.5, **options)
    torch.manual_seed(0)
    assert not torch.equal(model(batch).tasks, model(batch).tasks)


@each_model
def test_the_first_of_the_labels_is_the_logit(name: str, make: Make, schema: Schema, batch: Batch) -> None:
    output = make(name, schema=schema).eval()(batch)
    assert torch.equal(output.logits, output.tasks[:, 0]) and output.all_logits is output.tasks
    alone = make(name).eval()(batch)
    assert alone.tasks is None and torch.equal(alone.all_logits, alone.logits)


@each_model
def test_interest_in_a_table_is_refused_in_one_line(name: str, make: Make, table: Dataset) -> None:
    with pytest.raises(ConfigError, match=r"model.encoder = interest: .* this dataset is a table"):
        make(name, schema=table.schema, encoder=Encoding.interest)


def test_a_model_of_one_label_refuses_several_in_one_line(make: Make, schema: Schema) -> None:
    for name in sorted(set(registry.names("model")) - set(MODELS)):
        with pytest.raises(ConfigError, match=f"model = {name}: predicts one label; dataset.columns.label names like"):
            make(name, schema=schema)
