"""What holds for every registered model, whatever its equations. No model is excepted."""

import typing
from collections.abc import Callable
from dataclasses import fields, replace
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import torch
from batches import with_catalogue
from omegaconf import OmegaConf
from torch import Tensor, nn

from recexp import registry
from recexp.config import ModelConfig
from recexp.contract.measure import in_closed_form, step, without_draws
from recexp.contract.variant import all_unknown, longer, with_garbage
from recexp.dataset.batch import Batch, Batches, Samples
from recexp.dataset.config import FeatureKind
from recexp.dataset.log import Dataset
from recexp.dataset.schema import PADDING, UNKNOWN, Field
from recexp.error import ConfigError
from recexp.layer.activation import Activation
from recexp.layer.embedding import EmbeddingInit, SideEmbedding
from recexp.layer.mlp import WeightInit
from recexp.layer.task import Weighting
from recexp.metric.item_scores import ItemScores
from recexp.model import Inputs, Needs, Train, reads_context, stages

CONF = Path(__file__).parents[2] / "conf/model"
MODELS = registry.names("model")
Make = Callable[..., nn.Module]
Gather = Callable[..., Batch]


def variants() -> list[Any]:
    """Every model as its YAML has it, and with each member of each of its enums in turn.

    Of the enums that most models share, with the members that could break a contract: activations with parameters or
    statistics per channel (`feature_mlp` takes all), no way to draw weights, and no way to weigh several labels.
    """
    variants = [pytest.param(name, {}, id=name) for name in MODELS]
    for name in MODELS:
        types = typing.get_type_hints(registry.get("model", name).Config)
        for option, hint in types.items():
            kind = next(iter(typing.get_args(hint)), hint) if type(None) in typing.get_args(hint) else hint
            shared = kind in (WeightInit, EmbeddingInit, Weighting)
            if not (isinstance(kind, type) and issubclass(kind, Enum)) or shared:
                continue
            of_channels = kind is Activation and name != "feature_mlp"
            members = (Activation.prelu, Activation.dice) if of_channels else kind
            variants += [
                pytest.param(name, {option: each}, id=f"{name}-{option}={each.name}", marks=pytest.mark.slow)
                for each in members
            ]
    return variants


each_model = pytest.mark.parametrize("name", MODELS)
each_variant = pytest.mark.parametrize(("name", "options"), variants())
blind_variant, orderless_variant = (
    pytest.mark.parametrize(
        ("name", "options"),
        [variant for variant in variants() if registry.get("model", variant.values[0]).needs.inputs in inputs],
    )
    for inputs in ((Inputs.fields, Inputs.ids), (Inputs.history,))
)


def require_sound(logits: Tensor, parts: dict[str, Tensor], gradients: dict[str, Tensor], n_rows: int) -> None:
    assert logits.shape == (n_rows,) and logits.dtype == torch.float32
    assert logits.isfinite().all()
    for name, loss in parts.items():
        assert loss.shape == () and loss.isfinite(), name
    for name, gradient in gradients.items():
        assert gradient.isfinite().all(), name


def require_equal(actual: tuple, expected: tuple) -> None:
    torch.testing.assert_close(actual[0], expected[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(actual[1], expected[1], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(actual[2], expected[2], rtol=1e-3, atol=1e-6)


def test_conf_holds_a_file_for_each_model_and_no_other() -> None:
    assert sorted(path.stem for path in CONF.glob("*.yaml")) == MODELS


@blind_variant
def test_a_model_that_says_so_does_not_read_histories(name: str, options: dict, make: Make, mixed: Batch) -> None:
    model = make(name, **options).eval()
    histories = ("history", "history_label", "history_age", "mask")
    blind = replace(mixed, **{column: getattr(mixed, column)[:, :0] for column in histories})
    assert torch.equal(model(blind).logits, model(mixed).logits)


@each_variant
def test_the_context_is_read_by_models_that_say_so_and_by_no_other(
    name: str, options: dict, make: Make, mixed: Batch
) -> None:
    switched = "features" in {field.name for field in fields(registry.get("model", name).Config)}
    for features in [{"features": False}, {}] if switched else [{}]:
        model = make(name, **options, **features).eval()
        other = replace(mixed, context=mixed.context.at(torch.arange(len(mixed)).roll(1)))
        assert torch.equal(model(other).logits, model(mixed).logits) != reads_context(model)


@orderless_variant
def test_a_model_of_histories_in_any_order_ignores_their_order(
    name: str, options: dict, make: Make, mixed: Batch, reverse: Callable[[Batch], Batch]
) -> None:
    model = make(name, **options).eval()
    torch.testing.assert_close(model(reverse(mixed)).logits, model(mixed).logits)


@each_model
def test_every_model_declares_what_it_needs(name: str) -> None:
    assert isinstance(registry.get("model", name).needs, Needs)


@each_model
def test_yaml_names_every_option_in_the_order_of_the_config(name: str) -> None:
    own = [item.name for item in fields(registry.get("model", name).Config)]
    shared = [item.name for item in fields(ModelConfig)]
    assert list(OmegaConf.load(CONF / f"{name}.yaml")) == [
        "name",
        *[key for key in own if key not in shared],
        "loss_weights",
    ]


@each_variant
def test_histories_of_every_length_train_in_one_batch_on_every_loss(
    name: str, options: dict, make: Make, mixed: Batch, compose
) -> None:
    logits, parts, gradients = step(make(name, **options), mixed)
    require_sound(logits, parts, gradients, len(mixed))
    assert parts.keys() == compose(f"model={name}").model.loss_weights.keys() >= {"target"}


@each_variant
def test_batch_of_one_trains(name: str, options: dict, make: Make, gather: Gather, mixed_rows: list[int]) -> None:
    for row in (mixed_rows[0], mixed_rows[-1]):  # without history, and with the longest
        require_sound(*step(make(name, **options), gather([row])), 1)


@each_variant
def test_batch_without_any_history_trains_and_is_scored(
    name: str, options: dict, make: Make, gather: Gather, mixed_rows: list[int]
) -> None:
    batch = gather(mixed_rows[:2])
    assert batch.mask.shape == (2, 0)
    model = make(name, **options)
    require_sound(*step(model, batch), 2)
    assert model.eval()(batch).logits.isfinite().all()
    assert model(gather(mixed_rows[:1])).logits.isfinite().all()


@each_variant
def test_histories_of_padding_alone_equal_none(
    name: str, options: dict, make: Make, gather: Gather, batches: Batches
) -> None:
    length = gather(range(batches.size("train"))).mask.sum(1)
    batch = gather(torch.nonzero(length == 0)[:8, 0])  # of two rows alone, Dice divides by what is mostly rounding
    model = without_draws(make(name, **options))
    padded, bare = step(model, longer(batch, 3)), step(model, batch)
    require_sound(*padded, 8)
    require_equal(padded, bare)


@each_variant
def test_bfloat16_trains(name: str, options: dict, make: Make, mixed: Batch) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        logits, parts, gradients = step(make(name, **options), mixed)
    require_sound(logits.float(), parts, gradients, len(mixed))


@each_model
def test_loss_of_weight_0_is_not_returned(name: str, make: Make, mixed: Batch, compose) -> None:
    weights = compose(f"model={name}").model.loss_weights
    for part in weights.keys() - {"target"}:  # the trainer drops that one
        _, parts, _ = step(make(name, loss_weights={**weights, part: 0.0}), mixed)
        assert parts.keys() == weights.keys() - {part}


@each_model
def test_gradient_reaches_every_parameter_that_a_stage_trains(
    name: str, make: Make, gather: Gather, batches: Batches
) -> None:
    model = make(name)
    batch = gather(range(batches.size("train")))
    for stage in stages(model):
        if not isinstance(stage, Train):
            continue
        _, _, gradients = step(stage.model, batch)
        tables = {
            f"{path}.table.weight" for path, module in stage.model.named_modules() if isinstance(module, SideEmbedding)
        }
        for parameter, _ in stage.model.named_parameters():
            if not parameter.startswith(stage.trained):
                continue
            assert gradients[parameter].any(), parameter
            if parameter in tables:  # every value occurs in training, so a missing one, UNKNOWN, does not
                assert gradients[parameter][UNKNOWN + 1 :].any(1).all(), parameter
                assert not gradients[parameter][PADDING].any(), parameter


@each_model
def test_all_parameters_are_trained_by_some_stage(name: str, make: Make, batches: Batches) -> None:
    model = make(name)
    trained = set()
    for stage in stages(model):
        if isinstance(stage, Train):
            named = stage.model.named_parameters()
            trained |= {id(tensor) for parameter, tensor in named if parameter.startswith(stage.trained)}
        else:
            before = [tensor.clone() for tensor in model.parameters()]
            stage.fit(batches.training())
            after = zip(before, model.parameters(), strict=True)
            trained |= {id(tensor) for old, tensor in after if not torch.equal(old, tensor)}
    assert [parameter for parameter, tensor in model.named_parameters() if id(tensor) not in trained] == []


@each_variant
def test_content_of_padding_changes_nothing(name: str, options: dict, make: Make, mixed: Batch) -> None:
    filled = with_garbage(mixed)
    model, same = without_draws(make(name, **options)), without_draws(make(name, **options))
    require_equal(step(model, filled), step(same, mixed))
    torch.testing.assert_close(model.eval()(filled).logits, same.eval()(mixed).logits, rtol=1e-5, atol=1e-6)


@each_variant
def test_length_of_padding_changes_nothing(name: str, options: dict, make: Make, mixed: Batch) -> None:
    batch = with_catalogue(mixed, sampling_pool=mixed.catalogue.sampling_pool[:1])  # sampled items are all this one
    model, same = without_draws(make(name, **options)), without_draws(make(name, **options))
    require_equal(step(model, longer(batch, 5)), step(same, batch))
    torch.testing.assert_close(model.eval()(longer(batch, 5)).logits, same.eval()(batch).logits, rtol=1e-5, atol=1e-6)


@each_variant
def test_evaluation_repeats_itself_and_of_a_row_is_the_same_in_any_batch(
    name: str, options: dict, make: Make, gather: Gather, mixed: Batch, mixed_rows: list[int], batches: Batches
) -> None:
    model = in_closed_form(make(name, **options), batches)
    step(model, mixed)  # moves running statistics away from their start
    alone = torch.cat([model.eval()(gather([row])).logits for row in mixed_rows])
    together = model(mixed).logits
    assert torch.equal(model(mixed).logits, together)
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)


@each_variant
def test_items_are_ranked_by_the_logits_of_pairs(
    name: str, options: dict, make: Make, mixed_rows: list[int], batches: Batches
) -> None:
    model = in_closed_form(make(name, **options), batches).eval()
    rows, items = batches.rows["train"][mixed_rows[1::3]], torch.arange(1, len(batches.catalogue.items.ids), 5)
    pairs = Samples(rows.repeat_interleave(len(items)), item=items.repeat(len(rows)))
    expected = model(batches.gather(pairs, "train")).logits.view(len(rows), len(items))
    scores = ItemScores(model, batches, "train", items, size=11)  # neither users nor items in one step
    torch.testing.assert_close(scores.of(rows), expected, rtol=1e-4, atol=1e-5)
    chosen = torch.rand(expected.shape) < 0.5
    some = expected.masked_fill(~chosen, -torch.inf)
    torch.testing.assert_close(scores.of(rows, chosen), some, rtol=1e-4, atol=1e-5)


@each_model
def test_a_vector_is_a_field_whose_every_number_is_learnt_from(
    name: str, make: Make, dataset: Dataset, gather: Gather
) -> None:
    side, batch = dataset.schema.item, gather(range(64))
    vector = Field(name="vector", kind=FeatureKind.vector, column=side.value_columns, width=20)
    side = replace(side, fields=(*side.fields, vector))
    items = batch.catalogue.items
    values = torch.cat([items.values, torch.randn(len(items.ids), 20)], 1)
    batch = with_catalogue(batch, items=replace(items, values=values))
    model = make(name, schema=replace(dataset.schema, item=side))
    require_sound(*step(model, batch), 64)
    for stage in stages(model):
        if isinstance(stage, Train):
            _, _, gradients = step(stage.model, batch)
            for path, module in stage.model.named_modules():
                if isinstance(module, SideEmbedding) and module.side == side and path.startswith(stage.trained):
                    assert gradients[f"{path}.direction"][-20:].any(1).all(), path


@each_model
def test_state_dict_carries_the_whole_model(name: str, make: Make, mixed: Batch, batches: Batches) -> None:
    model, other = in_closed_form(make(name), batches), make(name, seed=1)
    step(model, mixed)
    assert not torch.equal(other.eval()(mixed).logits, model.eval()(mixed).logits)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(mixed).logits, model(mixed).logits)


@each_model
def test_unknown_ids_are_scored(name: str, make: Make, mixed: Batch, batches: Batches) -> None:
    assert in_closed_form(make(name), batches).eval()(all_unknown(mixed)).logits.isfinite().all()


@each_model
def test_table_is_trained_on_or_refused_in_one_line(name: str, make: Make, table: Dataset, compose) -> None:
    batch = next(Batches(table, compose().dataset).epoch("train", 64))
    try:
        model = make(name, schema=table.schema)
    except ConfigError as error:
        assert "table" in str(error) and "\n" not in str(error)
    else:
        require_sound(*step(model, batch), 64)
