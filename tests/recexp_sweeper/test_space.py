"""Hydra's grammar as Optuna's distributions, and the spaces that come with recexp."""

import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf, open_dict

pytest.importorskip("optuna")

from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from hydra_plugins.recexp_sweeper import _space
from hydra_plugins.recexp_sweeper._options import Options, PrunerOptions
from hydra_plugins.recexp_sweeper._space import Space
from recexp import registry
from recexp.compose import compose, model_file
from recexp.config import Config
from recexp.error import ConfigError
from recexp.groups import conf_folder
from recexp.validate import check

FILES = sorted((conf_folder() / "sweep").glob("*.yaml"))


def split(*words: str) -> tuple[list[str], Space]:
    return _space.split(OverridesParser.create().parse_overrides(list(words)))


@pytest.mark.parametrize(
    ("typed", "distribution"),
    [
        ("interval(0,0.5)", FloatDistribution(0, 0.5)),
        ("tag(log,interval(1e-4,1e-2))", FloatDistribution(1e-4, 1e-2, log=True)),
        ("int(interval(1,8))", IntDistribution(1, 8)),
        ("tag(log,int(interval(1,64)))", IntDistribution(1, 64, log=True)),
        ("range(8,33,8)", IntDistribution(8, 32, step=8)),
        ("range(3)", IntDistribution(0, 2)),
        ("range(5,0,-2)", IntDistribution(1, 5, step=2)),
        ("range(0,0.5,0.25)", FloatDistribution(0, 0.25, step=0.25)),
        ("8,16,8", CategoricalDistribution(["8", "16"])),
        ("choice([64,32],[128,64])", CategoricalDistribution(["[64,32]", "[128,64]"])),
        ("relu,null,true,'a b'", CategoricalDistribution(["relu", "null", "True", "'a b'"])),
    ],
)
def test_what_is_typed_is_a_distribution(typed: str, distribution: Any) -> None:
    fixed, space = split(f"x={typed}", "y=1")
    assert (fixed, space) == (["y=1"], {"x": distribution})


def test_of_two_of_a_key_the_later_holds_and_others_stay_as_typed() -> None:
    fixed, space = split("x=1,2", "y=interval(0,1)", "x='a b'", "+z=[1, 2]", "~w")
    assert fixed == ["x='a b'", "+z=[1, 2]", "~w"] and list(space) == ["y"]


@pytest.mark.parametrize(
    ("typed", "jobs"),
    [
        (["model.x={a:1},{b:2}", "model.x.a=3"], [["model.x={a:1}", "model.x.a=3"], ["model.x={b:2}", "model.x.a=3"]]),
        (["model.x.a=3", "model.x={a:1},{b:2}"], [["model.x={a:1}"], ["model.x={b:2}"]]),
        (["model.x.a=1,2", "model.x={a:3}", "y=1,2"], [["model.x={a:3}", "y=1"], ["model.x={a:3}", "y=2"]]),
        (["model.x=1,2", "++model.x=3", "y=1,2"], [["++model.x=3", "y=1"], ["++model.x=3", "y=2"]]),
        (
            ["++model.x={a:1},{b:2}", "model.x.c=3"],
            [["++model.x={a:1}", "model.x.c=3"], ["++model.x={b:2}", "model.x.c=3"]],
        ),
        (["model=a,b", "model.x=3"], [["model.x=3", "model=a"], ["model.x=3", "model=b"]]),
    ],
)
def test_what_is_typed_last_holds_in_each_trial_also_of_a_mapping_and_its_entries(
    typed: list[str], jobs: list[list[str]]
) -> None:
    fixed, space = split(*typed)
    assert [_space.job_words(fixed, setting) for setting in _space.grid(space)] == jobs


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("interval(1,0)", "x=interval(1,0): the second bound must be above the first"),
        ("tag(log,interval(0,1))", "on a log scale the bounds must be above 0"),
        ("tag(lin,interval(0,1))", "log is the one tag"),
        ("tag(log,choice(1,2))", "log is the one tag"),
        ("range(3,3)", "x=range(3,3): names nothing"),
    ],
)
def test_bounds_that_mean_nothing_are_a_mistake(typed: str, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        split(f"x={typed}")
    assert told in str(error.value)


def test_corners_hold_every_end_and_every_choice() -> None:
    _, space = split("x=interval(0,1)", "y=a,b,c")
    assert _space.corners(space) == [
        {"x": 0, "y": "a"}, {"x": 1, "y": "a"}, {"x": 0, "y": "b"}, {"x": 0, "y": "c"},
    ]  # fmt: skip


def test_grid_holds_every_combination() -> None:
    _, space = split("x=range(0,0.5,0.2)", "y=a,b", "z=int(interval(1,2))")
    assert _space.grid(space) == [{"x": x, "y": y, "z": z} for x in (0, 0.2, 0.4) for y in "ab" for z in (1, 2)]
    with pytest.raises(ConfigError, match=r"x: sampler grid takes lists and ranges"):
        _space.grid(split("x=interval(0,1)")[1])


def test_a_setting_is_typed_with_six_digits_at_most() -> None:
    setting = {"a": 0.1 + 0.2, "b": 1e-5 / 3, "c": 1.0, "d": 16, "e": "[64,32]"}
    assert _space.words(setting) == ["a=0.3", "b=3.33333e-06", "c=1", "d=16", "e=[64,32]"]


@pytest.fixture
def job(compose: Callable[..., Config]) -> Callable[[list[str]], Config]:
    return lambda words: compose(*words)


def test_a_space_is_checked_at_its_ends(job: Callable) -> None:
    _, space = split("model.dropout=interval(0,0.5)", "model.hidden_sizes=[8],[16,8]")
    assert _space.checked(["model=din"], space, job).model.dropout == 0
    for typed, told in {
        "model.dropout=interval(0,1)": "model.dropout = 1.0: must be at least 0 and below 1",
        "model.normalise=softmax,non": "expected one of",
        "model.state_size=8,16": "state_size",
        "model.embedding_dim=interval(8,32)": r"whole number; write int\(interval\(8,32\)\)",
    }.items():
        with pytest.raises(ConfigError, match=told):
            _space.checked(["model=din"], split(typed)[1], job)


def test_options_are_those_of_the_file_and_of_the_document() -> None:
    file = yaml.safe_load((conf_folder() / "hydra" / "sweeper" / "optuna.yaml").read_text("utf-8"))
    assert set(file) - {"_target_"} == {each.name for each in fields(Options)}
    assert set(file["pruner"]) == {each.name for each in fields(PrunerOptions)}
    document = Path(__file__).parents[2] / "docs" / "search.md"
    rows = re.findall(r"^\| `([\w.]+)`(?:, `\w+`)? \| `?([^|`]+)`? \|", document.read_text("utf-8"), re.MULTILINE)
    flat = {**file, **{f"pruner.{key}": value for key, value in file["pruner"].items()}}
    assert {key: yaml.safe_load(value) for key, value in rows} == {
        key: flat[key] for key in flat if key not in ("_target_", "pruner", "params", "study_name")
    }


def test_every_model_has_a_space() -> None:
    assert [path.stem for path in FILES] == registry.names("model")


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_space_of_a_model_is_allowed_by_its_configuration(path: Path) -> None:
    tree = yaml.safe_load(path.read_text("utf-8"))
    assert tree["defaults"] == [{"override /model": path.stem}, {"override /hydra/sweeper": "optuna"}]
    assert set(tree) == {"defaults", "hydra"} and set(tree["hydra"]) == {"sweeper"}
    parameters = tree["hydra"]["sweeper"]["params"]
    fixed, space = split(*(f"{key}={value}" for key, value in parameters.items()))
    assert fixed == [] and list(space) == list(parameters)
    raw, folders = compose([f"model={path.stem}"])
    file = model_file(raw, folders)

    def job(words: list[str]) -> Config:
        """Composing anew gives the same, in ten times the time."""
        corner = raw.copy()
        for override in OverridesParser.create().parse_overrides(words):
            assert OmegaConf.select(corner, override.key_or_group) is not None
            with open_dict(corner):
                OmegaConf.update(corner, override.key_or_group, override.value(), merge=False)
        return check(corner, file)

    _space.checked([], space, job)
