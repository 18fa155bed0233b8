"""Wide & Deep: a linear or polynomial model beside an MLP, each with its fields and its optimizer."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from batches import with_catalogue
from recorder import Recorder, Stopped, stop_after
from torch import Tensor, nn

import recexp
from recexp.config import Config, Optimizer, Schedule
from recexp.dataset.batch import Batch, Batches
from recexp.dataset.log import Dataset
from recexp.dataset.schema import UNKNOWN
from recexp.error import ConfigError
from recexp.model.wide_deep import Wide
from recexp.trainer.default import Trainer

Make = Callable[..., nn.Module]
Vectors = Callable[..., list[Tensor]]


def drawn(model: nn.Module) -> nn.Module:
    """The model with a wide part other than 0, in evaluation mode."""
    torch.manual_seed(1)
    for parameter in model.wide.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.mark.parametrize("wide", Wide)
def test_logit_is_the_wide_part_and_an_mlp_of_all_fields(
    wide: Wide, make: Make, mixed: Batch, field_vectors: Vectors
) -> None:
    model = drawn(make("wide_deep", wide=wide, n_buckets=1000, hidden_sizes=[8]))
    first, last = model.deep.mlp.linears
    linear = model.wide if wide is Wide.linear else model.wide.linear
    wanted = []
    for row in range(len(mixed)):
        e = torch.cat(field_vectors(model.deep.embed, mixed, row))
        deep = last.weight @ torch.relu(first.weight @ e + first.bias) + last.bias
        wanted.append(deep + linear.bias + sum(field_vectors(linear.weights, mixed, row)))
    logits = model(mixed).logits
    if wide is Wide.poly2:
        logits = logits - (model.wide(mixed) - linear(mixed))  # tests/layer/test_poly2.py shows the crosses
    torch.testing.assert_close(logits, torch.cat(wanted))


@pytest.mark.parametrize("wide", Wide)
def test_last_layer_of_0_leaves_the_wide_part(wide: Wide, make: Make, mixed: Batch) -> None:
    model = drawn(make("wide_deep", wide=wide, n_buckets=1000))
    nn.init.zeros_(model.deep.mlp.linears[-1].weight)
    assert torch.equal(model(mixed).logits, model.wide(mixed))
    if wide is Wide.linear:
        linear = make("linear")
        linear.linear.load_state_dict(model.wide.state_dict())
        assert torch.equal(model(mixed).logits, linear(mixed).logits)


def test_wide_part_starts_at_0(make: Make, mixed: Batch) -> None:
    for wide in Wide:
        model = make("wide_deep", wide=wide)
        assert not any(parameter.any() for parameter in model.wide.parameters())
        assert torch.equal(model.eval()(mixed).logits, model.deep(mixed).logits)


def test_crosses_have_the_buckets_asked_for(make: Make) -> None:
    assert make("wide_deep", wide=Wide.poly2, n_buckets=77).wide.table.weight.shape == (77, 1)


@pytest.mark.parametrize("wide", Wide)
@pytest.mark.parametrize(("field", "in_wide", "in_deep"), [("category", 1, 0), ("tags", 0, 1), ("brand", 0, 0)])
def test_each_part_sees_its_own_fields(
    wide: Wide, field: str, in_wide: bool, in_deep: bool, make: Make, mixed: Batch, dataset: Dataset
) -> None:
    options = {"wide_fields": ["user", "category"], "deep_fields": ["tags", "price", "segment"]}
    model = drawn(make("wide_deep", wide=wide, n_buckets=1000, **options))
    (column,) = (candidate.column for candidate in dataset.schema.item.fields if candidate.name == field)
    ids = mixed.catalogue.items.ids.clone()
    ids[:, column] = UNKNOWN
    other = with_catalogue(mixed, items=replace(mixed.catalogue.items, ids=ids))
    assert bool((model.wide(other) != model.wide(mixed)).all()) == in_wide
    assert bool((model.wide(other) != model.wide(mixed)).any()) == in_wide
    assert bool((model.deep(other).logits != model.deep(mixed).logits).any()) == in_deep


@pytest.mark.parametrize("option", ["wide_fields", "deep_fields"])
def test_field_that_is_not_there_is_told_with_its_option(option: str, make: Make) -> None:
    with pytest.raises(ConfigError, match=rf"model\.{option} = categry: no such field\. Did you mean 'category'\?"):
        make("wide_deep", **{option: ["user", "categry"]})
    with pytest.raises(ConfigError, match=rf"model\.{option} = \[\]: must be a list of fields, or null for all"):
        make("wide_deep", **{option: []})


def test_parts_are_wide_and_deep_and_wide_is_given_to_ftrl(make: Make, compose: Callable[..., Config]) -> None:
    assert {name.split(".")[0] for name, _ in make("wide_deep").named_parameters()} == {"wide", "deep"}
    assert compose("model=wide_deep").model.optimizers == {"wide": Optimizer.ftrl}


def test_crosses_refuse_cells_of_very_many_values(make: Make, dataset: Dataset) -> None:
    fields = tuple(
        replace(field, width=20_000, column=0) if field.name == "tags" else field
        for field in dataset.schema.item.fields
    )
    schema = replace(dataset.schema, item=replace(dataset.schema.item, fields=fields))
    with pytest.raises(
        ConfigError, match=r"^model\.wide = poly2: .* fewer than 16 values a cell, and tags has up to 20,000"
    ):
        make("wide_deep", schema=schema, wide=Wide.poly2)
    make("wide_deep", schema=schema)


def test_table_is_trained_on(compose: Callable[..., Config], make: Make, table: Dataset) -> None:
    batch = next(Batches(table, compose().dataset).epoch("train", 16))
    for wide in Wide:
        model = drawn(make("wide_deep", schema=table.schema, wide=wide, n_buckets=1000))
        torch.testing.assert_close(model(batch).logits, model.wide(batch) + model.deep(batch).logits)


# Trained


def fit(model: nn.Module, config: Config, batches: Batches, recorder: Recorder) -> None:
    trainer = Trainer(config.trainer, torch.device("cpu"), 0)
    parts = config.model.optimizers
    trainer.fit(model, batches, config.model.loss_weights, config.model.embedding_l2, recorder, parts)


@pytest.mark.parametrize("wide", Wide)
@pytest.mark.parametrize("schedule", [Schedule.cosine, Schedule.plateau])
def test_resumed_run_equals_one_never_interrupted(
    wide: Wide, schedule: Schedule, make: Make, compose: Callable[..., Config], batches: Batches, tmp_path: Path
) -> None:
    config = compose(
        "model=wide_deep", "trainer.epochs=4", "trainer.patience=null", f"trainer.schedule={schedule.name}"
    )
    options = {"wide": wide, "n_buckets": 1000}
    whole, resumed = make("wide_deep", **options), make("wide_deep", seed=9, **options)
    fit(whole, config, batches, Recorder(tmp_path / "whole"))
    with pytest.raises(Stopped):
        fit(make("wide_deep", **options), config, batches, Recorder(tmp_path / "stopped", stop_after(3)))
    fit(resumed, config, batches, Recorder(tmp_path / "stopped"))
    expected, actual = whole.state_dict(), resumed.state_dict()
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
    assert all(parameter.any() for parameter in whole.wide.parameters())


def test_large_l1_leaves_the_wide_part_at_exactly_0(
    make: Make, compose: Callable[..., Config], batches: Batches, tmp_path: Path
) -> None:
    config = compose("model=wide_deep", "trainer.epochs=1", "trainer.ftrl.l1=1e3")
    model = make("wide_deep", wide=Wide.poly2, n_buckets=1000)
    fit(model, config, batches, Recorder(tmp_path / "run"))
    assert not any(parameter.any() for parameter in model.wide.parameters())
    assert (model.deep.mlp.linears[0].weight != make("wide_deep").deep.mlp.linears[0].weight).all()


def test_part_that_is_not_there_leaves_no_run_behind(compose: Callable[..., Config], tmp_path: Path) -> None:
    config = compose("model=wide_deep", "+model.optimizers.wdie=sgd", f"run.dir={tmp_path}/run")
    with pytest.raises(ConfigError) as error:
        recexp.train(config)
    wanted = "model.optimizers.wdie: no such part of the model. Did you mean 'wide'? Choices: deep, wide."
    assert str(error.value) == wanted
    assert not (tmp_path / "run").exists()
