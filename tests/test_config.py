"""YAML files and code are held together: neither has what the other lacks."""

from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path

import pytest
import yaml

import recexp
from recexp import registry
from recexp.compose import compose, model_file
from recexp.describe import options, schema
from recexp.error import ConfigError, choices
from recexp.groups import conf_folder
from recexp.tree import to_dict
from recexp.validate import check

FILES = [
    path
    for group in ("model", "dataset", "trainer", "logger")
    for path in sorted((conf_folder() / group).glob("*.yaml"))
]


def typed_by(path: Path) -> type:
    return schema(path.parent.name, yaml.safe_load(path.read_text("utf-8")))


@pytest.mark.parametrize("kind", ["model", "trainer", "logger"])
def test_each_has_a_file_of_its_name_and_every_file_is_of_one(kind):
    assert sorted(path.stem for path in (conf_folder() / kind).glob("*.yaml")) == registry.names(kind)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_file_is_called_by_its_name_and_has_exactly_the_keys_of_its_config(path):
    tree = yaml.safe_load(path.read_text("utf-8"))
    assert tree["name"] == path.stem

    def same(tree: dict, kind: type) -> None:
        assert set(tree) == {item.name for item in fields(kind)}
        for item in fields(kind):
            if isinstance(item.type, type) and is_dataclass(item.type):
                same(tree[item.name], item.type)

    same(tree, typed_by(path))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_option_has_a_meaning_and_no_default_stands_in_the_code(path):
    for option, _, _, meaning in options(path.parent.name, path):
        key = option.partition(".")[2].split(".")[0]
        assert meaning or key in ("name", "reader", "loss_weights", "features", "columns"), option
    assert all(item.default is MISSING and item.default_factory is MISSING for item in fields(typed_by(path)))


def test_a_configuration_written_out_and_read_back_is_the_same():
    from omegaconf import OmegaConf

    config = recexp.load_config(["model=din", "dataset=csv", "dataset.path=log.csv", "trainer.threads=1"])
    assert check(OmegaConf.create(yaml.safe_load(yaml.safe_dump(to_dict(config))))) == config
    assert Path(config.dataset.path).is_absolute()


def test_threads_are_resolved_to_a_number():
    assert recexp.load_config(["trainer.threads=null"]).trainer.threads >= 1


def test_composing_in_a_notebook_leaves_hydra_as_it_was():
    from hydra.core.global_hydra import GlobalHydra

    before = GlobalHydra.instance().hydra
    compose(["model=fm"])
    assert GlobalHydra.instance().hydra is before


def test_what_a_model_understands_stands_in_its_own_file():
    raw, folders = compose(["model=fm"])
    found = model_file(raw, folders)
    assert set(found) == {"name", "embedding_dim", "embedding_std", "embedding_l2", "loss_weights"}


def test_two_classes_of_one_name_are_refused():
    class Other: ...

    with pytest.raises(ConfigError, match="registered twice"):
        registry.register("fm")(registry.get("model", "fm")) and registry.register("fm")(Other)


def test_the_nearest_spelling_comes_first_and_a_page_of_choices_is_cut():
    assert choices("dinn", ["din", "dien"]) == "Did you mean 'din'? Choices: dien, din."
    assert choices("x", []) == "Choices: none."
    assert choices("x", [f"key{n}" for n in range(100)]).count("key") == 30
