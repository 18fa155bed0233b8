"""The verb inspect: from one's own file to a run in two commands."""

import html
import re
from pathlib import Path

import pytest

from recexp.cli import run

ROWS = "".join(f"{n % 9}\t{n * 5 % 7}\t{n % 2}\t{1500000000 + n}\n" for n in range(120))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("log.tsv").write_text(ROWS)


def test_what_is_written_is_named_and_trains(capsys):
    assert run(["inspect", "log.tsv", "--write", "mine"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "log.tsv: CSV, separator '\\t', no header; 120 rows"
    assert told[-2:] == ["conf/dataset/mine.yaml", "recexp --config-dir conf dataset=mine model=din"]
    typed = ["--config-dir", "conf", "dataset=mine", "model=fm", "trainer.epochs=1", "trainer.threads=1"]
    assert run([*typed, "dataset.cache_dir=null", "run.dir=run"]) == 0


def test_the_page_holds_what_is_printed_and_pictures(capsys):
    assert run(["inspect", "log.tsv", "--html", "page.html"]) == 0
    *told, empty, last = capsys.readouterr().out.splitlines()
    text = Path("page.html").read_text()
    assert (empty, last) == ("", "page.html")
    assert html.escape("\n".join(told)) in text
    assert "<title>1: 14 (11.7%)</title>" in text and "unseen under each split" in text
    assert not re.search(r"https?:|//\w|@import|url\(|<script", text)
    assert run(["inspect", "log.tsv", "--html", "."]) == 2
    assert capsys.readouterr().err == "recexp: --html .: is a directory.\n"


def test_a_table_is_drawn_too():
    Path("table.csv").write_text("label,place\n" + "".join(f"{n % 2},{'' if n % 3 else 'home'}\n" for n in range(60)))
    assert run(["inspect", "table.csv", "--html", "page.html"]) == 0
    text = Path("page.html").read_text()
    assert "rows by label" in text and "missing values" in text and "66.7%" in text


@pytest.mark.parametrize(
    ("first", "label"), [("click", "[click, buy]"), ("rating", '{rating: "rating>=3", click: click, buy: buy}')]
)
def test_labels_beside_the_one_taken_are_told_with_what_trains_all(first, label, capsys):
    names = "user,item,rating,click,buy,timestamp".replace("rating," if first == "click" else ",,", "")
    rows = [
        {
            "user": n % 9,
            "item": n * 5 % 7,
            "rating": n % 5 + 1,
            "click": n % 2,
            "buy": n % 4 == 1,
            "timestamp": n + 10**9,
        }
        for n in range(120)
    ]
    lines = [",".join(str(int(row[name])) for name in names.split(",")) for row in rows]
    Path("log.csv").write_text("\n".join([names, *lines, ""]))
    assert run(["inspect", "log.csv"]) == 0
    typed = f"dataset.columns.label={label}"
    assert f"all with '{typed}'\n" in capsys.readouterr().out
    common = ["model=esmm" if first == "click" else "model=mmoe", "dataset=csv", "dataset.path=log.csv", "run.dir=run"]
    assert run([*common, "dataset.cache_dir=null", "trainer.epochs=1", "trainer.threads=1", typed]) == 0


def test_inspecting_alone_writes_nothing(capsys):
    assert run(["inspect", "log.tsv"]) == 0
    assert [path.name for path in Path().iterdir()] == ["log.tsv"]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("inspect", "FILE"),
        ("inspect nope.csv", "nope.csv: no such file"),
        ("inspect log.tsv --write csv", "--write csv: is the name of one of recexp's own datasets"),
        ("inspect log.tsv --write a/b", "--write a/b: must be letters"),
        ("inspect log.tsv --config-dir taken --write mine", "taken/dataset/mine.yaml: is there already"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(typed, expected, capsys):
    Path("taken/dataset").mkdir(parents=True)
    Path("taken/dataset/mine.yaml").write_text("name: mine\n")
    assert run(typed.split()) == 2
    told = capsys.readouterr().err
    assert expected in told and told.count("\n") == 1
    assert not Path("conf").exists()
