"""What models have in common: needs, default losses and stages, and parts of one another."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from recexp import registry
from recexp.config import Config, ModelConfig
from recexp.dataset.batch import Batch
from recexp.dataset.config import FeatureKind
from recexp.dataset.schema import Field, Schema, Side
from recexp.error import ConfigError
from recexp.layer.loss import bce
from recexp.model import Inputs, Needs, Output, Train, create, losses, part_config, reads_history, stages
from recexp.model.als import ALS


class Plain(nn.Module):
    """A model that declares nothing but its forward."""

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        pass

    def __init__(self, config: ModelConfig, schema: Schema) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, batch: Batch) -> Output:
        return Output(self.bias.expand(len(batch)))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Needs | None, Schema], nn.Module]]:
    """made(needs, schema): a new Plain whose class has these needs, or declares none."""
    monkeypatch.setitem(registry._registered, ("model", "plain"), Plain)

    def made(needs: Needs | None, schema: Schema) -> nn.Module:
        if needs is None:
            monkeypatch.delattr(Plain, "needs", raising=False)
        else:
            monkeypatch.setattr(Plain, "needs", needs, raising=False)
        return create(Plain.Config(name="plain", loss_weights={"target": 1.0}), schema)

    yield made


def table(n_fields: int) -> Schema:
    fields = (Field(name=f"f{n}", kind=FeatureKind.categorical, column=n, size=3) for n in range(n_fields))
    return Schema(context=Side(fields=tuple(fields)))


@pytest.mark.parametrize("inputs", [each for each in Inputs if each not in (Inputs.fields, Inputs.chosen)])
def test_a_model_of_users_and_items_refuses_a_table(inputs: Inputs, made: Callable) -> None:
    log = replace(table(2), max_history=5)
    assert isinstance(made(Needs(inputs), log), Plain)
    with pytest.raises(ConfigError, match=r"^model = plain: needs users, items and time; this dataset is a table\. "):
        made(Needs(inputs), table(2))


def test_a_model_of_fields_takes_a_table_of_as_many_as_it_needs(made: Callable) -> None:
    assert isinstance(made(Needs(Inputs.fields, n_fields=2), table(2)), Plain)
    assert isinstance(made(Needs(Inputs.fields), table(1)), Plain)
    words = r"^model = plain: needs 2 fields or more, ids included; this table has 1\.$"
    with pytest.raises(ConfigError, match=words):
        made(Needs(Inputs.fields, n_fields=2), table(1))


def test_a_model_that_declares_no_needs_gets_histories_and_any_data(made: Callable) -> None:
    assert reads_history(made(None, table(1)))


@pytest.mark.parametrize("inputs", [each for each in Inputs if each is not Inputs.chosen])
def test_histories_are_read_by_models_that_need_them(inputs: Inputs, made: Callable) -> None:
    model = made(Needs(inputs), replace(table(2), max_history=5))
    assert reads_history(model) == reads_history(type(model)) == (inputs in (Inputs.history, Inputs.sequence))


def test_a_model_of_chosen_inputs_takes_any_data_and_says_itself_whether_it_reads_histories(made: Callable) -> None:
    model = made(Needs(Inputs.chosen), table(2))
    for reads in (True, False):
        model.reads_history = reads
        assert reads_history(model) == reads


def test_a_model_without_losses_and_stages_is_trained_whole_on_the_label(made: Callable, mixed: Batch) -> None:
    model = made(None, table(1))
    parts = losses(model, model(mixed), mixed)
    assert parts.keys() == {"target"}
    assert torch.equal(parts["target"], bce(torch.zeros(len(mixed)), mixed.label))
    assert stages(model) == [Train(name="train", model=model)]


def test_losses_of_a_model_take_the_place_of_the_default(made: Callable, mixed: Batch) -> None:
    model = made(None, table(1))
    model.losses = lambda output, batch: {"other": output.logits.sum()}
    assert losses(model, model(mixed), mixed).keys() == {"other"}


def test_the_config_of_a_part_shares_options_unless_they_are_given(compose: Callable[..., Config]) -> None:
    config = compose("model=als_mlp").model
    part = part_config(ALS.Config, config, smoothing=3.0, alpha=2.0)
    assert isinstance(part, ALS.Config)
    assert (part.smoothing, part.alpha) == (3.0, 2.0)
    assert (part.iterations, part.feedback, part.loss_weights) == (
        config.iterations,
        config.feedback,
        config.loss_weights,
    )
