"""What `recexp cache` prints and clears."""

from pathlib import Path

import pytest
import yaml

from recexp.cli import run
from recexp.dataset import cache
from recexp.groups import conf_folder
from recexp.storage import write_json
from recexp.verb.cache import FOLDER


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A cache directory of two datasets, and of one that an earlier version prepared."""
    csv = {"name": "csv", "reader": "csv", "path": "/data/log.csv", "columns": {"user": "uid", "timestamp": None}}
    for key, source in {
        "aaaaaa1": csv,
        "bbbbbb2": {"name": "synthetic", "reader": "synthetic"},
        "cccccc3": None,
    }.items():
        (tmp_path / "prepared" / key).mkdir(parents=True)
        about = {"facts": {"rows": {"train": 1200, "test": 34}}} | ({"source": source} if source else {})
        write_json(tmp_path / "prepared" / key / "dataset.json", about)
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "prepared").iterdir())


def test_the_list_says_of_each_what_it_is(kept: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(["cache", "--dir", str(kept)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == str(kept) and told[-1].startswith("3 data sets, ")
    lines = {line.split()[-1] if "log.csv" not in line else "csv": line for line in told[2:-1]}
    assert "1,234" in lines["csv"] and "aaaaaa1" in lines["csv"] and lines["csv"].endswith("/data/log.csv; user uid")
    assert lines["synthetic"].startswith("synthetic") and lines["version"].startswith("-")


@pytest.mark.parametrize(
    ("typed", "left"),
    [([], []), (["csv"], ["bbbbbb2", "cccccc3"]), (["cccccc", "synthetic"], ["aaaaaa1"])],
)
def test_all_or_what_is_named_is_cleared(typed: list[str], left: list[str], kept: Path) -> None:
    assert run(["cache", "--clear", *typed, "--dir", str(kept)]) == 0
    assert names(kept) == left


@pytest.mark.parametrize("typed", ["cv", "a", "nothing", ""])
def test_a_name_of_nothing_clears_nothing(typed: str, kept: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(["cache", "--clear", "csv", typed, "--dir", str(kept)]) == 2
    assert f"cache: {typed}: nothing is kept by this name." in capsys.readouterr().err
    assert len(names(kept)) == 3


def test_what_is_being_made_stays_and_is_told_of(kept: Path, capsys: pytest.CaptureFixture) -> None:
    with cache.one_at_a_time(str(kept), "aaaaaa1"):
        assert run(["cache", "--clear", "--dir", str(kept)]) == 1
        assert names(kept) == [".lock-aaaaaa1", "aaaaaa1"]
    assert "aaaaaa1: stays" in capsys.readouterr().out


def test_the_default_is_the_directory_of_all_datasets() -> None:
    files = (conf_folder() / "dataset").glob("*.yaml")
    assert {yaml.safe_load(path.read_text("utf-8"))["cache_dir"] for path in files} == {FOLDER}
