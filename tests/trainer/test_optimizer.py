"""Optimizers by name and by part of a model, updates by row, and learning rates step by step."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from recexp.config import Config, FTRLConfig, L2Rows, Optimizer, Schedule
from recexp.dataset.batch import Batches
from recexp.dataset.schema import UNKNOWN
from recexp.error import ConfigError
from recexp.model import Train, losses
from recexp.model.wide_deep import Wide
from recexp.trainer.ftrl import FTRL
from recexp.trainer.optimizer import learning_rate_factor, make_optimizers, optimizer_overrides
from recexp.trainer.state import Progress
from recexp.trainer.step import Step

KINDS = {
    Optimizer.adam: torch.optim.Adam,
    Optimizer.adamw: torch.optim.AdamW,
    Optimizer.sgd: torch.optim.SGD,
    Optimizer.adagrad: torch.optim.Adagrad,
}
BY_ROW = [Optimizer.sgd, Optimizer.adagrad, Optimizer.ftrl]
N_ROWS = 9
Make = Callable[..., nn.Module]


def moved(config: Config, kind: Optimizer, sparse: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """A table of which four steps see only rows 1, 2 and 4, and a dense weight beside it, after those steps."""
    torch.manual_seed(0)
    table, weight = nn.Embedding(N_ROWS, 3, sparse=sparse), nn.Parameter(torch.ones(3))
    trainer = replace(config.trainer, optimizer=kind, sparse=sparse, learning_rate=0.1)
    optimizers = make_optimizers(trainer, [table.weight, weight], [table])
    assert len(optimizers) == 1 + sparse
    for rows in ([1, 2, 2], [4], [1], [2, 4]):
        for each in optimizers:
            each.zero_grad()
        (table(torch.tensor(rows)) * weight).sigmoid().sum().backward()
        for each in optimizers:
            each.step()
    return table.weight.detach(), weight.detach()


@pytest.mark.parametrize("kind", KINDS)
def test_name_means_the_optimizer_of_torch(kind: Optimizer, compose: Callable[..., Config]) -> None:
    trainer = replace(compose().trainer, optimizer=kind, learning_rate=0.02, weight_decay=0.03)
    (built,) = make_optimizers(trainer, [nn.Parameter(torch.ones(3))], [])
    assert type(built) is KINDS[kind]
    assert built.defaults["lr"] == 0.02
    assert built.defaults["weight_decay"] == 0.03


def test_ftrl_has_its_own_options(compose: Callable[..., Config]) -> None:
    options = FTRLConfig(learning_rate=0.3, beta=0.7, l1=0.1, l2=0.2)
    trainer = replace(compose().trainer, optimizer=Optimizer.ftrl, ftrl=options)
    (built,) = make_optimizers(trainer, [nn.Parameter(torch.ones(3))], [])
    assert type(built) is FTRL
    assert [built.defaults[name] for name in ("lr", "beta", "l1", "l2")] == [0.3, 0.7, 0.1, 0.2]


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"learning_rate": 0.0}, "trainer.ftrl.learning_rate = 0.0: must be above 0"),
        ({"beta": 0.0}, "trainer.ftrl.beta = 0.0: must be above 0"),
        ({"l1": -1.0}, "trainer.ftrl.l1 = -1.0: must be 0 or more"),
        ({"l2": -1.0}, "trainer.ftrl.l2 = -1.0: must be 0 or more"),
    ],
)
def test_options_of_ftrl_have_ranges(options: dict, wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong):
        FTRLConfig(**{"learning_rate": 0.1, "beta": 1.0, "l1": 0.0, "l2": 0.0, **options})


def test_weight_decay_is_none_of_ftrls(compose: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.weight_decay = 0\.1: ftrl has none; use trainer\.ftrl\.l2"):
        replace(compose().trainer, optimizer=Optimizer.ftrl, weight_decay=0.1)


@pytest.mark.parametrize("kind", BY_ROW)
def test_updates_by_row_equal_those_of_the_whole_table(kind: Optimizer, compose: Callable[..., Config]) -> None:
    by_row, whole = moved(compose(), kind, sparse=True), moved(compose(), kind, sparse=False)
    torch.testing.assert_close(by_row, whole, rtol=1e-6, atol=1e-7)


def test_lazy_adam_is_not_adam(compose: Callable[..., Config]) -> None:
    lazy, _ = moved(compose(), Optimizer.lazy_adam, sparse=True)
    adam, _ = moved(compose(), Optimizer.adam, sparse=False)
    assert not torch.allclose(lazy[1:5], adam[1:5], atol=1e-4)


@pytest.mark.parametrize("kind", [*BY_ROW, Optimizer.lazy_adam])
def test_row_absent_from_all_batches_stays_to_the_bit(kind: Optimizer, compose: Callable[..., Config]) -> None:
    torch.manual_seed(0)
    start = nn.Embedding(N_ROWS, 3).weight.detach()
    table, _ = moved(compose(), kind, sparse=True)
    assert (table == start).all(1).tolist() == [row not in (1, 2, 4) for row in range(N_ROWS)]


# Parts of a model


def overrides(model: nn.Module, config: Config, parts: dict[str, Optimizer]) -> dict[str, Optimizer]:
    """The optimizers by the names of parameters."""
    found = optimizer_overrides(config.trainer, model, parts)
    return {name: found[each] for name, each in model.named_parameters() if each in found}


def test_part_is_a_prefix_that_ends_where_a_modules_name_does(compose: Callable[..., Config]) -> None:
    model = nn.ModuleDict({name: nn.Linear(1, 1) for name in ("wide", "wider", "deep")})
    found = overrides(model, compose(), {"wide": Optimizer.ftrl, "deep.bias": Optimizer.sgd})
    assert found == {"wide.weight": Optimizer.ftrl, "wide.bias": Optimizer.ftrl, "deep.bias": Optimizer.sgd}


@pytest.mark.parametrize("names", [["wide", "wide.bias"], ["wide.bias", "wide"]])
def test_longer_prefix_counts(names: list[str], compose: Callable[..., Config]) -> None:
    model = nn.ModuleDict({"wide": nn.Linear(1, 1), "deep": nn.Linear(1, 1)})
    parts = {"wide": Optimizer.ftrl, "wide.bias": Optimizer.sgd}
    found = overrides(model, compose(), {name: parts[name] for name in names})
    assert found == {"wide.weight": Optimizer.ftrl, "wide.bias": Optimizer.sgd}


@pytest.mark.parametrize("part", ["wdie", "wid", "wide.wieght", ""])
def test_part_without_parameters_is_told_in_one_line(part: str, make: Make, compose: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError) as error:
        optimizer_overrides(compose().trainer, make("wide_deep"), {"deep": Optimizer.sgd, part: Optimizer.ftrl})
    assert str(error.value).startswith(f"model.optimizers.{part}: no such part of the model.")
    assert str(error.value).endswith("Choices: deep, wide.") and "\n" not in str(error.value)


def test_part_that_does_not_go_with_updates_by_row_is_told(make: Make, compose: Callable[..., Config]) -> None:
    model = make("wide_deep")
    whole = replace(compose().trainer, sparse=False)
    with pytest.raises(ConfigError, match=r"model\.optimizers\.wide = lazy_adam: .*trainer\.sparse=false forbids"):
        optimizer_overrides(whole, model, {"wide": Optimizer.lazy_adam})


def test_parameters_of_no_part_have_the_trainers_optimizer(make: Make, compose: Callable[..., Config]) -> None:
    model, trainer = make("wide_deep"), replace(compose().trainer, learning_rate=0.02)
    found = optimizer_overrides(trainer, model, {"wide": Optimizer.ftrl})
    built = make_optimizers(trainer, list(model.parameters()), [], found)
    held = {type(each): {id(p) for group in each.param_groups for p in group["params"]} for each in built}
    assert held == {
        FTRL: {id(p) for name, p in model.named_parameters() if name.startswith("wide.")},
        torch.optim.Adam: {id(p) for name, p in model.named_parameters() if name.startswith("deep.")},
    }
    assert {type(each): each.defaults["lr"] for each in built} == {
        FTRL: trainer.ftrl.learning_rate,
        torch.optim.Adam: 0.02,
    }


L2 = 0.05
STEPS = 6


def stepped(model: nn.Module, config: Config, batches: Batches, parts: dict[str, Optimizer]) -> nn.Module:
    """The model after a few steps of the trainer's."""
    found = optimizer_overrides(config.trainer, model, parts)
    step = Step(Train(name="t", model=model), {"target": 1.0}, L2, config.trainer, batches, 2, found)
    for index, batch in enumerate(list(batches.epoch("train", 256, 0))[:STEPS]):
        step(batch, Progress(step=index, learning_rate_scale=0.5))
    return model


def test_steps_of_two_optimizers_equal_a_loop_by_hand(
    make: Make, compose: Callable[..., Config], batches: Batches
) -> None:
    """Each has its own learning rate under one schedule; the L2 term is the deep part's; clipping is of both."""
    options = FTRLConfig(learning_rate=0.3, beta=0.1, l1=1e-3, l2=0.01)
    schedule = {"schedule": Schedule.cosine, "warmup_steps": 2, "clip_norm": 0.05}
    trainer = replace(compose().trainer, learning_rate=0.02, ftrl=options, **schedule)
    found = make("wide_deep", dropout=0.0)
    stepped(found, replace(compose(), trainer=trainer), batches, {"wide": Optimizer.ftrl})

    plain = make("wide_deep", dropout=0.0)
    made = [FTRL(plain.wide.parameters(), 0.3, 0.1, 1e-3, 0.01), torch.optim.Adam(plain.deep.parameters(), lr=0.02)]
    tables = [side.table.weight for side in plain.deep.embed.sides.values()]
    clipped = 0
    for index, batch in enumerate(list(batches.epoch("train", 256, 0))[:STEPS]):
        plain.zero_grad()
        loss = losses(plain, plain(batch), batch)["target"] + L2 / 2 * sum(table.square().sum() for table in tables)
        loss.backward()
        clipped += int(nn.utils.clip_grad_norm_(plain.parameters(), 0.05) > 0.05)
        for each, rate in zip(made, (0.3, 0.02), strict=True):
            each.param_groups[0]["lr"] = 0.5 * rate * learning_rate_factor(Schedule.cosine, index, 10, 2)
            each.step()
    assert clipped
    torch.testing.assert_close(found.state_dict(), plain.state_dict(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("parts", "decayed"), [({"wide": Optimizer.ftrl}, False), ({"wide": Optimizer.adagrad}, True), ({}, True)]
)
def test_l2_term_of_embeddings_leaves_a_part_of_ftrl_alone(
    parts: dict[str, Optimizer], decayed: bool, make: Make, compose: Callable[..., Config], batches: Batches
) -> None:
    """A row that no training row holds has the L2 term's gradient or none."""
    model = make("wide_deep")
    wide, deep = (each.sides["user"].table.weight for each in (model.wide.weights, model.deep.embed))
    with torch.no_grad():
        wide[UNKNOWN] = deep[UNKNOWN] = 0.1
    stepped(model, compose(), batches, parts)
    assert bool((wide[UNKNOWN] != 0.1).all()) == decayed
    assert (deep[UNKNOWN] < 0.1).all()


@pytest.mark.parametrize("wide", ["linear", "poly2"])
def test_part_of_ftrl_is_the_same_with_and_without_updates_by_row_elsewhere(
    wide: str, make: Make, compose: Callable[..., Config], batches: Batches
) -> None:
    config = compose("model=wide_deep", f"model.wide={wide}", "model.n_buckets=1000")
    trained = []
    for sparse in (False, True):
        options = {"optimizer": Optimizer.adagrad, "l2_rows": L2Rows.batch, "sparse": sparse, "clip_norm": 0.05}
        trainer = replace(config.trainer, **options)
        model = make("wide_deep", wide=config.model.wide, n_buckets=1000, dropout=0.0)
        trained.append(stepped(model, replace(config, trainer=trainer), batches, {"wide": Optimizer.ftrl}))
    torch.testing.assert_close(trained[0].state_dict(), trained[1].state_dict(), rtol=1e-4, atol=1e-6)
    assert trained[0].wide.state_dict().keys() and all(each.any() for each in trained[0].wide.parameters())


@pytest.mark.parametrize(
    ("parts", "sparse", "rowwise"),
    [
        ({"wide": Optimizer.ftrl}, False, {"wide"}),
        ({}, True, {"wide", "deep"}),
        ({"wide": Optimizer.sgd}, False, set()),
    ],
)
def test_tables_of_a_part_of_ftrl_are_updated_by_row(
    parts: dict[str, Optimizer],
    sparse: bool,
    rowwise: set[str],
    make: Make,
    compose: Callable[..., Config],
    batches: Batches,
) -> None:
    options = {"optimizer": Optimizer.adagrad, "l2_rows": L2Rows.batch, "sparse": sparse}
    config = replace(compose(), trainer=replace(compose().trainer, **options))
    model = stepped(make("wide_deep", wide=Wide.poly2, n_buckets=1000), config, batches, parts)
    tables = {name: each for name, each in model.named_parameters() if name.endswith("table.weight")}
    assert "wide.table.weight" in tables
    for name, each in tables.items():
        assert each.grad.is_sparse == (name.split(".")[0] in rowwise), name


def test_stage_that_trains_a_part_knows_it_by_its_name_in_the_model(
    make: Make, compose: Callable[..., Config], batches: Batches
) -> None:
    model = nn.ModuleDict({"part": make("wide_deep")})
    found = optimizer_overrides(compose().trainer, model, {"part.wide": Optimizer.ftrl})
    step = Step(Train(name="t", model=model["part"]), {"target": 1.0}, 0.0, compose().trainer, batches, 1, found)
    kinds = {type(each) for each in step.optimizers}
    assert FTRL in kinds and torch.optim.Adam in kinds


def test_whole_model_is_trained_by_ftrl(make: Make, compose: Callable[..., Config], batches: Batches) -> None:
    for name in ("wide_deep", "din"):
        model = make(name)
        trainer = replace(compose().trainer, optimizer=Optimizer.ftrl)
        whole = next(batches.epoch("train", 10**6))
        before = losses(model, model.eval()(whole), whole)["target"].item()
        step = Step(Train(name="t", model=model), {"target": 1.0}, 1e-3, trainer, batches, 10)
        assert {type(each) for each in step.optimizers} == {FTRL}
        for epoch in range(10):
            for batch in batches.epoch("train", 256, epoch):
                step(batch, Progress())
        assert losses(model, model.eval()(whole), whole)["target"].item() < before - 0.03


# Learning rates


def factors(schedule: Schedule, steps: int, warmup: int = 0) -> list[float]:
    return [learning_rate_factor(schedule, step, steps, warmup) for step in range(steps)]


def test_constant_rate_stays() -> None:
    assert factors(Schedule.constant, 3) == [1, 1, 1]


def test_plateau_is_no_matter_of_steps() -> None:
    assert factors(Schedule.plateau, 3) == [1, 1, 1]


def test_linear_rate_falls_by_equal_steps() -> None:
    assert factors(Schedule.linear, 4) == pytest.approx([1, 0.75, 0.5, 0.25])


def test_cosine_rate_is_half_in_the_middle() -> None:
    assert factors(Schedule.cosine, 4) == pytest.approx([1, 0.8535534, 0.5, 0.1464466])


def test_warmup_rises_from_0_in_equal_steps() -> None:
    assert factors(Schedule.constant, 5, warmup=3) == pytest.approx([0.25, 0.5, 0.75, 1, 1])


def test_decline_starts_after_warmup() -> None:
    assert factors(Schedule.linear, 6, warmup=2) == pytest.approx([1 / 3, 2 / 3, 1, 0.75, 0.5, 0.25])


@pytest.mark.parametrize("schedule", Schedule)
def test_rate_beyond_the_last_step_or_in_a_long_warmup_is_no_error(schedule: Schedule) -> None:
    assert 0 <= learning_rate_factor(schedule, 12, 10, 0) <= 1
    assert learning_rate_factor(schedule, 3, 10, 50) == pytest.approx(4 / 51)


@pytest.mark.parametrize("name", ["bpr_mf", "fm", "deepfm"])  # without such weights, with a bias, with layers
def test_network_l2_is_the_gradient_of_all_weights_that_belong_to_no_value(
    name: str, compose: Callable[..., Config], make: Make, batches: Batches
) -> None:
    batch, gradients = next(batches.epoch("train", 64, 0)), []
    for strength in (0.0, 0.5):
        torch.manual_seed(0)
        model = make(name)
        trainer = replace(compose().trainer, network_l2=strength, sparse=False)
        Step(Train(name="t", model=model), {"target": 1.0}, 0.0, trainer, batches, 1).gradients(batch)
        gradients.append({key: parameter.grad for key, parameter in model.named_parameters()})
    of_values = {key for key, _ in model.named_parameters() if key.endswith("table.weight")}
    assert of_values and (name == "bpr_mf") == (len(of_values) == len(gradients[0]))
    for key, parameter in model.named_parameters():
        added = torch.zeros_like(parameter) if key in of_values else 0.5 * parameter
        torch.testing.assert_close(gradients[1][key], gradients[0][key] + added)
