"""YAML files and code are held together: neither has what the other lacks."""

import copy
import functools
import re
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import yaml

import recexp
from recexp import registry
from recexp.compose import compose, model_file
from recexp.config import Every, ModelConfig, Optimizer, every
from recexp.dataset.config import HistoryKind
from recexp.describe import options, schema
from recexp.error import ConfigError, choices
from recexp.groups import conf_folder
from recexp.tree import to_dict
from recexp.validate import check, read, recheck

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


CHANGES = {  # what Python code sets: what the error must say; None: nothing
    ("trainer.epochs", -3): "trainer.epochs = -3: must be 1 or more.",
    ("trainer.epohcs", 3): "trainer.epohcs: unknown key. Did you mean 'trainer.epochs'?",
    ("trainr", 3): "trainr: unknown key. Did you mean 'trainer'?",
    ("trainer.epochs", "three"): "trainer.epochs = three: ",
    ("trainer.epochs", "3"): "trainer.epochs = '3': must be 3.",
    ("trainer.epochs", np.int64(3)): "trainer.epochs: Value 'int64' is not a supported primitive type.",
    ("trainer.optimizer", "sgd"): "trainer.optimizer = 'sgd': must be Optimizer.sgd.",
    ("trainer.optimizer", Optimizer.lazy_adam): "set trainer.l2_rows=batch",
    ("trainer.ftrl.beta", 0): "trainer.ftrl.beta = 0.0: must be above 0.",
    ("trainer.monitor", "au"): "Did you mean 'auc'?",
    ("dataset.features.derived.last_items", 101): "last_items = 101: must be 0 to 100.",
    ("dataset.history", HistoryKind.liked): "model.history_labels = true: needs labels",
    ("seed", -1): "seed = -1: must be 0 or more, and below 2^31.",
    ("device", "gpu"): "device = gpu: must be auto, cpu, cuda or cuda:N.",
    ("trainer.threads", 10**6): "trainer.threads = 1000000: must be 1 to 1024, or null (more would only wait",
    ("trainer.batch_size", 2**31): "must be 1 to 2147483647 (rows are numbered in 32 bits)",
    ("trainer.checkpoint_every", "5hours"): "trainer.checkpoint_every = 5hours: must be a number of epochs (2 or",
    ("trainer.checkpoint_every", 0): "trainer.checkpoint_every = 0: must be a number of epochs",
    ("trainer.checkpoint_every", "0min"): "trainer.checkpoint_every = 0min: must be a number of epochs",
    ("trainer.checkpoint_every", "1.5min"): "trainer.checkpoint_every = 1.5min: must be a number of epochs",
    ("trainer.checkpoint_every", "10min"): None,
    ("trainer.threads", None): None,
    ("trainer.learning_rate", 1): None,
    ("run.name", "mine"): None,
}


@pytest.mark.parametrize(
    ("value", "meaning"),
    [(2, Every(2, "epochs")), ("2", Every(2, "epochs")), ("2epochs", Every(2, "epochs")),
     ("500steps", Every(500, "steps")), ("10min", Every(10, "min"))],
)  # fmt: skip
def test_checkpoints_are_counted_in_epochs_steps_or_minutes(value, meaning):
    config = recexp.load_config(["model=fm", f"trainer.checkpoint_every={value}", "trainer.threads=1"])
    assert every(config.trainer.checkpoint_every) == meaning


@pytest.mark.parametrize(("key", "value"), CHANGES, ids=lambda value: str(value))
def test_a_configuration_changed_from_python_is_checked_again(key, value):
    config = recexp.load_config(["model=din", "trainer.threads=1"])
    *groups, name = key.split(".")
    setattr(functools.reduce(getattr, groups, config), name, value)
    if words := CHANGES[key, value]:
        with pytest.raises(ConfigError, match=re.escape(words)):
            recheck(config)
    else:
        recheck(config)


def test_rechecking_changes_nothing():
    config = recexp.load_config(["model=wide_deep", "trainer.threads=1"])
    before = copy.deepcopy(config)
    recheck(config)
    assert config == before


def test_a_run_directorys_configuration_goes_on_there(tmp_path):
    config = recexp.load_config(["model=fm", "trainer.threads=1"])
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(to_dict(config)))
    before = read(tmp_path)
    assert (before.run.dir, before.run.resume) == (str(tmp_path), True)
    assert replace(before, run=config.run) == config


def test_models_without_embeddings_or_optimizers_of_their_own_have_the_neutral_ones():
    config = recexp.load_config(["model=popularity"]).model
    assert (config.embedding_l2, dict(config.optimizers)) == (0.0, {})
    assert not {"embedding_l2", "optimizers"} & to_dict(config).keys()


def test_an_option_that_a_model_declares_has_no_default():
    @dataclass(frozen=True, kw_only=True)
    class Declares(ModelConfig):
        embedding_l2: float
        optimizers: dict[str, Optimizer]

    with pytest.raises(TypeError, match="'embedding_l2' and 'optimizers'"):
        Declares(name="mine", loss_weights={})
    given = Declares(name="mine", loss_weights={}, embedding_l2=0.1, optimizers={"wide": Optimizer.ftrl})
    assert (given.embedding_l2, given.optimizers) == (0.1, {"wide": Optimizer.ftrl})


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
    assert set(found) == {"name", "embedding_dim", "embedding_std", "linear_std", "embedding_l2", "loss_weights"}


def test_two_classes_of_one_name_are_refused():
    class Other: ...

    with pytest.raises(ConfigError, match="registered twice"):
        registry.register("fm")(registry.get("model", "fm")) and registry.register("fm")(Other)


def test_the_nearest_spelling_comes_first_and_a_page_of_choices_is_cut():
    assert choices("dinn", ["din", "dien"]) == "Did you mean 'din'? Choices: dien, din."
    assert choices("x", []) == "Choices: none."
    assert choices("x", [f"key{n}" for n in range(100)]).count("key") == 30


def test_overrides_are_a_list_not_one_text() -> None:
    with pytest.raises(ConfigError, match=r"load_config: takes a list of overrides, as \['model=din'\]"):
        recexp.load_config("model=din")  # type: ignore[arg-type]
