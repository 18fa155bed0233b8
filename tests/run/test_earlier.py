"""Runs of versions that had fewer options: each use of them goes on, with the defaults told in one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml

import recexp
from recexp import registry
from recexp.cli import run
from recexp.config import Config
from recexp.groups import options
from recexp.run import directory
from recexp.run.earlier import FORMER, completed
from recexp.storage import digest
from recexp.tree import flat, to_dict

TYPED = ["dataset=csv", "dataset.path=log.csv", "dataset.label=implicit", "dataset.cache_dir=null", "device=cpu",
         "trainer.threads=1", "trainer.epochs=2", "model=gru4rec", "trainer=next_item", "run.dir=run"]  # fmt: skip
LACKING = ("model.item_dropout", "dataset.n_buckets", "dataset.features.derived", "trainer.ranking.valid_users",
           "run.fail_fast", "objective")  # fmt: skip


def without(tree: dict, *keys: str) -> dict:
    """A configuration that lacks some dotted keys."""
    for key in keys:
        *parents, last = key.split(".")
        node = tree
        for parent in parents:
            node = node[parent]
        del node[last]
    return tree


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        rows = [(f"u{n % 30}", f"i{(n % 30 + n // 30) % 9}", n) for n in range(240)]
        pd.DataFrame(rows, columns=["user", "item", "timestamp"]).to_csv("log.csv", index=False)
        assert run(TYPED) == 0
    return folder


@pytest.fixture
def old(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run as a version without LACKING would have left it, in the current directory."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    file = Path("run/config.yaml")
    file.write_text(yaml.safe_dump(without(yaml.safe_load(file.read_text()), *LACKING)))
    return Path("run")


def test_a_run_of_an_earlier_version_is_used_as_any(old: Path, capsys: pytest.CaptureFixture) -> None:
    Path("rows.csv").write_text("user,item,timestamp\nu1,i3,900\n")
    assert run(["evaluate", "run"]) == 0
    told = capsys.readouterr()
    assert "the same as in metrics.json" in told.out
    (line,) = told.err.splitlines()
    assert "run/config.yaml: of an earlier version of recexp; taken by default: " in line
    for taken in ("model.item_dropout=0.0", "dataset.n_buckets=100000", "dataset.features.derived.last_items=0",
                  "trainer.ranking.valid_users=null", "run.fail_fast=false", "objective=null"):  # fmt: skip
        assert taken in line
    assert run(["predict", "run", "rows.csv", "-o", "scores.csv"]) == 0
    assert run(["recommend", "run", "-k", "2", "-o", "top.csv"]) == 0
    assert run(["report", "."]) == run(["show", "run"]) == run(["compare", "run", "run"]) == 0
    assert run(["export", "run", "-o", "bundle"]) == 0
    assert run(["rerun", "run", "trainer.epochs=1", "run.dir=again"]) == 0
    assert yaml.safe_load(Path("again/config.yaml").read_text())["model"]["item_dropout"] == 0.0


def test_an_option_whose_default_is_another_now_is_what_earlier_versions_did() -> None:
    for file, former in FORMER.items():
        tree = to_dict(recexp.load_config([file.removesuffix(".yaml").replace("/", "=")]))
        group = file.split("/")[0]
        assert all(tree[group][name] != value for name, value in former.items())
        _, lacking = completed(without(tree, *(f"{group}.{name}" for name in former)))
        assert lacking == {f"{group}.{name}": value for name, value in former.items()}


def test_it_goes_on_from_its_checkpoints_to_the_bit(
    old: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    whole = recexp.train(recexp.load_config([*TYPED[:-1], "trainer.epochs=4", "run.dir=whole"]))

    def of_then(config: Config, fingerprint: str, path: Path) -> str:
        """To which run the checkpoints of that version belong."""
        known = {key: value for key, value in flat(to_dict(config)) if not key.startswith(LACKING)}
        left_out = ("run.", "logger.", "device", "dataset.path", "dataset.user_path", "dataset.item_path",
                    "dataset.cache_dir", "trainer.epochs", "trainer.patience")  # fmt: skip
        known = {key: value for key, value in known.items() if not key.startswith(left_out)}
        return digest(repr([sorted(known.items()), fingerprint]).encode())

    shutil.rmtree("run")
    with monkeypatch.context() as patch:
        patch.setattr(directory, "identity", of_then)
        assert run(TYPED) == 0
    file = Path("run/config.yaml")
    file.write_text(yaml.safe_dump(without(yaml.safe_load(file.read_text()), *LACKING)))
    lines = Path("run/metrics.jsonl").read_text().splitlines()
    capsys.readouterr()
    assert run(["resume", "run", "trainer.epochs=4"]) == 0
    assert capsys.readouterr().err.count("of an earlier version of recexp") == 1
    assert Path("run/metrics.jsonl").read_text().splitlines()[:2] == lines
    assert json.loads(Path("run/metrics.json").read_text())["test"] == whole["test"]


def test_a_run_of_a_newer_version_is_refused_in_one_line(old: Path, capsys: pytest.CaptureFixture) -> None:
    file = Path("run/config.yaml")
    tree = yaml.safe_load(file.read_text())
    tree["model"]["n_worlds"] = 3
    file.write_text(yaml.safe_dump(tree))
    assert run(["evaluate", "run"]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert "run/config.yaml: model.n_worlds: unknown key" in told and told.endswith("newer version of recexp.")


@pytest.mark.parametrize("model", registry.names("model"))
def test_a_whole_configuration_lacks_nothing(model: str, compose: Callable[..., Config]) -> None:
    tree = to_dict(compose(f"model={model}"))
    assert completed(tree) == (tree, {})


@pytest.mark.parametrize("dataset", options("dataset"))
def test_what_any_dataset_lacks_is_filled_from_its_own_file(dataset: str) -> None:
    path = [] if dataset == "synthetic" else ["dataset.path=somewhere"]
    tree = to_dict(recexp.load_config(["model=fm", f"dataset={dataset}", *path]))
    assert completed(tree) == (tree, {})
    default = tree["dataset"]["split"]["kind"]
    whole, lacking = completed(without(tree, "dataset.split.kind", "dataset.min_count"))
    assert lacking == {"dataset.split.kind": default, "dataset.min_count": 1}
    assert whole["dataset"]["name"] == dataset


def test_data_of_a_users_own_name_take_what_their_reader_has(compose: Callable[..., Config]) -> None:
    tree = to_dict(recexp.load_config(["model=fm", "dataset=csv", "dataset.path=x"]))
    tree["dataset"] |= {"name": "ml-100k"}  # of another reader
    tree["dataset"]["features"]["item"] = {}
    assert completed(without(tree, "dataset.encoding"))[1] == {"dataset.encoding": "utf-8"}
