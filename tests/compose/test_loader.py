"""A mapping that is typed, or stands in a YAML file, replaces the one below it; one part can be changed too."""

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_origin

import pytest
import yaml

import recexp
from recexp import registry
from recexp.cli import run
from recexp.compose import compose
from recexp.compose.loader import MAPPING, mappings
from recexp.error import ConfigError
from recexp.groups import conf_folder
from recexp.run.read import read_config
from recexp.sweep.pool import Pool
from recexp.tree import to_dict

ML = ("model=fm", "dataset=ml-100k")
USER, NO_AGE = "dataset.features.user", {"gender": "categorical", "occupation": "categorical"}
TWO = ("model=mmoe", "dataset=csv", "dataset.path=a", "dataset.columns.label={like: 'rating>=4', finish: seen}")
# What is typed, the option, and what it then is.
WHOLE = [
    (["model=dien", "model.loss_weights={target:1.0}"], "model.loss_weights", {"target": 1.0}),
    (["model=dien", "++model.loss_weights={target:1.0}"], "model.loss_weights", {"target": 1.0}),
    (["model=afm", "model.loss_weights={target:2}"], "model.loss_weights", {"target": 2.0}),
    (["model=wide_deep", "model.optimizers={}"], "model.optimizers", {}),
    (["model=wide_deep", "model.optimizers={deep:adagrad}"], "model.optimizers", {"deep": "adagrad"}),
    ([*ML, "dataset.features.user={}"], "dataset.features.user", {}),
    ([*ML, "dataset.features.item={genres: multi}"], "dataset.features.item", {"genres": "multi"}),
    ([*ML, "dataset.features.item={genre: multi}"], "dataset.features.item", {"genre": "multi"}),
    ([*ML, "dataset.features={user: {}}"], "dataset.features.user", {}),
    (["dataset.features.context={}"], "dataset.features.context", {}),
    (["dataset=csv", "dataset.path=a", "dataset.features.context={hour: binned}"], "dataset.features.context",
     {"hour": "binned"}),
    (["logger=mlflow", "logger.tags={team: search}"], "logger.tags", {"team": "search"}),
    ([*TWO, "dataset.columns.label={like: 'rating>=5'}"], "dataset.columns.label", {"like": "rating>=5"}),
    ([*TWO, "dataset.columns.label={buy: paid, like: rated}"], "dataset.columns.label",
     {"buy": "paid", "like": "rated"}),
    ([*TWO, "dataset.columns.label=[click, buy]"], "dataset.columns.label", ["click", "buy"]),
    ([*TWO, "dataset.columns.label=liked"], "dataset.columns.label", "liked"),
]  # fmt: skip
PART = [
    (["model=dien", "model.loss_weights.auxiliary=0"], "model.loss_weights", {"target": 1.0, "auxiliary": 0.0}),
    (["model=dien", "~model.loss_weights.auxiliary"], "model.loss_weights", {"target": 1.0}),
    (["model=dien", "+model.loss_weights={auxiliary:2}"], "model.loss_weights", {"target": 1.0, "auxiliary": 2.0}),
    (["model=dien", "model.loss_weights={target:1}", "+model.loss_weights.auxiliary=3"], "model.loss_weights",
     {"target": 1.0, "auxiliary": 3.0}),
    (["model=wide_deep", "~model.optimizers.wide"], "model.optimizers", {}),
    (["model=wide_deep", "model.optimizers.wide=sgd"], "model.optimizers", {"wide": "sgd"}),
    (["model=wide_deep", "+model.optimizers.deep=sgd"], "model.optimizers", {"wide": "ftrl", "deep": "sgd"}),
    ([*ML, "~dataset.features.user.age"], USER, NO_AGE),
    ([*ML, "dataset.features.user.age=numeric"], USER, {"age": "numeric", **NO_AGE}),
    ([*ML, "dataset.features.user.age=null"], USER, NO_AGE),
    ([*ML, "+dataset.features.user.zip_code=multi"], USER, {"age": "binned", **NO_AGE, "zip_code": "multi"}),
    (["logger=mlflow", "+logger.tags.team=search"], "logger.tags", {"team": "search"}),
]  # fmt: skip
# A group's fixed keys are merged: what is not named keeps its value.
MERGED = [
    (["trainer.ftrl={l1:0.5}"], "trainer.ftrl", {"learning_rate": 0.1, "beta": 2e-3, "l1": 0.5, "l2": 0.0}),
    (["dataset.split={kind:random}"], "dataset.split", {"kind": "random", "ratios": [0.8, 0.1, 0.1], "column": None}),
]


def select(config: Any, key: str) -> Any:
    tree = to_dict(config)
    for name in key.split("."):
        tree = tree[name]
    return tree


@pytest.mark.parametrize(("typed", "key", "value"), [*WHOLE, *PART, *MERGED], ids=lambda value: str(value))
def test_what_is_typed_is_what_the_option_is(typed: list[str], key: str, value: dict[str, Any]) -> None:
    assert select(recexp.load_config(typed), key) == value


@pytest.mark.parametrize(("typed", "key", "value"), [WHOLE[n] for n in (0, 3, 6, 11)], ids=lambda value: str(value))
@pytest.mark.parametrize("place", ["experiment", "primary"])
def test_a_mapping_in_a_file_of_ones_own_replaces_too(
    place: str, typed: list[str], key: str, value: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    *groups, mapping = typed
    tree: Any = yaml.safe_load(mapping.partition("=")[2].replace(":", ": "))
    for part in reversed(key.split(".")):
        tree = {part: tree}
    if place == "experiment":
        (tmp_path / "experiment").mkdir()
        (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\n" + yaml.safe_dump(tree))
        assert select(recexp.load_config([*groups, "+experiment=mine"], str(tmp_path)), key) == value
    else:
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"defaults": ["config", "_self_"], **tree}))
        assert run(["--config-dir", str(tmp_path), "-cn", "mine", *groups, "--cfg", "job", "-p", key]) == 0
        assert (yaml.safe_load(capsys.readouterr().out) or {}) == value


def test_the_last_of_several_files_and_overrides_counts(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    for name, below, weights in (("a", "/model", "{target: 2}"), ("b", "a", "{target: 3, auxiliary: 4}")):
        first = f"override {below}: dien" if name == "a" else below
        (tmp_path / "experiment" / f"{name}.yaml").write_text(
            f"# @package _global_\ndefaults:\n  - {first}\nmodel:\n  loss_weights: {weights}\n"
        )

    def weights(*typed: str) -> dict[str, float]:
        return recexp.load_config(list(typed), str(tmp_path)).model.loss_weights

    assert weights("+experiment=a") == {"target": 2}
    assert weights("+experiment=b") == {"target": 3, "auxiliary": 4}
    assert weights("+experiment=b", "model.loss_weights={target:5}") == {"target": 5}
    assert weights("model.loss_weights={target:5}", "model.loss_weights.target=6", "+experiment=b") == {"target": 6}


def test_labels_that_a_file_names_are_replaced_by_a_later_file_and_by_what_is_typed(tmp_path: Path) -> None:
    for group in ("dataset", "experiment"):
        (tmp_path / group).mkdir()
    shop = "defaults: [csv, _self_]\npath: a\ncolumns: {label: {like: rating>=4, finish: seen}}\n"
    (tmp_path / "dataset/shop.yaml").write_text(shop)
    mine = "# @package _global_\ndataset: {columns: {label: {buy: paid, like: rated}}}\n"
    (tmp_path / "experiment/mine.yaml").write_text(mine)

    def label(*typed: str) -> Any:
        return recexp.load_config(["model=mmoe", "dataset=shop", *typed], str(tmp_path)).dataset.columns.label

    assert label() == {"like": "rating>=4", "finish": "seen"}
    assert label("+experiment=mine") == {"buy": "paid", "like": "rated"}
    assert label("dataset.columns.label={buy: 'rating>=5'}") == {"buy": "rating>=5"}


def test_a_sweep_replaces_in_each_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Pool, "run", lambda *planned: None)
    typed = ["-m", "+experiment=tiny", "trainer.threads=1", "model=dien", "run.dir=sweep",
             "model.loss_weights={target:1.0},{target:1.0,auxiliary:0.1}", "dataset.features.user={}"]  # fmt: skip
    assert run(typed) == 1  # as none has run
    configs = [read_config(path.parent) for path in sorted(Path("sweep").glob("*/config.yaml"))]
    assert [config["model"]["loss_weights"] for config in configs] == [
        {"target": 1.0}, {"target": 1.0, "auxiliary": 0.1},
    ]  # fmt: skip
    assert all(config["dataset"]["features"]["user"] == {} for config in configs)
    assert "model.loss_weights={target:1.0}" in yaml.safe_load(
        next(Path("sweep").glob("0-*/overrides.yaml")).read_text()
    )


def test_a_search_space_may_choose_between_mappings_and_is_itself_one() -> None:
    pytest.importorskip("optuna")
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from hydra_plugins.recexp_sweeper import _space

    choice = "model.loss_weights=choice({target:1.0},{target:1.0,auxiliary:0.1})"
    _, space = _space.split(OverridesParser.create().parse_overrides([choice]))
    first, second = (_space.words(corner) for corner in _space.corners(space))
    assert recexp.load_config(["model=dien", *first]).model.loss_weights == {"target": 1.0}
    assert recexp.load_config(["model=dien", *second]).model.loss_weights == {"target": 1.0, "auxiliary": 0.1}
    raw, _ = compose(["+sweep=fm", "hydra.sweeper.params={seed:'1,2'}"], hydra_node=True)
    assert raw.hydra.sweeper.params == {"seed": "1,2"}


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (
            "+model.loss_weights={target:1.0}",
            r"write model\.loss_weights=\{target:1\.0\} for the whole mapping, or .*NAME",
        ),
        (
            "+dataset.features.user={}",
            r"adds to the entries that are there \(segment, age\); .*features\.user=\{\} for",
        ),
        ("+dataset.features={item: {price: numeric}}", r"write dataset\.features\.item=\{\.\.\.\} for the whole"),
        ("dataset.features={}", r"changes nothing, as its keys are fixed; write dataset\.features\.user=\{\} dataset"),
        ("~model.loss_weights", r"model\.loss_weights: has no value"),
    ],
)
def test_a_mapping_that_would_change_nothing_is_refused_with_what_would(typed: str, line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        recexp.load_config([typed])


def test_a_file_without_features_names_each_table(tmp_path: Path) -> None:
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset/bare.yaml").write_text("defaults: [synthetic, _self_]\nfeatures: {}\n")
    with pytest.raises(ConfigError, match=r"dataset/bare\.yaml: dataset\.features = \{\} changes nothing"):
        recexp.load_config(["dataset=bare"], str(tmp_path))


def test_a_mapping_of_a_readers_own_replaces_too(tmp_path: Path) -> None:
    (tmp_path / "reader.py").write_text(
        "from dataclasses import dataclass\nfrom recexp.dataset.reader.synthetic import Synthetic\n"
        "from recexp.registry import register\n\n\n@register('shops', kind='reader')\nclass Shops(Synthetic):\n"
        "    @dataclass(kw_only=True)\n    class Config(Synthetic.Config):\n        shops: dict[str, int]\n"
    )
    (tmp_path / "dataset").mkdir()
    shops = "defaults: [synthetic, _self_]\nname: shops\nreader: shops\nshops: {north: 1, south: 2}\n"
    (tmp_path / "dataset/shops.yaml").write_text(shops)
    typed = ["dataset=shops", f"plugins=[{tmp_path / 'reader.py'}]", "dataset.shops={west:3}"]
    assert recexp.load_config(typed, str(tmp_path)).dataset.shops == {"west": 3}


def test_a_loss_that_is_not_named_is_off_and_needs_no_labels() -> None:
    typed = ["model=dien", "model.history_labels=false", "dataset.label=implicit"]
    with pytest.raises(ConfigError, match=r"model\.auxiliary = labels"):
        recexp.load_config([*typed, "model.loss_weights.auxiliary=0.5"])
    assert recexp.load_config([*typed, "model.loss_weights={target:1.0}"]).model.loss_weights == {"target": 1.0}


def test_a_name_that_no_loss_has_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.loss_weights\.auxilary: unknown key\. Did you mean 'auxiliary'"):
        recexp.load_config(["model=dien", "model.loss_weights={target:1.0,auxilary:1.0}"])


def test_hydra_of_other_programs_merges_as_ever() -> None:
    from hydra._internal import hydra
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    apply = ConfigLoaderImpl._apply_overrides_to_config
    compose(["model=dien", "model.loss_weights={target:1.0}"])
    assert ConfigLoaderImpl._apply_overrides_to_config is apply
    assert hydra.ConfigLoaderImpl is ConfigLoaderImpl


def test_every_option_typed_as_a_dict_is_replaced_and_no_other_group() -> None:
    files = [
        path for group in ("model", "dataset", "trainer", "logger") for path in (conf_folder() / group).glob("*.yaml")
    ]
    from recexp.describe import schema

    def typed(kind: type, prefix: str) -> dict[str, bool]:
        """Whether an option that holds keys is a dict, by dotted key."""
        found = {}
        for item in fields(kind):
            key = f"{prefix}.{item.name}"
            if isinstance(item.type, type) and is_dataclass(item.type):
                found |= {key: False, **typed(item.type, key)}
            elif get_origin(item.type) is dict:
                found[key] = True
        return found

    options: dict[str, bool] = {}
    for path in files:
        options |= typed(schema(path.parent.name, yaml.safe_load(path.read_text())), path.parent.name)
    assert options == {key: bool(MAPPING.fullmatch(key)) for key in options}
    assert set(registry.names("model"))  # all files were looked at
    assert dict(mappings("dataset.features", {"user": {"a": "b"}, "derived": {"c": {}}})) == {
        "dataset.features.user": {"a": "b"}
    }
